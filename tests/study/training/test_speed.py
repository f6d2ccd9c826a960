"""Latency of networks beside the dense one."""

from typing import Any

import pytest
import torch
from torch import nn

from study.training.speed import LARGE_BATCH, speeds


def test_every_column_is_there_and_ratios_are_dense_by_pruned(device: torch.device) -> None:
    def wide(channels: Any) -> Any:
        return nn.Sequential(nn.Conv2d(3, channels, 3, padding=1), nn.Conv2d(channels, channels, 3, padding=1))

    columns = speeds({"half": wide(48)}, wide(96), (3, 32, 32), device, seconds=0.02)["half"]
    assert columns["large_batch"] == LARGE_BATCH[device.type]
    assert columns["speedup"] == pytest.approx(columns["baseline_latency_ms"] / columns["latency_ms"])
    assert columns["batch_speedup"] == pytest.approx(columns["baseline_batch_latency_ms"] / columns["batch_latency_ms"])
    assert columns["latency_low_ms"] <= columns["latency_ms"] <= columns["latency_high_ms"]
