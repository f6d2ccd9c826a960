"""What Ray Tune calls in the driver: where trials come from, whether they go on, and where their results go."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import ray
from ray import tune
from ray.exceptions import RayError
from ray.tune.search import Searcher

from study.results.handlers import WAIT, TrialReport
from study.search.trial_store import Ticket
from study.training.epochs import Row
from study.trials.rows import failed_row

MAX_RETRIES = 2  # after losing a worker or node
OUT_OF_MEMORY = "OutOfMemoryError"  # how the error of a row begins that a GPU was too small for
LOW_ON_MEMORY = "running low on memory"  # what Ray says of a worker that it killed to save the others


class _NeverPickled:
    """Tune pickles searchers and callbacks to restore them, which it never does here: the trial store has it all."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class SearcherAdapter(_NeverPickled, Searcher):
    """Tune's searcher: every suggestion is a ticket of the study.

    again: tickets to be run once more; short: those that shared a GPU and found its memory too small.
    """

    def __init__(self, ask: Callable[[], Ticket | Literal["wait"] | None]) -> None:
        super().__init__()
        self._ask = ask
        self.tickets: dict[str, Ticket] = {}
        self.again: deque[Ticket] = deque()
        self.short: list[Ticket] = []

    def suggest(self, trial_id: str) -> Any:
        """A ticket; None: nothing yet; FINISHED: nothing any more. trial_id: Tune's own."""
        ticket = self.again.popleft() if self.again else self._ask()
        if not isinstance(ticket, Ticket):  # a trial that runs may yet have to run again
            waits = self.tickets or (ticket == WAIT and not self.short)
            return None if waits else Searcher.FINISHED
        self.tickets[trial_id] = ticket
        return {"ticket": list(ticket)}

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        """Tune's word that a trial has ended; of errors the result listener is told too."""
        if not error:
            self.over(trial_id)

    def over(self, trial_id: str) -> Ticket | None:
        """The ticket of a trial that has ended, well or not; None if it had before, whatever its worker does now."""
        return self.tickets.pop(trial_id, None)

    def save(self, checkpoint_path: str) -> None:
        """Nothing, see _NeverPickled."""

    def restore(self, checkpoint_path: str) -> None:
        """See save."""


class EarlyStoppingAdapter(_NeverPickled, tune.Stopper):
    """Tune's stopper: asks the study after every epoch whether the trial goes on."""

    def __init__(self, searcher: SearcherAdapter, epoch: Callable[[Ticket, Row], bool]) -> None:
        self._searcher, self._epoch = searcher, epoch

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Whether the trial is to be stopped."""
        ticket = self._searcher.tickets.get(trial_id)
        if ticket is None or "epoch" not in result or self._epoch(ticket, result["epoch"]):
            return False
        self._searcher.over(trial_id)
        return True

    def stop_all(self) -> bool:
        """Never: a study ends when there is nothing to ask."""
        return False


class ResultListener(_NeverPickled, tune.Callback):
    """Tune's callback: hands the driver what workers bring, and runs lost trials again.

    searcher: where lost trials are queued again. report: takes in ended trials. interrupted: set by Ctrl-C. shares:
    whether trials share a GPU, so that one short of memory is worth another run alone.
    """

    def __init__(
        self,
        searcher: SearcherAdapter,
        report: Callable[[TrialReport], None],
        interrupted: threading.Event,
        shares: bool,
    ) -> None:
        self._searcher, self._report, self._interrupted, self._shares = searcher, report, interrupted, shares
        self._losses: Counter[str] = Counter()

    def on_step_end(self, iteration: int, trials: Any, **info: Any) -> None:
        """Raise what Ctrl-C raised inside another callback, where it is lost."""
        if self._interrupted.is_set():
            raise KeyboardInterrupt

    def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: Any, **info: Any) -> None:
        """Report an outcome; the network's reference is taken off Tune's copy of the result."""
        if "outcome" not in result or not (ticket := self._searcher.over(trial.trial_id)):
            return
        row, history, network, traceback = result.pop("outcome")
        if self._shares and (row["error"] or "").startswith(OUT_OF_MEMORY):
            self._searcher.short.append(ticket)
            return
        try:
            self._report(TrialReport(ticket, row, history, lambda: ray.get(network), traceback))
        except RayError as error:  # the node went down, and the network with it
            self._lost(ticket, str(error))

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """A worker or its node died."""
        if ticket := self._searcher.over(trial.trial_id):
            self._lost(ticket, _last_error(trial))

    def _lost(self, ticket: Ticket, error: str) -> None:
        """Let a trial run again whose worker or node was lost; Tune itself would only once it had begun to run."""
        low = LOW_ON_MEMORY in error  # it would need as much again
        self._losses[ticket.trial_id] += 1
        count = self._losses[ticket.trial_id]
        if count <= (1 if low else MAX_RETRIES):
            self._searcher.again.append(ticket)
            return
        reason = "the memory of its node ran out" if low else " ".join(error.split())[:200]
        row = failed_row(ticket.recipe, f"its worker was lost {count} times: {reason}")
        self._report(TrialReport(ticket, row, [], traceback=error))


def _last_error(trial: Any) -> str:
    """What Tune wrote down of a trial's failure, without the line that says when."""
    return Path(trial.error_file).read_text().partition("\n")[2] if trial.error_file else "for no reason given"
