"""torchvision's networks, half of their channels cut; the table in the docs has a row for each."""

from pathlib import Path
from typing import Any

import pytest
from torch import nn

from benchmarks import networks
from pruning.channels.surgery import apply_plan
from tests.networks import Function, PaddedShortcuts

TABLE = Path(__file__).parents[2] / "docs" / "networks.md"


@pytest.mark.slow
@pytest.mark.parametrize("name", networks.NAMES)
def test_each_is_cut_right(name: Any) -> None:
    found = networks.check(name)
    assert found.result == "cut"
    assert networks.row(found) in TABLE.read_text()


def test_the_table_has_all_of_them() -> None:
    rows = [line for line in TABLE.read_text().splitlines() if line.startswith("| `")]
    assert sorted(row.split("`")[1] for row in rows) == networks.NAMES


def test_what_the_table_says_of_a_network(monkeypatch: Any) -> None:
    made: dict[str, nn.Module] = {
        "fine": PaddedShortcuts(),
        "odd": nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)),
    }
    made["odd"].insert(1, Function(lambda x: x.sort(1)[0]))
    monkeypatch.setattr(networks, "build", lambda name: (made[name].double().eval(), 12))
    fine, odd = networks.check("fine"), networks.check("odd")
    assert (fine.result, fine.units) == ("cut", 52)
    assert fine.after < fine.before == sum(p.numel() for p in made["fine"].parameters())
    assert odd.result.startswith("refused: operation 'sort' in module '1' is not known to act on each channel")
    # One that is cut wrongly: the weights that are left are not those that the plan leaves.
    monkeypatch.setattr(networks, "apply_plan", lambda model, plan: apply_plan(model, plan).apply(flipped))
    assert networks.check("fine").result == "wrong"


def flipped(layer: nn.Module) -> None:
    if isinstance(layer, nn.Conv2d):
        layer.weight.data = layer.weight.data.flip(0)
