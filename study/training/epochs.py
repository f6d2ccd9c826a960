"""The record of a training epoch: a row of history.csv, formatted as a line of text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Row = dict[str, Any]  # a row of a results table: column -> value


def epoch_line(record: Mapping[str, Any], epochs: int) -> str:
    """Format an epoch's record as a line for the console; epochs: total number of epochs."""
    sparsity = f"sparsity {record['sparsity']:.3f}, " if "sparsity" in record else ""
    return (
        f"epoch {record['epoch']}/{epochs}: {sparsity}loss {record['train_loss']:.3f}, "
        f"accuracy {record['accuracy']:.4f} ({record['seconds']:.1f} s)"
    )
