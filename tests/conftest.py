"""What several tests share: one cache for the session, so that one small baseline is trained once."""

import os
from collections.abc import Iterator
from typing import Any

import pytest
import torch

torch.set_num_threads(1)
# Every machine runs the same tests: in fp32, and those that ask for `precision` in bf16 too, emulated if need be.
os.environ["STUDY_PRECISION"] = "fp32"
TINY = [
    "baseline.epochs=3",
    "baseline.train_samples=400",
    "space.finetune_epochs=1",
    "space.calibration_samples=64",
]


NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA GPU here")


@pytest.fixture(scope="session", params=["cpu", pytest.param("cuda", marks=NO_GPU)])
def device(request: pytest.FixtureRequest) -> torch.device:
    """Runs a test on the CPU, and where there is a GPU on that too."""
    return torch.device(request.param)


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The folder of everything kept between studies, in a place of the tests' own."""
    folder = tmp_path_factory.mktemp("cache")
    os.environ["STUDY_CACHE"] = str(folder)
    return folder


@pytest.fixture(scope="session", params=["fp32", "bf16"])
def precision(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Runs a test twice: in fp32, as on an older processor, and in bf16, as on one that multiplies it in hardware."""
    os.environ["STUDY_PRECISION"] = request.param
    yield request.param
    os.environ["STUDY_PRECISION"] = "fp32"


def small_baseline() -> Any:
    """A small baseline on the digits, with its data."""
    from study.baseline import disk_cache, training
    from study.config import read_study
    from study.trials.context import TrialContext

    section = read_study("quickstart", TINY).baseline
    data = training.read_data(section, None)
    baseline = disk_cache.obtain(section, data, lambda: training.make(section, data, torch.device("cpu")))
    return TrialContext(baseline, data, section)


@pytest.fixture(scope="session")
def shared(cache: Any) -> Any:
    """A small baseline on the digits, with its data, trained in fp32."""
    return small_baseline()


@pytest.fixture(scope="session")
def shared_in_both(cache: Any, precision: Any) -> Any:
    """A small baseline on the digits, with its data, trained in fp32 and in bf16: a test runs with each."""
    return small_baseline()
