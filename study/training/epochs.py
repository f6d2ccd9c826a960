"""What is known of an epoch: a row of history.csv, and a line of text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Row = dict[str, Any]  # a row of one of the results folder's tables: column -> value


def epoch_line(record: Mapping[str, Any], epochs: int) -> str:
    """An epoch's record as people read it; epochs: how many there are in all."""
    sparsity = f"sparsity {record['sparsity']:.3f}, " if "sparsity" in record else ""
    return (
        f"epoch {record['epoch']}/{epochs}: {sparsity}loss {record['train_loss']:.3f}, "
        f"accuracy {record['accuracy']:.4f} ({record['seconds']:.1f} s)"
    )
