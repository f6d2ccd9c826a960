"""Order of trials: first the search, then the front with further seeds, then controls."""

from __future__ import annotations

import json
import time
from typing import Literal

from study.config import Recipe
from study.driver.session import StudyRun
from study.results.handlers import WAIT
from study.results.monitor import TrialMonitor
from study.results.recorder import TrialRecorder
from study.trials.context import Ticket

FINE_TUNING = (
    "finetune_epochs",
    "finetune_samples",
    "finetune_lr",
    "lr_schedule",
    "optimizer",
    "weight_decay",
    "distil",
    "temperature",
    "recalibrate",
    "calibration_samples",
)


class Agenda:
    """Chooses the next trial of a study; none after the deadline."""

    def __init__(self, run: StudyRun, recorder: TrialRecorder, monitor: TrialMonitor) -> None:
        self._run, self._recorder, self._monitor, self._searching = run, recorder, monitor, True

    def ask(self) -> Ticket | Literal["wait"] | None:
        """The next trial; WAIT if it depends on running trials; None if there are no more."""
        queue, store = self._run.queue, self._run.store
        if time.monotonic() >= self._run.options.deadline:
            return None
        if self._searching and (ticket := self._monitor.promoted() or queue.ask()):
            return ticket
        if self._searching and store.running == len(store.paused):  # no result will come that promotes them
            self._monitor.end_paused()
        self._searching = self._searching and store.running > 0
        if self._searching:
            return WAIT
        confirmation = queue.ask_confirm(self._recorder.front) if self._run.file.study.confirm_seeds else None
        return confirmation or self._control() or (WAIT if store.running else None)

    def _control(self) -> Ticket | None:
        """The next control: the dense network with the best trial's fine-tuning; then cut networks from scratch."""
        queue, controls = self._run.queue, self._run.file.study.controls
        complete = [row for row in self._run.store.rows() if row["state"] == "complete"]
        if "dense" in controls and complete:
            best = max(complete, key=lambda row: row["accuracy"])
            recipe = {"sparsity": 0.0, "schedule": "one_shot", **{key: best[key] for key in FINE_TUNING if key in best}}
            if ticket := queue.ask_control("dense", Recipe(**recipe).model_dump()):
                return ticket
        if "scratch" in controls:
            plans = {path.parent.name: path for path in self._run.folder.glob("models/*/plan.json")}
            saved = [row for row in self._recorder.front if row["trial_id"] in plans]  # a repaired folder may lack some
            if ticket := queue.ask_scratch(saved):
                return ticket._replace(plan=json.loads(plans[str(ticket.confirms)].read_text()))
        return None
