"""What the live view shows of running trials."""

import time

import pytest
from rich.console import Console

from study.results import live_view
from study.results.messages import row_line, trial_line

RECIPE = {"criterion": "random", "granularity": "weight"}
EPOCH = {"epoch": 1, "train_loss": 1.0, "accuracy": 0.5, "seconds": 1.0}


def test_it_says_for_how_long_nothing_was_heard_of_a_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    view = live_view.LiveView("x", 10, "")
    view.begin("0001", "random weight")
    now += 200
    view.epoch("0002", "random weight", EPOCH, 3)
    console = Console(width=120)
    with console.capture() as shown:
        console.print(view._renderable())
    lines = [line.strip() for line in shown.get().splitlines()]
    assert "0001  random weight  (silent for 3 min)" in lines
    assert "0002  random weight  epoch 1/3: loss 1.000, accuracy 0.5000 (1.0 s)" in lines


def shown(view: live_view.LiveView) -> list[str]:
    console = Console(width=120)
    with console.capture() as captured:
        console.print(view._renderable())
    return [" ".join(line.split()) for line in captured.get().splitlines()]


def test_the_front_is_a_small_table_the_sparsest_first() -> None:
    view = live_view.LiveView("x", 100, "")
    rows = [
        RECIPE | {"trial_id": f"{n:04}", "sparsity": n / 100, "accuracy": 1 - n / 200, "state": "complete"}
        for n in range(40)
    ]
    view.trial(rows[-1] | {"error": None, "wall_seconds": 1.0}, live_view.FrontSummary(40, rows=rows), search=True)
    lines = shown(view)
    start = lines.index("front recipe sparsity accuracy")
    assert lines[start + 1] == "0039 random weight 39.0% 80.50%"
    assert lines[start + live_view.SHOWN] == "0000 random weight 0.0% 100.00%"
    assert not lines[start + live_view.SHOWN + 1].startswith("00")


def test_no_time_is_left_only_when_nothing_is() -> None:
    view = live_view.LiveView("x", 2, "", finished=2)
    view.begin("c0000", trial_line(RECIPE, "dense", None))
    assert any(line.startswith("c0000 dense network, fine-tuned") for line in shown(view))
    assert shown(view)[1].endswith("left confirmations and controls")
    view._running.clear()
    assert shown(view)[1].endswith("left the report")


def test_a_control_goes_by_its_own_name_not_by_a_recipe_that_it_does_not_use() -> None:
    row = RECIPE | {"kind": "control", "state": "complete", "sparsity": 0.0, "accuracy": 0.9, "wall_seconds": 2.0}
    dense = row_line(row | {"schedule": "dense", "confirms": None})
    assert dense == "dense network, fine-tuned like the most accurate, sparsity 0.000, accuracy 0.9000 (2.0 s)"
    assert row_line(row | {"schedule": "scratch", "confirms": "0007"}).startswith(
        "network of 0007, trained from scratch, "
    )
    again = row | {"kind": "confirm", "schedule": "one_shot", "confirms": "0007"}
    assert row_line(again).startswith("random weight one_shot, ")


def test_paused_trials_are_counted_and_no_longer_listed() -> None:
    view = live_view.LiveView("x", 2, "")
    view.begin("0001", "random weight")
    view.paused("0001")
    assert "paused 1" in shown(view)[1]
    assert not any(line.startswith("0001") for line in shown(view))
    view.begin("0001", "random weight")
    assert "paused" not in shown(view)[1]
