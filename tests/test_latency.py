"""Latency: networks are timed in turn, and a sleeping network takes as long as it sleeps."""

import time

import pytest
import torch
from torch import nn

from pruning.latency import measure_latency


class Sleeper(nn.Module):
    """Sleeps for `seconds`, and writes its name down."""

    def __init__(self, name, seconds, calls):
        super().__init__()
        self.name, self.seconds, self.calls = name, seconds, calls

    def forward(self, inputs):
        self.calls.append(self.name)
        time.sleep(self.seconds)
        return inputs


def test_medians_are_the_time_slept_in_milliseconds_and_turns_alternate():
    calls = []
    networks = {"short": Sleeper("s", 0.005, calls), "long": Sleeper("l", 0.02, calls)}
    measured = measure_latency(networks, torch.zeros(1), seconds=0.05, warm_up=2, least=4)
    assert measured["short"].median == pytest.approx(5, abs=4)
    assert measured["long"].median == pytest.approx(20, abs=6)
    assert calls[:4] == ["s", "s", "l", "l"]
    rounds = ["".join(calls[i : i + 2]) for i in range(4, len(calls), 2)]
    assert rounds[:4] == ["sl", "ls", "sl", "ls"]
    for latency in measured.values():
        assert latency.lower <= latency.median <= latency.upper


def test_networks_are_measured_in_eval_mode():
    network = nn.Dropout(0.5).train()
    measure_latency({"it": network}, torch.zeros(1), seconds=0, least=1)
    assert not network.training
