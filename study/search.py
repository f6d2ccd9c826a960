"""Ray: the baseline as a task, trials on reused actors, results to the driver. The only file that knows Ray."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Before ray is imported: no usage statistics, no loggers that write each result three times over, Ctrl-C to us,
# and no state snapshots of Tune's own (the ledger is what a study is resumed from).
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
os.environ["TUNE_GLOBAL_CHECKPOINT_S"] = "1000000000"
os.environ["RAY_AIR_NEW_OUTPUT"] = "0"
os.environ["RAY_CHDIR_TO_TRIAL_DIR"] = "0"
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

import ray
import torch
from ray import tune
from ray.tune.search import Searcher

from study import baseline as baselines
from study.config import BaselineSection, Recipe, Refused, Resources
from study.data import Data
from study.ledger import Record, Ticket
from study.scores import Arrays
from study.trial import Network, Outcome, Shared, live

WAIT = "wait"  # nothing to run before those that run now have ended
LEASE = 300.0  # seconds after which scores that a worker began to compute, and did not bring, are another's to compute
LOST = 2  # a trial whose worker or node died is tried again this often, elsewhere
Ask = Callable[[], Ticket | str | None]  # a trial to run, WAIT, or None: no further one


@contextmanager
def cluster(address: str | None) -> Iterator[str]:
    """A running Ray: the one at `address`, or one of this machine's own; gives the dashboard's address."""
    # Workers import the user's own modules (model, criterion) from where the command was typed.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [os.getcwd(), os.environ.get("PYTHONPATH")]))
    for name in ("ray", "ray.tune", "ray.data"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # a lost worker becomes a row, not a traceback
    local: dict[str, Any] = {} if address else {"include_dashboard": True, "dashboard_host": "127.0.0.1"}
    try:
        context = ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False, **local)
    except (ConnectionError, ValueError) as error:
        raise Refused(f"--address {address}: no Ray cluster to be reached there: {error}") from None
    try:
        yield f"http://{context.dashboard_url}" if context.dashboard_url else ""
    finally:
        ray.shutdown()


def make_baseline(section: BaselineSection, data: Data) -> Iterator[Record | baselines.Baseline]:
    """`baseline.make` as a Ray task, on all cores of a node (and a GPU where there is one)."""
    cores = max(node["Resources"].get("CPU", 1) for node in ray.nodes() if node["Alive"])
    gpus = 1 if ray.cluster_resources().get("GPU") else 0

    @ray.remote(num_cpus=cores, num_gpus=gpus, num_returns="streaming", max_retries=2)
    def task(section: BaselineSection, data: Data) -> Any:
        torch.set_num_threads(int(cores))
        yield from baselines.make(section, data, _device(gpus))

    references: Any = task.remote(section, data)
    for reference in references:
        yield ray.get(reference)


def allotment(resources: Resources) -> tuple[dict[str, float], int]:
    """What one trial gets ({"cpu", "gpu"}) and how many run at once. Raises Refused if none could ever run."""
    total = ray.cluster_resources()
    cpus, gpus = total.get("CPU", 0), total.get("GPU", 0)
    gpu = (1.0 if gpus else 0.0) if resources.gpus == "auto" else resources.gpus
    fits = int(cpus // resources.cpus) if not gpu else int(min(cpus // resources.cpus, gpus // gpu))
    if fits < 1:
        raise Refused(
            f"resources: a trial asks for {resources.cpus} CPUs and {gpu:g} GPUs; there are {cpus:g} and {gpus:g}"
        )
    wanted = fits if resources.concurrency == "auto" else min(fits, resources.concurrency)
    return {"cpu": resources.cpus, "gpu": gpu}, wanted


def on_device_alone(work: Callable[..., Any], *arguments: Any) -> Any:
    """`work(*arguments, device)` as a Ray task on all cores of a node (and a GPU where there is one), one thread."""
    cores = max(node["Resources"].get("CPU", 1) for node in ray.nodes() if node["Alive"])
    gpus = 1 if ray.cluster_resources().get("GPU") else 0

    @ray.remote(num_cpus=cores, num_gpus=gpus)
    def task(*arguments: Any) -> Any:
        torch.set_num_threads(1)
        return work(*arguments, _device(gpus))

    return ray.get(task.remote(*arguments))  # as arguments they may be large, captured by the function not


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
        self._desk: Any = ray.remote(num_cpus=0)(_Desk).remote()

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
    """One trial after another in one process; a step is a fine-tuning epoch, the last brings the outcome."""

    def setup(self, config: dict[str, Any], **parameters: Any) -> None:
        shared, resources = parameters["shared"], parameters["resources"]
        torch.set_num_threads(int(resources["cpu"]))
        self._shared, self._device = shared, _device(resources["gpu"])
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        ticket = Ticket(*new_config["ticket"])
        self._story = live(Recipe(**ticket.recipe), ticket.seed, self._shared, self._device, ticket.plan)
        return True

    def step(self) -> dict[str, Any]:
        try:
            return {"epoch": next(self._story)}
        except StopIteration as end:
            outcome: Outcome = end.value
            # The network waits in this node's object store: only if the driver wants it does it travel.
            return {"done": True, "outcome": [outcome.row, outcome.history, ray.put(outcome.network)]}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """A lost trial starts anew: there is nothing to keep."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """See save_checkpoint."""


class _Unpickled:
    """Tune pickles searchers and callbacks to restore them, which it never does here: the ledger has it all."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class _Asker(_Unpickled, Searcher):
    """Tune's side of the ledger: every suggestion is a ticket."""

    def __init__(self, ask: Ask, lose: Callable[[Ticket], None]) -> None:
        super().__init__()
        self._ask, self._lose = ask, lose
        self.tickets: dict[str, Ticket] = {}

    def suggest(self, trial_id: str) -> Any:
        ticket = self._ask()
        if ticket is None:
            return Searcher.FINISHED
        if ticket == WAIT:
            return None  # Tune asks again
        assert isinstance(ticket, Ticket)
        self.tickets[trial_id] = ticket
        return {"ticket": list(ticket)}

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        ticket = self.tickets.pop(trial_id, None)
        if error and ticket:
            self._lose(ticket)

    def save(self, checkpoint_path: str) -> None:
        """Nothing, see _Unpickled."""

    def restore(self, checkpoint_path: str) -> None:
        """See save."""


class _Listener(_Unpickled, tune.Callback):
    """Hands the driver what workers report, and takes the network off Tune's copy of the result."""

    def __init__(self, asker: _Asker, report: Callable[..., None], interrupted: threading.Event) -> None:
        self._asker, self._report, self._interrupted = asker, report, interrupted

    def on_step_end(self, iteration: int, trials: Any, **info: Any) -> None:
        if self._interrupted.is_set():
            raise KeyboardInterrupt

    def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: Any, **info: Any) -> None:
        ticket = self._asker.tickets.get(trial.trial_id)
        if ticket and "outcome" in result:
            row, history, network = result.pop("outcome")
            self._report(ticket, row, history, lambda: ray.get(network))


def run_trials(
    shared: Shared,
    resources: Resources,
    ask: Ask,
    report: Callable[[Ticket, Record, list[Record], Callable[[], Network] | None], None],
) -> None:
    """Run what `ask` gives until it gives None. `report` gets each row, its history and a way to fetch the network."""
    each, at_once = allotment(resources)
    scratch = Path(tempfile.mkdtemp(prefix="pruning-study-"))

    def lose(ticket: Ticket) -> None:
        row = {**ticket.recipe, "requested_sparsity": ticket.recipe.get("sparsity")}
        row |= {"state": "failed", "error": f"its worker was lost {LOST + 1} times", "sparsity": None}
        report(ticket, row, [], None)

    shared = shared._replace(scores=_Scores())
    asker = _Asker(ask, lose)
    interrupted = threading.Event()

    def interrupt(*signal_and_frame: object) -> None:
        # Raised inside one of Ray's callbacks, the exception would be lost: the event brings it up again.
        interrupted.set()
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, interrupt)
    trainable = tune.with_parameters(Trainable, shared=shared, resources=each)
    tuner = tune.Tuner(
        tune.with_resources(trainable, each),
        tune_config=tune.TuneConfig(search_alg=asker, num_samples=-1, max_concurrent_trials=at_once, reuse_actors=True),
        run_config=tune.RunConfig(
            storage_path=str(scratch),
            name="trials",
            verbose=0,
            callbacks=[_Listener(asker, report, interrupted)],
            failure_config=tune.FailureConfig(max_failures=LOST),
        ),
    )
    try:
        tuner.fit()
    finally:
        signal.signal(signal.SIGINT, before)
        shutil.rmtree(scratch, ignore_errors=True)


def _device(gpus: float) -> torch.device:
    return torch.device("cuda" if gpus and torch.cuda.is_available() else "cpu")
