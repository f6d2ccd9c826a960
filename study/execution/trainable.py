"""Ray Tune's trainable: runs trials in a worker, one after another."""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import time
from collections.abc import Generator
from typing import Any

import ray
import torch
from ray import tune

from study.config import Recipe
from study.execution import ray_adapter, remote
from study.results.messages import recipe_line, row_line
from study.selection.candidates import choose
from study.training.epochs import Row, epoch_line
from study.trials import screening
from study.trials.context import Outcome, Ticket
from study.trials.steps import trial_epochs


class Trainable(tune.Trainable):
    """Tune's trainable: a step is a fine-tuning epoch, and one more step returns the outcome.

    An actor runs one trial after another. Its output is the worker's log in the dashboard.
    """

    def setup(self, config: dict[str, Any], **parameters: Any) -> None:
        """Called once per actor. parameters: `context`, `resources`, and what is `allotted` to a trial."""
        resources = parameters["resources"]
        remote.set_niceness(resources.niceness)
        torch.set_num_threads(resources.cpus)
        self._context, self._device = parameters["context"], remote.device(parameters["allotted"]["gpu"])
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Start the next trial on this actor."""
        self._ticket = Ticket(*new_config["ticket"])
        self._screening = 0.0  # seconds
        self._epochs: Generator[Row, None, Outcome] | None = None
        if self._device.type == "cuda":
            gc.collect()  # traced networks hold one another, and their tensors, in circles
            torch.cuda.empty_cache()  # releases the previous trial's memory to other processes
        self._started = time.monotonic()
        if not self._ticket.candidates:
            self._begin(self._ticket)
        return True

    def _begin(self, ticket: Ticket) -> None:
        self._ticket = ticket
        self._recipe = Recipe(**ticket.recipe)
        self._epochs = trial_epochs(self._recipe, ticket.seed, self._context, self._device, ticket.plan)
        self._say(f"{recipe_line(ticket.recipe)}, to sparsity {self._recipe.sparsity:.3f}, seed {ticket.seed}")

    def step(self) -> dict[str, Any]:
        """Runs one epoch and returns its record as `epoch`; after the last one, `outcome`, an `Outcome` as a list.

        Of a ticket with candidates, the first step screens them, and returns their rows and the `chosen` one's index.
        The network in it is a reference to this node's object store; it is transferred only if the driver fetches it.
        """
        if torch.cuda.is_initialized():
            # Raises if a trial before has broken this process's CUDA context, for example by a failed assertion in a
            # kernel: Tune then gives up this worker, and the trial runs again on another one.
            torch.cuda.synchronize()
        ray_adapter.set_title(f"ray::trial {self._ticket.trial_id}")
        if minutes := self._context.minutes:
            # A thread of faulthandler's ends this process, whatever it does by then; the traceback is in its log.
            left = 60 * minutes - (time.monotonic() - self._started)
            faulthandler.dump_traceback_later(max(left, 1e-3), exit=True, file=2)
        try:
            if self._ticket.candidates:
                return self._screen()
            assert self._epochs is not None
            record = next(self._epochs)
            self._say(epoch_line(record, self._recipe.epochs))
            return {"epoch": record}
        except StopIteration as end:
            outcome: Outcome = end.value
            outcome.row["wall_seconds"] += self._screening
            self._say(outcome.traceback or row_line(outcome.row))
            network = ray.put(outcome.network)
            return {
                "done": True,
                "outcome": [outcome.row, outcome.history, network, outcome.traceback, outcome.correct],
            }
        finally:
            faulthandler.cancel_dump_traceback_later()

    def _screen(self) -> dict[str, Any]:
        tickets = [Ticket(*candidate) for candidate in self._ticket.candidates]
        rows = screening.screen(tickets, self._context, self._device)
        chosen = choose(rows, self._ticket.earlier)
        self._begin(tickets[chosen])
        self._screening = rows[chosen]["wall_seconds"]
        return {"screened": rows, "chosen": chosen}

    def _say(self, line: str) -> None:
        with contextlib.suppress(OSError):  # a full disk of the node: its log lacks a line, but the trial goes on
            print(f"trial {self._ticket.trial_id}: {line}", flush=True)

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing to save: a lost trial starts over."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """See save_checkpoint."""
