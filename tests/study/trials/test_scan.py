"""The sensitivity scan: what it runs, what it keeps, and the curves it gives."""

from typing import Any

import pytest

from study.config import Recipe, parse
from study.trials import scan

CUT = {"sparsity": 0.5, "layer": "conv1", "finetune_epochs": 0}
ROW = {"state": "complete", "accuracy_drop": 0.25, "layer": "conv1"}


def study(**space: Any) -> Any:
    return parse({"study": {"name": "x"}, "baseline": {"model": "resnet8", "dataset": "digits"}, "space": space}, "x")


def test_only_studies_with_the_scope_need_one() -> None:
    assert scan.scan_study(study(scope=["global", "layer"])) is None
    needed = scan.scan_study(study(scope=["global", "sensitivity"], criterion=["taylor", "random"], recalibrate=False))
    assert needed.study.search == "grid"
    assert needed.space["criterion"].choices == ("taylor", "random")
    assert needed.space["recalibrate"].choices == (False,)
    named = needed.with_parts(["a", "b", "c"], ["a", "b"])
    assert named.trials == 2 * 9 * (3 + 2)  # criteria, shares, layers and groups
    assert needed.baseline == study(scope="sensitivity").baseline


def test_only_granularities_of_single_parts_are_scanned() -> None:
    scope = {"choices": ["global", "sensitivity"], "when": {"granularity": "weight"}}
    needed = scan.scan_study(study(scope=scope, granularity=["weight", "2:4", "hybrid"]))
    assert needed.space["granularity"].choices == ("weight",)


def test_curves_are_those_of_their_criterion_and_granularity() -> None:
    rows = [
        {**Recipe(sparsity=share, layer="conv1", criterion=criterion).model_dump(), "requested_sparsity": share,
         "protect": "", "state": "complete", "accuracy_drop": drop}
        for criterion, share, drop in (("taylor", 0.1, 0.0), ("taylor", 0.9, 0.5), ("random", 0.1, 0.3))
    ]  # fmt: skip
    rows.append({**rows[0], "state": "failed", "accuracy_drop": None})
    rows.append({**rows[0], "granularity": "channel", "layer": None, "group": "conv1", "accuracy_drop": 0.7})
    curves = scan.curves(rows)

    def of(criterion: Any, granularity: Any) -> Any:
        return curves[scan.curve_key(Recipe(sparsity=0.8, criterion=criterion, granularity=granularity))]

    assert of("taylor", "weight") == {"conv1.weight": {0.1: 0.0, 0.9: 0.5}}
    assert of("random", "weight") == {"conv1.weight": {0.1: 0.3}}
    assert of("taylor", "channel") == {"conv1": {0.1: 0.7}}


@pytest.mark.usefixtures("cache")
def test_a_cut_that_was_scanned_is_known_to_every_later_study() -> None:
    scan.ScanCache("one").add(CUT, ROW)
    kept = scan.ScanCache("one")
    assert kept.find({**CUT, "finetune_lr": 0.5, "schedule": "one_shot"}) == (ROW, [])
    for other in ({"sparsity": 0.6}, {"layer": "conv2"}, {"criterion": "taylor"}, {"finetune_epochs": 1}):
        assert kept.find({**CUT, **other}) is None
    assert scan.ScanCache("another baseline").find(CUT) is None


@pytest.mark.usefixtures("cache")
def test_what_is_no_scan_or_failed_is_not_kept() -> None:
    kept = scan.ScanCache("two")
    kept.add({**CUT, "finetune_epochs": 1}, ROW)
    kept.add({"sparsity": 0.5, "finetune_epochs": 0}, ROW)
    kept.add(CUT, {**ROW, "state": "failed"})
    assert scan.ScanCache("two").find(CUT) is None


def test_half_a_line_of_a_killed_process_is_passed_over(cache: Any) -> None:
    kept = scan.ScanCache("three")
    kept.add(CUT, ROW)
    path = cache / "scans" / "three.jsonl"
    path.write_text(path.read_text() + '{"cut": "[\\"magni')
    kept = scan.ScanCache("three")
    kept.add({**CUT, "sparsity": 0.6}, ROW)
    assert scan.ScanCache("three").find(CUT) == (ROW, [])
    assert scan.ScanCache("three").find({**CUT, "sparsity": 0.6}) == (ROW, [])
