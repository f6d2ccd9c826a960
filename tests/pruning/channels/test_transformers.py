"""A vision transformer, cut, is trained on, saved, loaded and exported."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from models import load, save
from models.formats import FORMATS
from pruning.channels.graph import dependency_graph, plan_without
from pruning.channels.plans import kept
from pruning.channels.surgery import apply_plan, carry_state
from pruning.criteria.registry import CRITERIA
from pruning.measure.cost import layer_costs
from tests.cutting import begin, score
from tests.networks import example_plan_of, small_swin, small_vit, trained_like
from tests.pruning.channels.test_surgery import check_cut

IMAGES = torch.rand(2, 3, 12, 12)
MLP = "encoder.layers.encoder_layer_0.mlp.0"


def cut() -> Any:
    torch.manual_seed(0)
    model = small_vit(10, (3, 12, 12))
    return model, *example_plan_of(model, IMAGES, 0.5)


def test_hidden_units_and_heads_are_cut_and_the_stream_is_not() -> None:
    model, graph, plan = cut()
    hidden = [f"encoder.layers.encoder_layer_{i}.mlp.0" for i in (0, 1)]
    found = {group.name: (group.size, group.width) for group in graph.groups}
    heads = [name.replace("mlp.0", "self_attention") for name in hidden]
    assert found == dict.fromkeys(hidden, (32, 1)) | dict.fromkeys(heads, (2, 12))
    assert [g.name for g in dependency_graph(small_swin(10), torch.rand(1, 3, 16, 16)).groups] == [
        f"features.{stage}.{block}.mlp.0" for stage in (1, 3) for block in (0, 1)
    ]
    rows = {row["layer"]: row for row in layer_costs(apply_plan(model, plan), (3, 12, 12))}
    assert [rows[f"{name}.in_proj_weight"]["macs"] for name in heads] == [10 * 12 * 8] * 2
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
    attention = "encoder.layers.encoder_layer_0.self_attention"
    states = (
        old.state[model.get_parameter(f"{attention}.in_proj_weight")],
        new.state[small.get_parameter(f"{attention}.in_proj_weight")],
    )
    rows = kept(plan["layers"][attention]["out"])
    assert len(rows) == 12
    assert torch.equal(states[0]["exp_avg_sq"][rows], states[1]["exp_avg_sq"])
    F.cross_entropy(small(IMAGES), torch.tensor([1, 2])).backward()
    new.step()
    card = {"model": "tests.networks:small_vit", "num_classes": 10, "in_shape": (3, 12, 12)}
    card |= {"class_names": list("abcdefghij"), "mean": [0.5] * 3, "std": [0.2] * 3}
    save(tmp_path, small, card, plan)
    loaded, _ = load(tmp_path)
    with torch.no_grad():
        assert torch.equal(loaded(IMAGES), small.eval()(IMAGES))


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMATS)
def test_it_is_exported(name: Any, tmp_path: Path) -> None:
    model, _, plan = cut()
    small = apply_plan(model, plan).eval()
    path = tmp_path / f"network{FORMATS[name].suffix}"
    FORMATS[name].write(small, IMAGES, {}, path)
    with torch.no_grad():
        torch.testing.assert_close(FORMATS[name].open(path)(IMAGES[:1]), small(IMAGES[:1]), rtol=1e-4, atol=1e-5)


class Tokens(nn.Module):
    """Pixels as tokens, in attention among themselves and then from one branch to another."""

    def __init__(self, batch_first: bool, **settings: Any) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 12, 1), nn.Conv2d(3, 12, 1)
        self.one = nn.MultiheadAttention(12, 3, batch_first=batch_first, bias=False)
        self.two = nn.MultiheadAttention(12, 2, batch_first=batch_first, **settings)
        self.fc, self.batch_first = nn.Linear(12, 2), batch_first

    def forward(self, x: Any) -> Any:
        order = (0, 2, 1) if self.batch_first else (2, 0, 1)
        a, b = (F.relu(conv(x)).flatten(2).permute(*order) for conv in (self.a, self.b))
        y, _ = self.one(a, a, a)
        y, _ = self.two(y, key=b, value=a, need_weights=False)
        return self.fc(y.permute(1, 2, 0).mean(2) if not self.batch_first else y.transpose(1, 2).mean(2))


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_heads_and_the_features_that_they_read_are_cut_apart(batch_first: Any, seed: Any) -> None:
    model = trained_like(Tokens(batch_first), seed)
    images = torch.rand(2, 3, 4, 4, dtype=torch.float64)
    graph = dependency_graph(model, images)
    generator = np.random.default_rng(seed)
    removed = generator.random(graph.size) < 0.5
    for group in graph.groups:
        removed[group.start + generator.integers(group.size)] = False
    assert {group.name: group.size for group in graph.groups} == {"a": 12, "one": 3, "two": 2, "two.out_proj": 12}
    small = check_cut(model, graph, plan_without(graph, removed), images)
    again = dependency_graph(small, images)
    assert again.size == np.count_nonzero(~removed)
    once_more = plan_without(
        again, np.array([g.size > 1 and unit == 0 for g in again.groups for unit in range(g.size)])
    )
    check_cut(small, again, once_more, images)


def test_part_of_a_head_is_refused() -> None:
    model, graph, plan = cut()
    layer = plan["layers"]["encoder.layers.encoder_layer_0.self_attention"]
    assert layer["heads"] == 2
    for removed in ([0], list(range(4)), [*range(4), *range(8, 12), *range(20, 24)]):
        layer["out"]["removed"] = removed
        with pytest.raises(ValueError, match=r"encoder_layer_0\.self_attention': of its 2 heads only whole ones"):
            apply_plan(model, plan)


@pytest.mark.parametrize("name", [name for name in CRITERIA if name != "bn_scale"])
def test_criteria_value_heads_or_say_that_they_cannot(name: Any) -> None:
    pruned = begin(Tokens(True).double(), torch.rand(2, 3, 4, 4, dtype=torch.float64), "channel")
    batches = [(torch.rand(2, 3, 4, 4, dtype=torch.float64), torch.tensor([0, 1]))]
    if name in ("magnitude_l1", "magnitude_l2", "gradient_norm", "saliency", "fpgm", "random"):
        assert (score(pruned, CRITERIA[name], batches, torch.Generator())["one"] != 0).all()
        return
    with pytest.raises(ValueError, match="MultiheadAttention|can't value|follows the channels"):
        score(pruned, CRITERIA[name], batches, torch.Generator())


@pytest.mark.parametrize("settings", [{"add_bias_kv": True}, {"add_zero_attn": True}])
def test_attention_of_other_kinds_is_refused(settings: Any) -> None:
    with pytest.raises(ValueError, match=r"module 'two' \(MultiheadAttention\) is not known"):
        dependency_graph(Tokens(True, **settings), torch.rand(1, 3, 4, 4))
