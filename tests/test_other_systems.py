"""What only Linux has is not needed: a trial and a report run without it, as on macOS and Windows."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from analysis import report
from analysis.results_folder import read
from study.results import provenance
from tests.conftest import TINY
from tests.results_folder import make

ROOT = Path(__file__).parents[1]
# What macOS or Windows lacks, taken away before anything of the project is imported.
WITHOUT = """
import os, signal, sys
for module, names in (
    (os, ("sched_getaffinity", "sched_setaffinity", "getloadavg", "fork", "nice", "killpg")),
    (signal, ("SIGHUP", "SIGALRM", "setitimer", "alarm", "SIGQUIT", "SIGUSR1")),
):
    for name in names:
        delattr(module, name)
sys.modules["resource"] = None
import analysis.compare, analysis.report, study.evaluate, study.export, study.replay, study.run, study.trial
from study.driver.interruption import SIGNALS, interruptible
with interruptible() as interruption:
    assert interruption.exit_code == 130
assert [one.name for one in SIGNALS] == ["SIGINT", "SIGTERM"]
sys.exit(study.trial.main(sys.argv[1:]))
"""


def test_a_trial_runs_without_what_only_linux_has() -> None:
    settings = [part for setting in [*TINY, "space.finetune_epochs=0"] for part in ("--set", setting)]
    command = [sys.executable, "-c", WITHOUT, "--space", "quickstart", *settings]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert '"state": "complete"' in done.stdout


def test_the_hardware_is_described_without_linux(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 12)
    monkeypatch.setattr(provenance, "Path", lambda *_: Path("/nowhere/at/all"))
    hardware = provenance.provenance(["x"])["hardware"]
    assert hardware["cores"] == 12
    assert isinstance(hardware["cpu"], str)


def test_figures_are_drawn_where_processes_cannot_be_forked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "get_all_start_methods", lambda: ["spawn"])
    monkeypatch.setattr(report, "ProcessPoolExecutor", None)
    results = read(make(tmp_path))
    assert list(report._draw(results, ["layers", "latency"], jobs=4)) == ["layers", "latency"]
