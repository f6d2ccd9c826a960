"""A vision transformer, cut, is trained on, saved, loaded and exported."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from models import load, save
from models.formats import FORMATS
from pruning.channels.graph import dependency_graph
from pruning.channels.plans import kept
from pruning.channels.surgery import apply_plan, carry_state
from pruning.measure.cost import layer_costs
from tests.networks import example_plan_of, small_swin, small_vit

IMAGES = torch.rand(2, 3, 12, 12)
MLP = "encoder.layers.encoder_layer_0.mlp.0"


def cut() -> Any:
    torch.manual_seed(0)
    model = small_vit(10, (3, 12, 12))
    return model, *example_plan_of(model, IMAGES, 0.2)


def test_hidden_units_are_cut_and_the_stream_and_its_heads_are_not() -> None:
    model, graph, plan = cut()
    hidden = [f"encoder.layers.encoder_layer_{i}.mlp.0" for i in (0, 1)]
    assert [(group.name, group.size) for group in graph.groups] == [(name, 32) for name in hidden]
    assert [g.name for g in dependency_graph(small_swin(10), torch.rand(1, 3, 16, 16)).groups] == [
        f"features.{stage}.{block}.mlp.0" for stage in (1, 3) for block in (0, 1)
    ]
    rows = {row["layer"]: row for row in layer_costs(apply_plan(model, plan), (3, 12, 12))}
    assert rows["encoder.layers.encoder_layer_0.self_attention.in_proj_weight"]["macs"] == 10 * 24 * 8
    assert 0 < rows[MLP]["out_channels"] < 32


def test_it_is_trained_on_saved_and_loaded(tmp_path: Path) -> None:
    model, _, plan = cut()
    small = apply_plan(model, plan).train()
    old, new = (torch.optim.AdamW(net.parameters(), lr=1e-3) for net in (model, small))
    F.cross_entropy(model(IMAGES), torch.tensor([1, 2])).backward()
    old.step()
    carry_state(old, model, new, small, plan)
    dense, left = model.get_submodule(MLP), small.get_submodule(MLP)
    rows = kept(plan["layers"][MLP]["out"])
    assert torch.equal(new.state[left.weight]["exp_avg"], old.state[dense.weight]["exp_avg"][rows])
    attention = "encoder.layers.encoder_layer_0.self_attention.in_proj_weight"
    carried = [state.state[net.get_parameter(attention)]["exp_avg_sq"] for state, net in ((old, model), (new, small))]
    assert torch.equal(*carried)
    F.cross_entropy(small(IMAGES), torch.tensor([1, 2])).backward()
    new.step()
    card = {"model": "tests.networks:small_vit", "num_classes": 10, "in_shape": (3, 12, 12)}
    card |= {"class_names": list("abcdefghij"), "mean": [0.5] * 3, "std": [0.2] * 3}
    save(tmp_path, small, card, plan)
    loaded, _ = load(tmp_path)
    with torch.no_grad():
        assert torch.equal(loaded(IMAGES), small.eval()(IMAGES))


@pytest.mark.parametrize("name", FORMATS)
def test_it_is_exported(name: Any, tmp_path: Path) -> None:
    model, _, plan = cut()
    small = apply_plan(model, plan).eval()
    path = tmp_path / f"network{FORMATS[name].suffix}"
    FORMATS[name].write(small, IMAGES, {}, path)
    with torch.no_grad():
        torch.testing.assert_close(FORMATS[name].open(path)(IMAGES[:1]), small(IMAGES[:1]), rtol=1e-4, atol=1e-5)
