"""X X^T of layers' inputs, against the unfolded inputs themselves."""

import numpy as np
import pytest
import torch

import models
from pruning.calibration import grams
from pruning.calibration.hooks import columns
from pruning.criteria import activations
from tests.layer_inputs import generator, layer_and_columns
from tests.networks import trained_like


def test_grams_are_products_of_the_unfolded_input() -> None:
    conv, batches, x = layer_and_columns()
    (_, gram), *_ = grams.grams(conv, ["weight"], batches, generator()).values()
    np.testing.assert_allclose(gram[0], x @ x.T)


def test_drawn_positions_estimate_the_sum_over_all(monkeypatch: pytest.MonkeyPatch) -> None:
    conv, batches, x = layer_and_columns()
    monkeypatch.setattr(grams, "POSITIONS", 4)
    rng = generator()
    found = [grams.grams(conv, ["weight"], batches, rng)["weight"][1][0] for _ in range(400)]
    mean = torch.stack(found).mean(0).numpy()
    np.testing.assert_allclose(mean, x @ x.T, rtol=0.2)
    assert not torch.equal(found[0], found[1])


def test_two_inputs_give_the_product_of_their_columns() -> None:
    conv, batches, x = layer_and_columns()
    (images, _), *_ = batches
    total = torch.zeros(1, 27, 27, dtype=torch.float64)
    seen = columns(conv, images)
    grams.add_products(total, seen, 3 * seen, 1.0)
    both = x[:, : 8 * 16]
    np.testing.assert_allclose(total[0], 3 * both @ both.T)


def test_diagonal_is_the_norm_that_wanda_multiplies_with() -> None:
    model = trained_like(models.build("resnet8", 3))
    batches = [(torch.randn(3, 3, 4, 4, dtype=torch.float64), torch.tensor([0, 1, 2]))]
    norms = activations.input_norms(model, batches)
    for name, (_, gram) in grams.grams(model, list(norms), batches, generator()).items():
        expected = gram.diagonal(dim1=1, dim2=2)[0].sqrt().expand(len(norms[name]), -1)
        torch.testing.assert_close(norms[name].flatten(1), expected)
