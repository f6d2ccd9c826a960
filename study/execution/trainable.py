"""Ray Tune's trainable: runs trials in a worker, one after another."""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import time
from collections import OrderedDict
from collections.abc import Generator
from typing import Any, NamedTuple

import ray
import torch
from ray import tune

from study.config import Recipe
from study.execution import ray_adapter, remote
from study.results.messages import row_line, trial_line
from study.selection.candidates import choose
from study.training.epochs import Row, epoch_line
from study.trials import screening
from study.trials.context import Outcome, Ticket
from study.trials.steps import trial_epochs

KEPT = 4  # paused trials whose networks a worker keeps; others start over when they go on


class _Paused(NamedTuple):
    """A paused trial: its epochs to come, torch's random state, and the seconds until now in which it did not run."""

    epochs: Generator[Row, None, Outcome]
    random: list[torch.Tensor]
    idle: float
    since: float


class Trainable(tune.Trainable):
    """Tune's trainable: a step is a fine-tuning epoch, and one more step returns the outcome.

    An actor runs one trial after another. Its output is the worker's log in the dashboard. A paused trial goes on from
    memory on the actor where it was, and starts over on others, with the same result.
    """

    def setup(self, config: dict[str, Any], **parameters: Any) -> None:
        """Called once per actor. parameters: `context`, `resources`, and what is `allotted` to a trial."""
        resources = parameters["resources"]
        remote.set_niceness(resources.niceness)
        torch.set_num_threads(resources.cpus)
        self._context, self._device = parameters["context"], remote.device(parameters["allotted"]["gpu"])
        self._paused: OrderedDict[str, _Paused] = OrderedDict()
        self._ticket: Ticket
        self._idle = 0.0  # seconds of the trial's wall clock in which it did not run
        self._epochs: Generator[Row, None, Outcome] | None = None
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Start the next trial on this actor."""
        if self._context.pauses and self._epochs is not None:
            self._paused[self._ticket.trial_id] = _Paused(self._epochs, self._random(), self._idle, time.perf_counter())
            if len(self._paused) > KEPT:
                self._paused.popitem(last=False)
        self._ticket = Ticket(*new_config["ticket"])
        self._idle = 0.0
        self._epochs = None
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
        if paused := self._paused.pop(ticket.trial_id, None):
            self._epochs, self._idle = paused.epochs, paused.idle + time.perf_counter() - paused.since
            torch.set_rng_state(paused.random[0])
            if self._device.type == "cuda":
                torch.cuda.set_rng_state(paused.random[1], self._device)
            return
        self._epochs = trial_epochs(self._recipe, ticket.seed, self._context, self._device, ticket.plan)
        what = trial_line(ticket.recipe, ticket.control, ticket.confirms)
        self._say(f"{what}, to sparsity {self._recipe.sparsity:.3f}, seed {ticket.seed}")

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
            self._epochs = None
            outcome.row["wall_seconds"] -= self._idle
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
        self._idle = -rows[chosen]["wall_seconds"]  # before the trial's own clock began
        return {"screened": rows, "chosen": chosen}

    def _random(self) -> list[torch.Tensor]:
        cuda = [torch.cuda.get_rng_state(self._device)] if self._device.type == "cuda" else []
        return [torch.get_rng_state(), *cuda]

    def _say(self, line: str) -> None:
        with contextlib.suppress(OSError):  # a full disk of the node: its log lacks a line, but the trial goes on
            print(f"trial {self._ticket.trial_id}: {line}", flush=True)

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing to save: a lost trial starts over."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """See save_checkpoint."""
