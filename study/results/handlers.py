"""What the driver of a study does for its trials, whoever runs them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

from study.search.trial_store import Ticket
from study.training.epochs import Row
from study.trials.context import NetworkState

WAIT: Literal["wait"] = "wait"


class TrialReport(NamedTuple):
    """What the driver gets of a trial that has ended.

    fetch: brings the network to the driver; None if there is none. traceback: of what the trial failed from.
    """

    ticket: Ticket
    row: Row
    history: list[Row]
    fetch: Callable[[], NetworkState] | None = None
    traceback: str = ""


class TrialHandlers(NamedTuple):
    """What is called while the trials of a study run.

    ask: the next trial to run; WAIT: none before those that run now have ended; None: no further one.
    report: takes in a trial that has ended.
    epoch: takes in the latest epoch of a trial that runs, and says whether it goes on.
    """

    ask: Callable[[], Ticket | Literal["wait"] | None]
    report: Callable[[TrialReport], None]
    epoch: Callable[[Ticket, Row], bool] = lambda ticket, record: True
