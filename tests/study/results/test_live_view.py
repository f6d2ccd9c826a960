"""What the live view shows of running trials."""

import time

import pytest
from rich.console import Console

from study.results import live_view

RECIPE = {"criterion": "random", "granularity": "weight"}
EPOCH = {"epoch": 1, "train_loss": 1.0, "accuracy": 0.5, "seconds": 1.0}


def test_it_says_for_how_long_nothing_was_heard_of_a_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    view = live_view.LiveView("x", 10, 2, "")
    view.begin("0001", RECIPE)
    now += 200
    view.epoch("0002", RECIPE, EPOCH, 3)
    console = Console(width=120)
    with console.capture() as shown:
        console.print(view._renderable())
    lines = [line.strip() for line in shown.get().splitlines()]
    assert "0001  random weight  (silent for 3 min)" in lines
    assert "0002  random weight  epoch 1/3: loss 1.000, accuracy 0.5000 (1.0 s)" in lines
