"""What a person sees while a study runs: one calm live view on a terminal, a plain line per event elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

SHOWN = 8  # running trials, at most


class View:
    """A context manager; its methods are told of what happens."""

    def __init__(self, name: str, total: int, at_once: int, dashboard: str, finished: int = 0) -> None:
        self._console = Console(highlight=False)
        self._total, self._at_once, self._dashboard = total, at_once, dashboard
        self._began, self._already = time.monotonic(), finished
        self._done, self._failed, self._front, self._volume = finished, 0, 0, 0.0
        self._stopped = 0
        self._running: dict[str, str] = {}
        self._last = ""
        self._bar = Progress(
            TextColumn("[bold]{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
            console=self._console,
        )  # fmt: skip
        self._task = self._bar.add_task(name, total=total, completed=finished)
        self._live = Live(console=self._console, refresh_per_second=2, get_renderable=self._renderable)

    def __enter__(self) -> View:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def epoch(self, trial_id: str, recipe: Mapping[str, Any], record: Mapping[str, Any], epochs: int) -> None:
        """A trial that runs has come to the end of an epoch."""
        self._running[trial_id] = f"{trial_id}  {recipe_line(recipe)}  {epoch_line(record, epochs)}"

    def trial(self, row: dict[str, Any], front: int, hypervolume: float, *, search: bool) -> None:
        """A trial has ended."""
        self._done += search
        self._failed += row["state"] == "failed"
        self._stopped += row["state"] == "stopped"
        self._running.pop(row["trial_id"], None)
        self._front, self._volume = front, hypervolume
        self._last = describe(row)
        self._bar.update(self._task, completed=self._done)
        if not self._console.is_terminal:
            place = f"{self._done}/{self._total}" if search else row["kind"]
            print(f"trial {row['trial_id']} ({place}): {self._last}; front {front}, hv {hypervolume:.4f}", flush=True)

    def _renderable(self) -> Group:
        table = Table.grid(padding=(0, 2))
        running = min(self._at_once, self._total - self._done)
        stopped = [f"stopped early [bold]{self._stopped}[/]"] * bool(self._stopped)
        table.add_row(
            f"running [bold]{running}[/]", f"failed [bold]{self._failed}[/]", *stopped, f"front [bold]{self._front}[/]",
            f"hypervolume [bold]{self._volume:.4f}[/]", f"left [bold]{self._left()}[/]",
        )  # fmt: skip
        lines = [f"last: {self._last}" if self._last else "the first trials are running"]
        lines += list(self._running.values())[-SHOWN:]
        if self._dashboard:
            lines.append(f"dashboard: {self._dashboard}  (token: ray get-auth-token)")
        return Group(self._bar, table, *(f"[dim]{line}[/]" for line in lines))

    def _left(self) -> str:
        fresh = self._done - self._already
        if not fresh:
            return "?"
        seconds = (time.monotonic() - self._began) / fresh * (self._total - self._done)
        return duration(seconds)


def describe(row: dict[str, Any]) -> str:
    """A row in a line: its recipe in short, and what came of it."""
    if row["state"] == "failed":
        return f"failed: {row['error']}"
    found = f"sparsity {row['sparsity']:.3f}, accuracy {row['accuracy']:.4f} ({row['wall_seconds']:.1f} s)"
    return f"{'stopped early: ' * (row['state'] == 'stopped')}{recipe_line(row)}, {found}"


def recipe_line(recipe: Mapping[str, Any]) -> str:
    """What prunes, in short."""
    return " ".join(str(recipe[key]) for key in ("criterion", "granularity", "scope", "schedule") if key in recipe)


def epoch_line(record: Mapping[str, Any], epochs: int) -> str:
    """An epoch's record for a person."""
    sparsity = f"sparsity {record['sparsity']:.3f}, " if "sparsity" in record else ""
    return (
        f"epoch {record['epoch']}/{epochs}: {sparsity}loss {record['train_loss']:.3f}, "
        f"accuracy {record['accuracy']:.4f} ({record['seconds']:.1f} s)"
    )


def duration(seconds: float) -> str:
    """'45 s', '12 min' or '3.5 h'."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
