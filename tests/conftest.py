"""What several tests share: one cache for the session, so that one small baseline is trained once."""

import os

import pytest
import torch

torch.set_num_threads(1)
TINY = [
    "baseline.epochs=3",
    "baseline.train_samples=400",
    "space.finetune_epochs=1",
    "space.calibration_samples=64",
]


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory):
    """The folder of everything kept between studies, in a place of the tests' own."""
    folder = tmp_path_factory.mktemp("cache")
    os.environ["STUDY_CACHE"] = str(folder)
    return folder


@pytest.fixture(scope="session")
def shared(cache):
    """A small baseline on the digits, with its data."""
    from study import baseline as baselines
    from study.config import read_study
    from study.trial import Shared

    section = read_study("quickstart", TINY).baseline
    data = baselines.read_data(section, None)
    baseline = baselines.obtain(section, data, lambda: baselines.make(section, data, torch.device("cpu")))
    return Shared(baseline, data, section)
