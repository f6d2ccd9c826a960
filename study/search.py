"""Ray Tune: trials on reused actors, results to the driver, lost trials elsewhere."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

# Before ray is imported: no loggers that write each result three times over, Ctrl-C to us, and no state snapshots of
# Tune's own (the ledger is what a study is resumed from).
os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
os.environ["TUNE_GLOBAL_CHECKPOINT_S"] = "1000000000"
os.environ["RAY_AIR_NEW_OUTPUT"] = "0"
os.environ["RAY_CHDIR_TO_TRIAL_DIR"] = "0"

from study.cluster import Allotment, device, here  # isort: skip  # sets what Ray reads when it is imported

import ray
import torch
from ray import tune
from ray.air.execution._internal.actor_manager import RayActorManager
from ray.exceptions import OutOfMemoryError, RayActorError, RayError
from ray.tune.search import Searcher

from study.config import Recipe
from study.ledger import Record, Ticket, failed
from study.scores import Arrays
from study.trial import Network, Outcome, Shared, live
from study.view import describe, epoch_line, recipe_line

_task_failed = RayActorManager._actor_task_failed


def _task_failed_or_killed(self: Any, tracked_actor_task: Any, exception: Exception) -> None:
    """Tune stops a whole study for an actor that Ray killed for its memory: to it, that is no way for actors to end."""
    if isinstance(exception, OutOfMemoryError):
        exception = RayActorError(error_msg=str(exception))
    _task_failed(self, tracked_actor_task, exception)


setattr(RayActorManager, _task_failed.__name__, _task_failed_or_killed)

WAIT = "wait"  # nothing to run before those that run now have ended
LEASE = 300.0  # seconds after which scores that a worker began to compute, and did not bring, are another's to compute
LOST = 2  # a trial whose worker or node died is tried again this often, elsewhere
OUT_OF_MEMORY = "OutOfMemoryError"  # how the error of a row begins that a GPU was too small for
LOW_ON_MEMORY = "running low on memory"  # what Ray says of a worker that it killed to save the others
Ask = Callable[[], Ticket | str | None]  # a trial to run, WAIT, or None: no further one
Report = Callable[[Ticket, Record, list[Record], Callable[[], Network] | None], None]
Hear = Callable[[Ticket, Record], bool]  # a trial's latest epoch -> whether it goes on
_set_title: Callable[[str], None] = getattr(ray._raylet, "setproctitle", lambda title: None)


class _Desk:
    """Where scores of the baseline are handed out: who computes which, and where those lie that are done."""

    def __init__(self) -> None:
        self._leases: dict[str, float] = {}
        self._kept: dict[str, list[ray.ObjectRef]] = {}

    def claim(self, key: str) -> list[ray.ObjectRef] | bool:
        """The scores under `key` (in a list: Ray would resolve a bare reference); or whether to compute them."""
        if key in self._kept:
            return self._kept[key]
        free = self._leases.get(key, 0) < time.monotonic()
        if free:
            self._leases[key] = time.monotonic() + LEASE
        return free

    def keep(self, key: str, scores: Arrays | None) -> None:
        """Take in what was computed; None: it could not be, the next may try."""
        self._leases.pop(key, None)
        if scores is not None:
            self._kept[key] = [ray.put(scores)]


class _Scores:
    """The store of `study.scores` for a cluster: a worker's way to the desk."""

    def __init__(self) -> None:
        placed: Any = ray.remote
        self._desk = placed(num_cpus=0, scheduling_strategy=here())(_Desk).remote()

    def __call__(self, key: str, compute: Callable[[], Arrays]) -> Arrays:
        found: Any
        while not (found := ray.get(self._desk.claim.remote(key))):
            time.sleep(0.2)
        if isinstance(found, list):
            found = ray.get(found[0])
            return found
        scores: Arrays | None = None
        try:
            scores = compute()
            return scores
        finally:
            ray.get(self._desk.keep.remote(key, scores))


class Trainable(tune.Trainable):
    """One trial after another in one process; a step is a fine-tuning epoch, the last brings the outcome.

    What it prints is this worker's log in the dashboard, where the actor keeps the name of its first trial.
    """

    def setup(self, config: dict[str, Any], **parameters: Any) -> None:
        shared, resources = parameters["shared"], parameters["resources"]
        torch.set_num_threads(max(1, int(parameters["threads"])))
        self._shared, self._device = shared, device(resources["gpu"])
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._ticket = ticket = Ticket(*new_config["ticket"])
        self._recipe = Recipe(**ticket.recipe)
        self._story = live(self._recipe, ticket.seed, self._shared, self._device, ticket.plan)
        if self._device.type == "cuda":
            torch.cuda.empty_cache()  # what an earlier trial held is another process's to use
        self._say(f"{recipe_line(ticket.recipe)}, to sparsity {self._recipe.sparsity:.3f}, seed {ticket.seed}")
        return True

    def step(self) -> dict[str, Any]:
        _set_title(f"ray::trial {self._ticket.trial_id}")
        try:
            record = next(self._story)
            self._say(epoch_line(record, self._recipe.epochs))
            return {"epoch": record}
        except StopIteration as end:
            outcome: Outcome = end.value
            self._say(describe(outcome.row))
            # The network waits in this node's object store: only if the driver wants it does it travel.
            return {"done": True, "outcome": [outcome.row, outcome.history, ray.put(outcome.network)]}

    def _say(self, line: str) -> None:
        print(f"trial {self._ticket.trial_id}: {line}", flush=True)

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """A lost trial starts anew: there is nothing to keep."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """See save_checkpoint."""


class _Unpickled:
    """Tune pickles searchers and callbacks to restore them, which it never does here: the ledger has it all."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class _Asker(_Unpickled, Searcher):
    """Tune's side of the ledger: every suggestion is a ticket.

    again: tickets to be run once more; short: those that shared a GPU and found its memory too small.
    """

    def __init__(self, ask: Ask) -> None:
        super().__init__()
        self._ask = ask
        self.tickets: dict[str, Ticket] = {}
        self.again: deque[Ticket] = deque()
        self.short: list[Ticket] = []

    def suggest(self, trial_id: str) -> Any:
        ticket = self.again.popleft() if self.again else self._ask()
        if not isinstance(ticket, Ticket):  # a trial that runs may yet have to run again
            waits = self.tickets or (ticket == WAIT and not self.short)
            return None if waits else Searcher.FINISHED
        self.tickets[trial_id] = ticket
        return {"ticket": list(ticket)}

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        if not error:  # of those, the listener is told too
            self.over(trial_id)

    def over(self, trial_id: str) -> Ticket | None:
        """The ticket of a trial that has ended, well or not; None if it had before, whatever its worker does now."""
        return self.tickets.pop(trial_id, None)

    def save(self, checkpoint_path: str) -> None:
        """Nothing, see _Unpickled."""

    def restore(self, checkpoint_path: str) -> None:
        """See save."""


class _Ear(_Unpickled, tune.Stopper):
    """Asks after every epoch whether the trial goes on."""

    def __init__(self, asker: _Asker, hear: Hear) -> None:
        self._asker, self._hear = asker, hear

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        ticket = self._asker.tickets.get(trial_id)
        if ticket is None or "epoch" not in result or self._hear(ticket, result["epoch"]):
            return False
        self._asker.over(trial_id)
        return True

    def stop_all(self) -> bool:
        return False


class _Listener(_Unpickled, tune.Callback):
    """Hands the driver what workers bring, and takes the network off Tune's copy of the result."""

    def __init__(self, asker: _Asker, report: Report, interrupted: threading.Event, shares: bool) -> None:
        self._asker, self._report, self._interrupted, self._shares = asker, report, interrupted, shares
        self._losses: Counter[str] = Counter()

    def on_step_end(self, iteration: int, trials: Any, **info: Any) -> None:
        if self._interrupted.is_set():
            raise KeyboardInterrupt

    def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: Any, **info: Any) -> None:
        if "outcome" not in result or not (ticket := self._asker.over(trial.trial_id)):
            return
        row, history, network = result.pop("outcome")
        if self._shares and (row["error"] or "").startswith(OUT_OF_MEMORY):
            self._asker.short.append(ticket)
            return
        try:
            self._report(ticket, row, history, lambda: ray.get(network))
        except RayError as error:  # the node went down, and the network with it
            self._lost(ticket, str(error))

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        if ticket := self._asker.over(trial.trial_id):
            self._lost(ticket, _last_error(trial))

    def _lost(self, ticket: Ticket, error: str) -> None:
        """Let a trial run again whose worker or node was lost; Tune itself would only once it had begun to run."""
        low = LOW_ON_MEMORY in error  # it would need as much again
        self._losses[ticket.trial_id] += 1
        count = self._losses[ticket.trial_id]
        if count <= (1 if low else LOST):
            self._asker.again.append(ticket)
            return
        reason = "the memory of its node ran out" if low else " ".join(error.split())[:200]
        self._report(ticket, failed(ticket.recipe, f"its worker was lost {count} times: {reason}"), [], None)


def _last_error(trial: Any) -> str:
    """What Tune wrote down of a trial's failure, without the line that says when."""
    return Path(trial.error_file).read_text().partition("\n")[2] if trial.error_file else "for no reason given"


def run_trials(
    shared: Shared, threads: int, allotted: Allotment, ask: Ask, report: Report, hear: Hear = lambda *epoch: True
) -> None:
    """Run what `ask` gives until it gives None.

    threads: of each trial. `report` gets each row, its history and a way to fetch the network; `hear` every epoch of
    a trial that runs, and says whether it goes on. Trials that found the memory of a GPU too small beside others run
    once more when the others have ended, each alone on its device.
    """
    shared = shared._replace(scores=_Scores())
    each, at_once, devices = allotted
    asker = _Asker(ask)
    with _interruptible() as interrupted:

        def fit(asker: _Asker, each: dict[str, float], at_once: int, shares: bool) -> None:
            listener = _Listener(asker, report, interrupted, shares)
            parameters = {"shared": shared, "resources": each, "threads": threads}
            _fit(tune.with_parameters(Trainable, **parameters), each, at_once, asker, listener, _Ear(asker, hear))

        fit(asker, each, at_once, each["gpu"] > 0)
        while asker.short:
            alone = _Asker(partial(next, iter(asker.short), None))
            asker.short = []
            fit(alone, each | {"gpu": max(1.0, each["gpu"])}, devices, False)
            fit(asker, each, at_once, each["gpu"] > 0)


def _fit(trainable: Any, each: dict[str, float], at_once: int, asker: _Asker, listener: _Listener, ear: _Ear) -> None:
    scratch = Path(tempfile.mkdtemp(prefix="pruning-study-"))
    tuner = tune.Tuner(
        tune.with_resources(trainable, each),
        tune_config=tune.TuneConfig(search_alg=asker, num_samples=-1, max_concurrent_trials=at_once, reuse_actors=True),
        run_config=tune.RunConfig(
            storage_path=str(scratch),
            name="trials",
            verbose=0,
            stop=ear,
            callbacks=[listener],
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
        ),
    )
    try:
        tuner.fit()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """An event that Ctrl-C sets: raised inside one of Ray's callbacks alone, the exception would be lost."""
    interrupted = threading.Event()

    def interrupt(*signal_and_frame: object) -> None:
        interrupted.set()
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, before)
