"""What becomes of a trial that reports: its network, its row in the ledger, the tables, the view."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

import models
from analysis import pareto
from study import results
from study.ledger import Ledger, Record, Ticket
from study.trial import Network
from study.view import View


class Keeper:
    """Writes down what trials report: the ledger, the tables, and the networks that nothing dominates."""

    def __init__(self, folder: Path, ledger: Ledger, view: View, card: Record, versions: Record) -> None:
        self._folder, self._ledger, self._view, self._card, self._versions = folder, ledger, view, card, versions
        self._objectives = ledger.file.study.objectives
        self._project = results.Projector(folder)
        self._taken = 0  # of the ledger's rows, in the order they were told
        self.front: list[Record] = []
        self._take()
        self._drop_all_dominated()

    def report(self, ticket: Ticket, row: Record, history: list[Record], fetch: Callable[[], Network] | None) -> None:
        """Keep a finished trial: its network first, so that a row on the front never lacks one."""
        row["finished"] = time.time()
        row["started"] = row["finished"] - row.get("wall_seconds", 0.0)
        if fetch is not None and self._wanted(ticket, row):
            self._save(ticket, row, fetch())
        self._ledger.tell(ticket, row, history)
        for told in self._take():
            self._view.trial(told, len(self.front), self._hypervolume(), search=told["kind"] == "search")
        self._project(self._ledger.records)

    def _take(self) -> list[Record]:
        """The rows told since the last time, some of them by the ledger itself; the front is then that of all rows."""
        rows = [self._ledger.records[trial_id][0] for trial_id in self._ledger.told[self._taken :]]
        self._taken += len(rows)
        for row in rows:
            if row["kind"] == "search" and row["feasible"]:
                self._enter(row)
        return rows

    def _enter(self, row: Record) -> None:
        """Put a row on the front if nothing there dominates it; what it dominates leaves, with its network."""
        rivals = [*self.front, row]
        best = pareto.is_nondominated([self._values(r) for r in rivals], list(self._objectives.values()))
        self.front = [rival for rival, stays in zip(rivals, best, strict=True) if stays]
        if self._ledger.file.study.save != "all":
            for rival in (rival for rival, stays in zip(rivals, best, strict=True) if not stays):
                shutil.rmtree(self._folder / "models" / rival["trial_id"], ignore_errors=True)

    def _wanted(self, ticket: Ticket, row: Record) -> bool:
        save = self._ledger.file.study.save
        if row["state"] != "complete" or save == "none":
            return False
        if save == "all" or ticket.kind == "control":
            return True
        values = [self._values(front) for front in self.front] + [self._values(row)]
        best = pareto.is_nondominated(values, list(self._objectives.values()))[-1]
        return ticket.kind == "search" and bool(best)

    def _save(self, ticket: Ticket, row: Record, network: Network) -> None:
        tensors = {name: torch.tensor(array) for name, array in network.state.items()}
        about = {
            "trial_id": ticket.trial_id,
            "recipe": ticket.recipe,
            "seed": ticket.seed,
            "metrics": row,
            "dataset": self._ledger.file.baseline.dataset,
            "versions": self._versions,
            "load": "import models; network, card = models.load(folder)",
        }
        dense = {key: self._card[key] for key in ("model", "num_classes", "in_shape", "class_names", "mean", "std")}
        folder = self._folder / "models" / ticket.trial_id
        models.save(folder, tensors, dense | about, network.plan)
        results.write_layers(folder / "layers.csv", self._card["layers"], network.layers)

    def _values(self, row: Record) -> list[float]:
        return [float(row[name]) for name in self._objectives]

    def _drop_all_dominated(self) -> None:
        """Delete the networks that a killed driver did not come to delete."""
        if self._ledger.file.study.save == "all":
            return
        kept = {row["trial_id"] for row in [*self.front, *self._ledger.rows("control")]}
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

    def _share(self, row: Record, name: str) -> float:
        if self._objectives[name] == "max":
            return float(row[name])
        return float(row[name]) / float(self._card[name])
