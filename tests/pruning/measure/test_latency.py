"""Latency: networks are timed in turn, as measured by the clock."""

from typing import Any

import pytest
import torch
from torch import nn

from pruning.measure.latency import measure_latency


class Sleeper(nn.Module):
    """Advances the fake clock by `seconds`, and records its name."""

    def __init__(self, name: Any, seconds: Any, calls: Any, clock: Any) -> None:
        super().__init__()
        self.name, self.seconds, self.calls, self.clock = name, seconds, calls, clock

    def forward(self, inputs: Any) -> Any:
        self.calls.append(self.name)
        self.clock[0] += self.seconds
        return inputs


def test_medians_are_the_time_slept_in_milliseconds_and_turns_alternate(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    clock = [0.0]
    monkeypatch.setattr("pruning.measure.latency.time.perf_counter", lambda: clock[0])
    networks = {"short": Sleeper("s", 0.005, calls, clock), "long": Sleeper("l", 0.02, calls, clock)}
    measured = measure_latency(networks, torch.zeros(1), seconds=0.05, warm_up=2, least=4)
    assert measured["short"].median == pytest.approx(5)
    assert measured["long"].median == pytest.approx(20)
    assert calls[:4] == ["s", "s", "l", "l"]
    rounds = ["".join(calls[i : i + 2]) for i in range(4, len(calls), 2)]
    assert rounds[:4] == ["sl", "ls", "sl", "ls"]
    for one in measured.values():
        assert one.lower <= one.median <= one.upper


def test_networks_are_measured_in_eval_mode(device: torch.device) -> None:
    network = nn.Dropout(0.5).train()
    measure_latency({"it": network}, torch.zeros(1, device=device), seconds=0, least=1)
    assert not network.training


def test_on_a_gpu_the_clock_waits_until_the_kernels_have_finished(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the clock is read the first time, so that what was queued before does not count, and before the second."""
    order: list[str] = []

    class OnGpu:
        is_cuda, device = True, "cuda"

    def clock() -> float:
        order.append("clock")
        return 0.0

    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: order.append("wait"))
    monkeypatch.setattr("pruning.measure.latency.time.perf_counter", clock)
    network = nn.Identity()
    network.register_forward_hook(lambda *_: order.append("run"))
    measure_latency({"it": network}, OnGpu(), seconds=0, warm_up=0, least=1)
    assert order == ["wait", "clock", "run", "wait", "clock"]
