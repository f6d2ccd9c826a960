"""Callbacks that Ray Tune runs in the driver: a searcher, a stopper and a listener for results."""

from __future__ import annotations

import re
import time
from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import ray
from ray import tune
from ray.exceptions import RayError
from ray.tune.search import Searcher

from study.results.handlers import WAIT, TrialReport
from study.training.epochs import Row
from study.trials.context import Ticket
from study.trials.rows import failed_row

MAX_RETRIES = 2  # after losing a worker or node
# In a row's error after running out of GPU memory: of torch's allocator, of the CUDA driver, or of CUDA's libraries.
OUT_OF_MEMORY = re.compile("OutOfMemoryError|out of memory|STATUS_ALLOC_FAILED|STATUS_NOT_INITIALIZED")
LOW_ON_MEMORY = "running low on memory"  # part of Ray's error for a worker that it killed for lack of memory


class _NeverPickled:
    """Pickles as empty. Tune pickles searchers and callbacks to restore them; here the trial store does that."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class SearcherAdapter(_NeverPickled, Searcher):
    """Tune's searcher: every suggestion is a ticket of the study.

    Attributes:
      tickets: Tune's trial id -> ticket, of running trials.
      again: tickets of lost trials, to run next.
      started: Tune's trial id -> time.monotonic() of its start.
      short: tickets of trials that ran out of memory on a shared GPU.
    """

    def __init__(self, ask: Callable[[], Ticket | Literal["wait"] | None]) -> None:
        super().__init__()
        self._ask = ask
        self.tickets: dict[str, Ticket] = {}
        self.started: dict[str, float] = {}
        self.again: deque[Ticket] = deque()
        self.short: list[Ticket] = []

    def suggest(self, trial_id: str) -> Any:
        """The next ticket; None: wait; FINISHED: no more trials. trial_id: Tune's id."""
        ticket = self.again.popleft() if self.again else self._ask()
        if not isinstance(ticket, Ticket):  # a running trial may be lost and have to run again
            waits = self.tickets or (ticket == WAIT and not self.short)
            return None if waits else Searcher.FINISHED
        self.tickets[trial_id] = ticket
        self.started[trial_id] = time.monotonic()
        return {"ticket": list(ticket)}

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        """Called by Tune when a trial ends; errors are left to the result listener."""
        if not error:
            self.over(trial_id)

    def over(self, trial_id: str) -> Ticket | None:
        """Remove an ended trial and return its ticket; None if it had ended before (its worker may still report)."""
        self.started.pop(trial_id, None)
        return self.tickets.pop(trial_id, None)

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save, see _NeverPickled."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore, see _NeverPickled."""


class EarlyStoppingAdapter(_NeverPickled, tune.Stopper):
    """Tune's stopper: asks the study after every epoch whether the trial continues.

    Of a ticket with candidates, it tells the study what screening found; the chosen candidate's ticket takes its place.
    """

    def __init__(
        self,
        searcher: SearcherAdapter,
        epoch: Callable[[Ticket, Row], bool],
        screened: Callable[[Ticket, list[Row], int], Ticket],
    ) -> None:
        self._searcher, self._epoch, self._screened = searcher, epoch, screened

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Whether to stop the trial."""
        ticket = self._searcher.tickets.get(trial_id)
        if ticket is not None and "screened" in result:
            self._searcher.tickets[trial_id] = self._screened(ticket, result["screened"], result["chosen"])
            return False
        if ticket is None or "epoch" not in result or self._epoch(ticket, result["epoch"]):
            return False
        self._searcher.over(trial_id)
        return True

    def stop_all(self) -> bool:
        """Never: a study ends when the searcher has no more trials."""
        return False


class ResultListener(_NeverPickled, tune.Callback):
    """Tune's callback: reports outcomes to the driver, and queues lost trials again.

    Args:
      searcher: where lost trials are queued again.
      report: called with each ended trial.
      interrupted: returns whether the study is to end now (Ctrl-C).
      shares: whether trials may share a GPU, so that one out of memory is run again alone.
      minutes: a worker that is lost after this time has ended a trial that ran too long; None: no limit.
    """

    def __init__(
        self,
        searcher: SearcherAdapter,
        report: Callable[[TrialReport], None],
        interrupted: Callable[[], bool],
        shares: bool,
        minutes: float | None = None,
    ) -> None:
        self._searcher, self._report, self._interrupted, self._shares = searcher, report, interrupted, shares
        self._minutes = minutes
        self._losses: Counter[str] = Counter()

    def on_step_end(self, iteration: int, trials: Any, **info: Any) -> None:
        """Raise KeyboardInterrupt again if Ctrl-C was pressed inside a callback that swallowed it."""
        if self._interrupted():
            raise KeyboardInterrupt

    def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: Any, **info: Any) -> None:
        """Report an outcome, and remove it from Tune's copy of the result. Args: see `tune.Callback`."""
        if "outcome" not in result or not (ticket := self._searcher.over(trial.trial_id)):
            return
        row, history, network, traceback, correct = result.pop("outcome")
        if self._shares and OUT_OF_MEMORY.search(row["error"] or ""):
            self._searcher.short.append(ticket)
            return
        try:
            self._report(TrialReport(ticket, row, history, lambda: ray.get(network), traceback, correct))
        except RayError as error:  # the node died, and the network with it
            self._lost(ticket, str(error))

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """Handle the loss of a worker or its node."""
        started = self._searcher.started.get(trial.trial_id, 0.0)
        if not (ticket := self._searcher.over(trial.trial_id)):
            return
        if self._minutes and time.monotonic() - started >= 60 * self._minutes:
            reason = f"it ran longer than study.trial_minutes, {self._minutes:g}"
            self._report(TrialReport(ticket, failed_row(ticket.recipe, reason), []))
        else:
            self._lost(ticket, _last_error(trial))

    def _lost(self, ticket: Ticket, error: str) -> None:
        """Queue a lost trial again, or report it as failed. Tune retries only trials that had started."""
        low = LOW_ON_MEMORY in error  # a retry would need as much memory
        self._losses[ticket.trial_id] += 1
        count = self._losses[ticket.trial_id]
        if count <= (1 if low else MAX_RETRIES):
            self._searcher.again.append(ticket)
            return
        reason = "the memory of its node ran out" if low else " ".join(error.split())[:200]
        row = failed_row(ticket.recipe, f"its worker was lost {count} times: {reason}")
        self._report(TrialReport(ticket, row, [], traceback=error))


def _last_error(trial: Any) -> str:
    """Tune's error file of a trial, without its first line (the time)."""
    return Path(trial.error_file).read_text().partition("\n")[2] if trial.error_file else "for no reason given"
