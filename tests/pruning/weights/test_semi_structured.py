"""2:4 on sparse tensor cores: supported layers, on any machine; results, on a GPU with sparse tensor cores."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.sparse import SparseSemiStructuredTensor

import pruning
from pruning.weights.semi_structured import available, refusals, semi_structured


def pruned(dtype: Any = torch.float16) -> Any:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 10))
    pruning.prune(model, torch.zeros(1, 128), granularity="2:4")
    return model.to(dtype).eval()


def test_linear_layers_in_half_precision_and_whole_tiles_are_served() -> None:
    model = pruned()
    assert refusals(model) == {"0": None, "2": None, "4": "10 x 96 is no multiple of 32 x 64"}
    assert refusals(pruned(torch.float32))["0"] == "torch.float32 is not half precision"
    with torch.no_grad():
        model[0].weight[3, 4:7] = 1
    assert refusals(model)["0"] == "its weights are not 2:4"
    assert refusals(nn.Sequential(nn.Conv2d(64, 64, 1)).half()) == {"0": "Conv2d is no matrix"}


def test_on_sparse_tensor_cores_it_computes_what_its_dense_form_does_and_elsewhere_there_is_one_message(
    device: torch.device,
) -> None:
    model = pruned().to(device)
    if device.type == "cpu" or not available():
        with pytest.raises(ValueError, match="need a CUDA GPU of compute capability 8.0"):
            semi_structured(model)
        return
    fast = semi_structured(model)
    assert [isinstance(fast[i].weight, SparseSemiStructuredTensor) for i in (0, 2, 4)] == [True, True, False]
    for batch in (1, 8, 100):
        inputs = torch.randn(batch, 128, dtype=torch.float16, device=device)
        with torch.inference_mode():
            assert torch.allclose(fast(inputs), model(inputs), rtol=1e-2, atol=1e-2)
    with pytest.raises(ValueError, match="no layer can have"):
        semi_structured(model[4:])
