"""Rows, recipes and times as text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def row_line(row: dict[str, Any]) -> str:
    """A trial as one line: its recipe in short, and its result or error."""
    if row["state"] == "failed":
        return f"failed: {row['error']}"
    result = f"sparsity {row['sparsity']:.3f}, accuracy {row['accuracy']:.4f} ({row['wall_seconds']:.1f} s)"
    return f"{'stopped early: ' * (row['state'] == 'stopped')}{recipe_line(row)}, {result}"


def recipe_line(recipe: Mapping[str, Any]) -> str:
    """A recipe in short: criterion, granularity, scope, schedule."""
    return " ".join(str(recipe[key]) for key in ("criterion", "granularity", "scope", "schedule") if key in recipe)


def duration(seconds: float) -> str:
    """'45 s', '12 min' or '3.5 h'."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
