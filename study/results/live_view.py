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

from study.results.messages import describe, duration, recipe_line
from study.training.epochs import epoch_line

SHOWN = 8  # running trials, at most


class LiveView:
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

    def __enter__(self) -> LiveView:
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
