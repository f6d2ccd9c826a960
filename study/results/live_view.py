"""Progress of a running study: a live view on a terminal, otherwise a plain line per ended trial."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from study.results.messages import duration, recipe_line, row_line
from study.training.epochs import epoch_line

SHOWN = 8  # running trials, and trials of the front, listed at most
SILENT = 60  # seconds after the last sign of a trial from which the view says for how long


class FrontSummary(NamedTuple):
    """How many networks are on the front, its hypervolume, and how far it reaches near the baseline.

    near: hypervolume above 10 points below the baseline's accuracy; within: the highest sparsity that costs at most two
    points, a fraction (see `analysis.statistics.measures`). rows: its trials.
    """

    size: int = 0
    hypervolume: float = 0.0
    near: float = 0.0
    within: float = 0.0
    rows: Sequence[Mapping[str, Any]] = ()


class LiveView:
    """A context manager that shows progress; its methods are called on each event.

    Args:
      name: of the study.
      total: search trials that the study asks for.
      dashboard: URL of Ray's dashboard, or "".
      finished: search trials finished before this run.
    """

    def __init__(self, name: str, total: int, dashboard: str, finished: int = 0) -> None:
        self._console = Console(highlight=False)
        self._total, self._dashboard = total, dashboard
        self._started, self._done_before = time.monotonic(), finished
        self._done, self._failed, self._stopped, self._screened = finished, 0, 0, 0
        self._paused: set[str] = set()
        self._front = FrontSummary()
        self._running: dict[str, tuple[str, float]] = {}  # trial -> its line, and when it was last heard of
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

    def begin(self, trial_id: str, what: str) -> None:
        """Show a trial that was just handed out. what: see `messages.trial_line`."""
        self._paused.discard(trial_id)
        self._running[trial_id] = f"{trial_id}  {what}", time.monotonic()

    def epoch(self, trial_id: str, what: str, record: Mapping[str, Any], epochs: int) -> None:
        """Show the latest epoch of a running trial.

        Args:
          trial_id: the trial.
          what: see `messages.trial_line`.
          record: the epoch's row of history.csv.
          epochs: of the whole trial.
        """
        line = f"{trial_id}  {what}  {epoch_line(record, epochs)}"
        self._running[trial_id] = line, time.monotonic()

    def screened(self, trial_id: str, chosen: str, what: str) -> None:
        """Show that of the candidates of a trial one was chosen, which is trained now.

        Args:
          trial_id: under which the candidates were shown.
          chosen: the chosen trial.
          what: it is, see `messages.trial_line`.
        """
        self._running.pop(trial_id, None)
        self.begin(chosen, what)

    def paused(self, trial_id: str) -> None:
        """Show that a running trial waits."""
        self._running.pop(trial_id, None)
        self._paused.add(trial_id)

    def trial(self, row: dict[str, Any], front: FrontSummary, *, search: bool) -> None:
        """Show an ended trial.

        Args:
          row: of the trial.
          front: as it is now.
          search: whether the trial is part of the search.
        """
        if row["state"] == "screened":
            self._screened += 1
            return
        self._done += search
        self._failed += row["state"] == "failed"
        self._stopped += row["state"] == "stopped"
        self._running.pop(row["trial_id"], None)
        self._paused.discard(row["trial_id"])
        self._front = front
        self._last = row_line(row)
        self._bar.update(self._task, completed=self._done)
        if not self._console.is_terminal:
            label = f"{self._done}/{self._total}" if search else row["kind"]
            found = f"front {front.size}, hv {front.hypervolume:.4f}, {front.within:.1%} within 2 points"
            print(f"trial {row['trial_id']} ({label}): {self._last}; {found}", flush=True)

    def _renderable(self) -> Group:
        table = Table.grid(padding=(0, 2))
        front = self._front
        counts = {"screened": self._screened, "paused": len(self._paused), "stopped early": self._stopped}
        some = [f"{name} [bold]{count}[/]" for name, count in counts.items() if count]
        table.add_row(
            f"running [bold]{len(self._running)}[/]", f"failed [bold]{self._failed}[/]", *some,
            f"front [bold]{front.size}[/]",
            f"hypervolume [bold]{front.hypervolume:.4f}[/], near the baseline [bold]{front.near:.4f}[/]",
            f"within 2 points [bold]{front.within:.1%}[/]", f"left [bold]{self._time_left()}[/]",
        )  # fmt: skip
        lines = [f"last: {self._last}" if self._last else "the first trials are running"]
        now = time.monotonic()
        lines += [
            line + f"  (silent for {duration(now - heard)})" * (now - heard > SILENT)
            for line, heard in list(self._running.values())[-SHOWN:]
        ]
        if self._dashboard:
            lines.append(f"dashboard: {self._dashboard}  (token: ray get-auth-token)")
        return Group(self._bar, table, *self._front_table(), *(f"[dim]{line}[/]" for line in lines))

    def _front_table(self) -> list[Table]:
        """The front, or as many of its trials, evenly spread, as are listed; the sparsest first."""
        rows = sorted(self._front.rows, key=lambda row: float(row["sparsity"]), reverse=True)
        if not rows:
            return []
        chosen = dict.fromkeys(round(place) for place in np.linspace(0, len(rows) - 1, min(SHOWN, len(rows))))
        table = Table("front", "recipe", "sparsity", "accuracy", box=None, padding=(0, 2, 0, 0), header_style="dim")
        for row in (rows[place] for place in chosen):
            table.add_row(row["trial_id"], recipe_line(row), f"{row['sparsity']:.1%}", f"{row['accuracy']:.2%}")
        return [table]

    def _time_left(self) -> str:
        """Of the search; after it, what is done instead: how long that takes depends on the front."""
        if self._done >= self._total:
            return "confirmations and controls" if self._running else "the report"
        done_now = self._done - self._done_before
        if not done_now:
            return "?"
        seconds = (time.monotonic() - self._started) / done_now * (self._total - self._done)
        return duration(seconds)
