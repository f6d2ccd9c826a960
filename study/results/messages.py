"""Rows, recipes and times as text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def row_line(row: dict[str, Any]) -> str:
    """A trial as one line: what it is in short, and its result or error."""
    if row["state"] == "failed":
        return f"failed: {row['error']}"
    result = f"sparsity {row['sparsity']:.3f}, accuracy {row['accuracy']:.4f} ({row['wall_seconds']:.1f} s)"
    what = trial_line(row, row.get("schedule") if row.get("kind") == "control" else None, row.get("confirms"))
    return f"{'stopped early: ' * (row['state'] == 'stopped')}{what}, {result}"


def trial_line(recipe: Mapping[str, Any], control: str | None, confirms: str | None) -> str:
    """What a trial is, in short: of a control its name, otherwise the recipe.

    Args:
      recipe: axis -> value.
      control: `dense`, `scratch` or None.
      confirms: the trial that it repeats, or trains from scratch.
    """
    if control == "dense":
        return "dense network, fine-tuned like the most accurate"
    return f"network of {confirms}, trained from scratch" if control else recipe_line(recipe)


def recipe_line(recipe: Mapping[str, Any]) -> str:
    """A recipe in short: criterion, granularity, scope, schedule."""
    return " ".join(str(recipe[key]) for key in ("criterion", "granularity", "scope", "schedule") if key in recipe)


def duration(seconds: float) -> str:
    """'45 s', '12 min' or '3.5 h'."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
