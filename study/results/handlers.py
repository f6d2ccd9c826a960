"""Interface between the driver and whatever runs the trials: callbacks and the report of an ended trial."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np

from study.training.epochs import Row
from study.trials.context import NetworkState, Ticket

WAIT: Literal["wait"] = "wait"


class TrialReport(NamedTuple):
    """The result of an ended trial.

    Attributes:
      ticket: of the trial.
      row: of trials.csv.
      history: a row of history.csv per epoch.
      fetch: returns the network, transferring it to the driver; None if there is none.
      traceback: of a failed trial.
      correct: whether each test image is classified correctly, bool; None if there is no network.
    """

    ticket: Ticket
    row: Row
    history: list[Row]
    fetch: Callable[[], NetworkState] | None = None
    traceback: str = ""
    correct: np.ndarray | None = None


class TrialHandlers(NamedTuple):
    """Callbacks of the driver while trials run.

    Attributes:
      ask: returns the next trial; WAIT: none until a running trial ends; None: no more trials.
      report: called with each ended trial.
      epoch: called with each epoch of a running trial; returns whether the trial continues.
      screened: called with a ticket that has candidates, their rows, and the index of the chosen one; returns its
        ticket.
      interrupted: returns whether the study is to end now.
    """

    ask: Callable[[], Ticket | Literal["wait"] | None]
    report: Callable[[TrialReport], None]
    epoch: Callable[[Ticket, Row], bool] = lambda ticket, record: True
    screened: Callable[[Ticket, list[Row], int], Ticket] = lambda ticket, rows, chosen: ticket
    interrupted: Callable[[], bool] = lambda: False
