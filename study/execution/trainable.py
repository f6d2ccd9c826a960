"""One trial after another in a worker, as Ray Tune runs it."""

from __future__ import annotations

from typing import Any

import ray
import torch
from ray import tune

from study.config import Recipe
from study.execution import ray_adapter
from study.execution.remote import device
from study.results.messages import describe, recipe_line
from study.search.trial_store import Ticket
from study.training.epochs import epoch_line
from study.trials.context import Outcome
from study.trials.steps import trial_epochs


class Trainable(tune.Trainable):
    """Tune's trainable: a step is a fine-tuning epoch, the last one brings the outcome.

    An actor runs one trial after another. What it prints is this worker's log in the dashboard.
    """

    def setup(self, config: dict[str, Any], **parameters: Any) -> None:
        """Called once per actor. parameters: the trial context, the resources of a trial, its number of threads."""
        resources = parameters["resources"]
        torch.set_num_threads(max(1, int(parameters["threads"])))
        self._context, self._device = parameters["context"], device(resources["gpu"])
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Begin another trial on this actor."""
        self._ticket = ticket = Ticket(*new_config["ticket"])
        self._recipe = Recipe(**ticket.recipe)
        self._epochs = trial_epochs(self._recipe, ticket.seed, self._context, self._device, ticket.plan)
        if self._device.type == "cuda":
            torch.cuda.empty_cache()  # what an earlier trial held is another process's to use
        self._say(f"{recipe_line(ticket.recipe)}, to sparsity {self._recipe.sparsity:.3f}, seed {ticket.seed}")
        return True

    def step(self) -> dict[str, Any]:
        """One epoch: its record under `epoch`; or, after the last one, `outcome`, an `Outcome` as a list.

        The network is given as a reference: it waits in this node's object store, and travels only if the driver
        wants it.
        """
        ray_adapter.set_title(f"ray::trial {self._ticket.trial_id}")
        try:
            record = next(self._epochs)
            self._say(epoch_line(record, self._recipe.epochs))
            return {"epoch": record}
        except StopIteration as end:
            outcome: Outcome = end.value
            self._say(outcome.traceback or describe(outcome.row))
            network = ray.put(outcome.network)
            return {"done": True, "outcome": [outcome.row, outcome.history, network, outcome.traceback]}

    def _say(self, line: str) -> None:
        print(f"trial {self._ticket.trial_id}: {line}", flush=True)

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """A lost trial starts anew: there is nothing to keep."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """See save_checkpoint."""
