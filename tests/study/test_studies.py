"""Studies in this process: scope `sensitivity`, end to end; one that is finished; one that a signal ends."""

import contextlib
import csv
import io
import os
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml

from analysis.figures import registry
from pruning.allocation.scopes import SCOPES
from study import run
from study.config import parse
from study.execution import cluster
from study.search.trial_queue import TrialQueue
from study.trials import scan
from tests.conftest import TINY

pytestmark = pytest.mark.ray
# One at a time: each worker takes longer to import everything than all trials of it.
SETTINGS = [*TINY, "baseline.model=tests.networks:tiny", "baseline.dataset=digits", "resources.concurrency=1"]
LAYERS, GROUPS = 3, 2
SHARES = [0.25, 0.5, 0.75]  # that the scan tries, of nine


@pytest.fixture(scope="module", autouse=True)
def nothing_to_look_at() -> Iterator[None]:
    """No figures, and no dashboard: they take seconds."""
    start = ray.init
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "FIGURES", {})
        patch.setattr(ray, "init", lambda **options: start(**options | {"include_dashboard": False}))
        yield


@pytest.fixture(scope="module", autouse=True)
def one_ray(tmp_path_factory: pytest.TempPathFactory, nothing_to_look_at: None) -> Iterator[None]:
    """One local cluster for all studies: workers import everything only once."""
    started = cluster.cluster(None, parse({"study": {"name": "x"}}, "here"), tmp_path_factory.mktemp("ray"))
    with started, pytest.MonkeyPatch.context() as patch:
        patch.setattr(cluster, "cluster", lambda *_: contextlib.nullcontext(""))
        yield


class Told(io.StringIO):
    """What a command prints; `then` is called once a line has `mark`."""

    def __init__(self, mark: str = "", then: Callable[[], object] | None = None) -> None:
        super().__init__()
        self._mark, self._then = mark, then

    def write(self, text: str) -> int:
        if self._then and self._mark in text:
            self._then()
            self._then = None
        return super().write(text)


def ended(*arguments: Any, told: Any = None) -> tuple[int, str]:
    """The exit code and the output of the command, in this process."""
    told = told or Told()
    with contextlib.redirect_stdout(told):
        return run.main(list(map(str, arguments))), told.getvalue()


def study(space: Any, out: Any, *settings: Any, told: Any = None) -> tuple[int, str]:
    changes = [part for setting in (*SETTINGS, *settings) for part in ("--set", setting)]
    return ended("--space", space, "--out", out, *changes, told=told)


def rows(folder: Any, name: Any = "trials.csv") -> Any:
    with open(folder / name) as file:
        return list(csv.DictReader(file))


def finished(output: str) -> list[str]:
    """Ids of the trials whose lines are in what a command printed."""
    return [line.split()[1] for line in output.splitlines() if line.startswith("trial ")]


@pytest.fixture(scope="module")
def scopes(cache: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The space of scopes with a criterion that looks at data; the scan by itself; and the first one resumed."""
    out = tmp_path_factory.mktemp("out")
    extra = ["study.confirm_seeds=1", "study.controls=[dense, scratch]", "space.reconstruct=none"]  # as the scan has it
    extra += ["study.objectives={accuracy: max, macs: min}"]  # puts cut networks on the front
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scan, "RATIOS", SHARES)
        runs = [study("scopes", out, "space.criterion=taylor", "space.sparsity=0.5", "study.seeds=1", *extra)]
        scanned = ["space.criterion=taylor", f"space.sparsity={SHARES}", "space.finetune_epochs=0"]
        runs.append(study("layer_sensitivity", out, *scanned))
        runs.append(ended("--resume", out / "scopes"))
    assert [code for code, _ in runs] == [0] * 3, runs
    return out, *(told for _, told in runs)


def test_every_scope_meets_its_target_for_weights_and_channels(scopes: Any) -> None:
    search = [row for row in rows(scopes[0] / "scopes") if row["kind"] == "search"]
    assert Counter(row["state"] for row in search) == {"complete": 2 * len(SCOPES)}, [row["error"] for row in search]
    for row in search:
        assert float(row["sparsity"]) == pytest.approx(0.5, abs=0.002 if row["granularity"] == "weight" else 0.15)


def test_the_scan_cut_every_layer_and_group_alone(scopes: Any) -> None:
    scan = rows(scopes[0] / "scopes" / "scan")
    assert len(scan) == len(SHARES) * (LAYERS + GROUPS)
    assert {row["state"] for row in scan} == {"complete"}
    assert Counter(row["layer"] for row in scan)["0"] == len(SHARES)
    assert Counter(row["group"] for row in scan)["3"] == len(SHARES)
    whole = next(row for row in scan if row["layer"] == "3" and row["requested_sparsity"] == "0.5")
    assert float(whole["sparsity"]) == pytest.approx(108 / (36 + 216 + 60), abs=0.01)


def test_what_was_scanned_is_not_scanned_again(scopes: Any) -> None:
    out, first, second, _ = scopes
    assert sum(line.startswith("trial ") for line in first.splitlines()) >= len(SHARES) * (LAYERS + GROUPS)
    assert not [line for line in second.splitlines() if line.startswith("trial ")]
    kept = rows(out / "layer_sensitivity")
    known = {
        (row["layer"], row["group"], row["requested_sparsity"]): row["accuracy"] for row in rows(out / "scopes/scan")
    }
    assert len(kept) == len(known)
    for row in kept:
        assert known[row["layer"], row["group"], row["requested_sparsity"]] == row["accuracy"]


def test_what_figures_need_of_gradients_and_weights_is_there(scopes: Any) -> None:
    folder = scopes[0] / "scopes"
    assert {row["criterion"] for row in rows(folder, "layer_scores.csv")} == {"gradient_norm", "saliency"}
    networks = list((folder / "models").glob("*/histograms.csv"))
    assert networks
    assert len(rows(networks[0].parent, networks[0].name)) == 60 * LAYERS


def test_a_finished_study_has_nothing_left_to_do(scopes: Any) -> None:
    done = rows(scopes[0] / "scopes")
    assert {row["schedule"] for row in done if row["kind"] == "control"} == {"dense", "scratch"}
    assert sum(row["kind"] == "confirm" for row in done) >= 1
    assert finished(scopes[3]) == []


def test_a_signal_among_trials_ends_it_in_order_and_it_prints_how_to_go_on(tmp_path: Path) -> None:
    sent = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGTERM))
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)  # one that comes too late ends no tests
    try:
        code, told = study("quickstart", tmp_path, "study.trials=6", told=Told("(2/6)", sent.start))
    finally:
        signal.signal(signal.SIGTERM, before)
    folder = tmp_path / "quickstart"
    assert code == 143, told
    words = "stopped by SIGTERM; all finished trials are kept. Continue with:"
    assert told.endswith(f"\n{words}\n  python -m study.run --resume {folder}\n")
    done = finished(told)
    assert 2 <= len(done) < 6
    # What --resume does then: test_run.py runs it after a worse end.
    content = yaml.safe_load((folder / "study.yaml").read_text())
    queue = TrialQueue(folder, parse({key: content[key] for key in content if key != "record"}, "study.yaml"))
    left = []
    while ticket := queue.ask():
        left.append(ticket.trial_id)
    queue.store.close()
    assert len(done) + len(left) == 6
    assert not set(done) & set(left)
    assert {row["trial_id"]: row["state"] for row in rows(folder)} == dict.fromkeys(done, "complete")


def test_of_paused_trials_the_better_go_on_and_the_others_are_stopped_in_the_end(cache: Any, tmp_path: Path) -> None:
    promoting = "study.stop_early={min_epochs: 1, reduction: 2, promote: true}"
    settings = ["study.trials=6", "space.finetune_epochs=3", "space.schedule=one_shot", promoting]
    code, told = study("quickstart", tmp_path, *settings)
    assert code == 0, told
    states = {row["trial_id"]: row["state"] for row in rows(tmp_path / "quickstart") if row["kind"] == "search"}
    assert Counter(states.values()) in ({"complete": n, "stopped": 6 - n} for n in (1, 2, 3)), told
    epochs = Counter(line["trial_id"] for line in rows(tmp_path / "quickstart", "history.csv"))
    assert all(
        (epochs[name] == 3) if state == "complete" else (epochs[name] in (1, 2)) for name, state in states.items()
    )
    assert {states[name] for name in finished(told)[-4:-1]} == {"stopped"}  # before the dense control
