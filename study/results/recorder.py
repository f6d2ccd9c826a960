"""Records finished trials: networks, rows, CSV files and the live view; keeps the front."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import numpy as np
import torch

import models
from analysis.statistics import measures, pareto
from models.files import write_whole
from study.results import files
from study.results.handlers import TrialReport
from study.results.live_view import FrontSummary, LiveView
from study.search.trial_store import TrialStore
from study.training.epochs import Row
from study.trials.context import NetworkState, Ticket


class TrialRecorder:
    """Records a finished trial: network if not dominated, answers, traceback if failed, row, CSV, live view.

    Args:
      folder: the results folder.
      store: stores the rows.
      view: shows each finished trial.
      card: the baseline's.
      versions: of packages, for the cards of saved networks.

    Attributes:
      front: rows of the current front.
    """

    def __init__(self, folder: Path, store: TrialStore, view: LiveView, card: Row, versions: Row) -> None:
        self._folder, self._store, self._view, self._card, self._versions = folder, store, view, card, versions
        self._objectives = store.file.study.objectives
        self._project = files.Projector(folder)
        self._processed = 0  # of the store's told trials, how many `_update_front` has seen
        self.front: list[Row] = []
        self._update_front()
        self._delete_dominated_networks()

    def record(self, report: TrialReport) -> None:
        """Record a finished trial; its network first, so that every row on the front has one."""
        ticket, row = report.ticket, report.row
        if "finished" not in row:
            stamp(row, time.time())
        if report.fetch is not None and self._is_worth_saving(ticket, row):
            self._save(ticket, row, report.fetch())
        files.write_correct(self._folder, ticket.trial_id, report.correct)
        if report.traceback:
            write_whole(self._folder / "errors" / f"{ticket.trial_id}.txt", report.traceback)
        self._store.tell(ticket, row, report.history)
        for added in self._update_front():
            self._view.trial(added, self._summary(), search=added["kind"] == "search")
        self._project(self._store.records)

    def _update_front(self) -> list[Row]:
        """Add all rows told since the last call to the front, and return them; the queue tells some itself."""
        rows = [self._store.records[trial_id][0] for trial_id in self._store.told[self._processed :]]
        self._processed += len(rows)
        for row in rows:
            if row["kind"] == "search" and row["feasible"]:
                self._add_to_front(row)
        return rows

    def _add_to_front(self, row: Row) -> None:
        """Add a row to the front unless it is dominated; remove rows that it dominates, and their networks."""
        rows = [*self.front, row]
        best = pareto.is_nondominated([self._values(r) for r in rows], list(self._objectives.values()))
        self.front = [r for r, stays in zip(rows, best, strict=True) if stays]
        if self._store.file.study.save != "all":
            for dominated in (r for r, stays in zip(rows, best, strict=True) if not stays):
                shutil.rmtree(self._folder / "models" / dominated["trial_id"], ignore_errors=True)

    def _is_worth_saving(self, ticket: Ticket, row: Row) -> bool:
        save = self._store.file.study.save
        if row["state"] != "complete" or save == "none":
            return False
        if save == "all" or ticket.kind == "control":
            return True
        values = [self._values(front) for front in self.front] + [self._values(row)]
        best = pareto.is_nondominated(values, list(self._objectives.values()))[-1]
        return ticket.kind == "search" and bool(best)

    def _save(self, ticket: Ticket, row: Row, network: NetworkState) -> None:
        tensors = {name: torch.tensor(array) for name, array in network.state.items()}
        card = {
            "trial_id": ticket.trial_id,
            "recipe": ticket.recipe,
            "seed": ticket.seed,
            "metrics": row,
            "dataset": self._store.file.baseline.dataset,
            "versions": self._versions,
            "load": "import models; network, card = models.load(folder)",
        }
        dense = {key: self._card[key] for key in ("model", "num_classes", "in_shape", "class_names", "mean", "std")}
        folder = self._folder / "models" / ticket.trial_id
        models.save(folder, tensors, dense | card, network.plan, network.int8)
        files.write_layers(folder / "layers.csv", self._card["layers"], network.layers)

    def _values(self, row: Row) -> list[float]:
        return [float(row[name]) for name in self._objectives]

    def _delete_dominated_networks(self) -> None:
        """Delete dominated networks that a killed driver left."""
        if self._store.file.study.save == "all":
            return
        kept = {row["trial_id"] for row in [*self.front, *self._store.rows("control")]}
        for folder in (self._folder / "models").glob("*"):
            if folder.name not in kept:
                shutil.rmtree(folder)

    def _summary(self) -> FrontSummary:
        if not self.front:
            return FrontSummary()
        accuracy, sparsity = ([float(row[name]) for row in self.front] for name in ("accuracy", "sparsity"))
        last = measures.progress(accuracy, sparsity, self._card.get("accuracy", np.nan))[-1]
        found = dict(zip(measures.NAMES, last, strict=True))
        return FrontSummary(len(self.front), self._hypervolume(), found["near"], found["within_2"], self.front)

    def _hypervolume(self) -> float:
        """Of the front, with costs as fractions of the dense network's. Reference: 0 if maximised, 1 if minimised."""
        if not self.front:
            return 0.0
        values = np.array([[self._normalised(row, name) for name in self._objectives] for row in self.front])
        worst = [float(direction == "min") for direction in self._objectives.values()]
        return pareto.hypervolume(values, list(self._objectives.values()), worst)

    def _normalised(self, row: Row, name: str) -> float:
        if self._objectives[name] == "max":
            return float(row[name])
        return float(row[name]) / float(self._card[name])


def stamp(row: Row, ended: float) -> None:
    """Write into a row when its trial ended and when it started, in seconds since the epoch."""
    row["finished"] = ended
    row["started"] = row["finished"] - row.get("wall_seconds", 0.0)
