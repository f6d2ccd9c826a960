"""Other programs compute from the files what the networks compute, whatever the batch."""

import copy
import json
from typing import Any

import numpy as np
import pytest
import torch

import pruning
from models.formats import FORMATS

EXAMPLE = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def networks(shared: Any) -> Any:
    """One network with masked weights, one with channels cut."""
    dense = shared.baseline.network(torch.device("cpu")).to(memory_format=torch.contiguous_format).eval()
    half = {"sparsity": 0.5, "criterion": "magnitude_l2"}
    return {
        "masked": pruning.prune(copy.deepcopy(dense), EXAMPLE, granularity="weight", **half)[0],
        "cut": pruning.prune(dense, EXAMPLE, granularity="channel", **half)[0].eval(),
    }


@pytest.fixture(scope="module")
def files(networks: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Both networks in every format: (format, network) -> path."""
    paths = {}
    for name, form in FORMATS.items():
        for kind, network in networks.items():
            paths[name, kind] = tmp_path_factory.mktemp("files") / f"net{form.suffix}"
            form.write(network, EXAMPLE, {"mean": "[0.5]"}, paths[name, kind])
    return paths


@pytest.mark.parametrize("batch", [1, 2, 7])
@pytest.mark.parametrize("kind", ["masked", "cut"])
def test_other_programs_compute_the_network_for_any_batch(networks: Any, files: Any, kind: Any, batch: Any) -> None:
    import onnxruntime

    images = torch.randn(batch, 1, 8, 8, generator=torch.Generator().manual_seed(batch))
    session = onnxruntime.InferenceSession(files["onnx", kind], providers=["CPUExecutionProvider"])
    program = torch.export.load(files["exported_program", kind]).module()
    with torch.inference_mode():
        expected = networks[kind](images)
        torch.testing.assert_close(program(images), expected)
    (logits,) = session.run(["logits"], {"images": images.numpy()})
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", FORMATS)
def test_opened_again_a_file_takes_and_gives_tensors(networks: Any, files: Any, name: Any) -> None:
    with torch.inference_mode():
        found = FORMATS[name].open(files[name, "cut"])(EXAMPLE)
        torch.testing.assert_close(found, networks["cut"](EXAMPLE), rtol=1e-4, atol=1e-5)


def test_a_cut_network_is_one_smaller_file_and_zeros_shrink_nothing(files: Any) -> None:
    masked, cut = (files["onnx", kind] for kind in ("masked", "cut"))
    assert cut.stat().st_size < 0.75 * masked.stat().st_size
    assert list(masked.parent.iterdir()) == [masked]


def test_files_carry_what_they_are_told(files: Any) -> None:
    import onnx

    found = {entry.key: entry.value for entry in onnx.load(files["onnx", "cut"]).metadata_props}
    extra = {"mean": ""}
    torch.export.load(files["exported_program", "cut"], extra_files=extra)
    assert json.loads(found["mean"]) == json.loads(extra["mean"]) == [0.5]
