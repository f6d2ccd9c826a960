"""Rowing of finished trials: their networks, their rows, the tables and the live view."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import numpy as np
import torch

import models
from analysis.statistics import pareto
from models.files import write_whole
from study.results import files
from study.results.handlers import TrialReport
from study.results.live_view import LiveView
from study.search.trial_store import Ticket, TrialStore
from study.training.epochs import Row
from study.trials.context import NetworkState


class TrialRecorder:
    """Rows a finished trial: network if not dominated, traceback if failed, row, CSV, live view.

    folder: the results folder.
    store: where rows are kept.
    view: shown what happens.
    card: the baseline's.
    versions: of the packages, for the cards of saved networks.

    `front` holds the rows that no other dominates, so far.
    """

    def __init__(self, folder: Path, store: TrialStore, view: LiveView, card: Row, versions: Row) -> None:
        self._folder, self._store, self._view, self._card, self._versions = folder, store, view, card, versions
        self._objectives = store.file.study.objectives
        self._project = files.Projector(folder)
        self._taken = 0  # of the store's rows, in the order they were told
        self.front: list[Row] = []
        self._take()
        self._drop_all_dominated()

    def record(self, report: TrialReport) -> None:
        """Row a finished trial: its network first, so that a row on the front never lacks one."""
        ticket, row = report.ticket, report.row
        row["finished"] = time.time()
        row["started"] = row["finished"] - row.get("wall_seconds", 0.0)
        if report.fetch is not None and self._wanted(ticket, row):
            self._save(ticket, row, report.fetch())
        if report.traceback:
            write_whole(self._folder / "errors" / f"{ticket.trial_id}.txt", report.traceback)
        self._store.tell(ticket, row, report.history)
        for told in self._take():
            self._view.trial(told, len(self.front), self._hypervolume(), search=told["kind"] == "search")
        self._project(self._store.records)

    def _take(self) -> list[Row]:
        """The rows told since the last time, some of them by the queue itself; the front is then that of all rows."""
        rows = [self._store.records[trial_id][0] for trial_id in self._store.told[self._taken :]]
        self._taken += len(rows)
        for row in rows:
            if row["kind"] == "search" and row["feasible"]:
                self._enter(row)
        return rows

    def _enter(self, row: Row) -> None:
        """Put a row on the front if nothing there dominates it; what it dominates leaves, with its network."""
        rivals = [*self.front, row]
        best = pareto.is_nondominated([self._values(r) for r in rivals], list(self._objectives.values()))
        self.front = [rival for rival, stays in zip(rivals, best, strict=True) if stays]
        if self._store.file.study.save != "all":
            for rival in (rival for rival, stays in zip(rivals, best, strict=True) if not stays):
                shutil.rmtree(self._folder / "models" / rival["trial_id"], ignore_errors=True)

    def _wanted(self, ticket: Ticket, row: Row) -> bool:
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
        about = {
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
        models.save(folder, tensors, dense | about, network.plan)
        files.write_layers(folder / "layers.csv", self._card["layers"], network.layers)

    def _values(self, row: Row) -> list[float]:
        return [float(row[name]) for name in self._objectives]

    def _drop_all_dominated(self) -> None:
        """Delete the networks that a killed driver did not come to delete."""
        if self._store.file.study.save == "all":
            return
        kept = {row["trial_id"] for row in [*self.front, *self._store.rows("control")]}
        for folder in (self._folder / "models").glob("*"):
            if folder.name not in kept:
                shutil.rmtree(folder)

    def _hypervolume(self) -> float:
        """Of the front: accuracy and sparsity from 0, costs in shares of the dense network's, from 1."""
        if not self.front:
            return 0.0
        values = np.array([[self._share(row, name) for name in self._objectives] for row in self.front])
        worst = [float(direction == "min") for direction in self._objectives.values()]
        return pareto.hypervolume(values, list(self._objectives.values()), worst)

    def _share(self, row: Row, name: str) -> float:
        if self._objectives[name] == "max":
            return float(row[name])
        return float(row[name]) / float(self._card[name])
