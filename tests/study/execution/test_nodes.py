"""A cluster of two nodes on loopback: one is killed, one lacks a package, the head is lost, the token is wrong."""

import contextlib
import csv
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
import torchvision

TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": 64 * "5", "RAY_health_check_period_ms": "1000"}
pytestmark = pytest.mark.ray
ROOT = Path(__file__).parents[3]
# The command, but for the figures: drawing all takes 10 seconds.
RUN = """if True:
    import sys
    from analysis.figures.registry import FIGURES
    from study.run import main
    FIGURES.clear()
    sys.exit(main())
"""
MINE = '''
"""What a user brings: a network, and a criterion that finds the memory of its GPU too small, once."""
from pathlib import Path
import torch
from torch import nn
from pruning import prunable


SEEN = Path("{seen}")

def net(num_classes, in_shape):
    layers = [nn.Conv2d(in_shape[0], 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, num_classes))

def value(model, batches, generator):
    SEEN.mkdir(exist_ok=True)
    calls = len(list(SEEN.iterdir()))
    (SEEN / str(calls)).touch()
    if calls == 1:  # the first call is the driver's, which tries it
        raise torch.OutOfMemoryError("CUDA out of memory")
    return {{name: weight.detach().abs() for name, weight in prunable(model).items()}}
'''
SPACE = """
study: {name: two, trials: 4, search: random}
resources: {cpus: 1, gpus: %s}
baseline: {model: "mine:net", dataset: digits, train_samples: 400, epochs: 1}
space:
  criterion: ["mine.py:value", random]
  granularity: weight
  scope: global
  schedule: one_shot
  finetune_epochs: 2
  finetune_lr: 0.01
  calibration_samples: 64
"""


class Node:
    """A node as `ray start` makes it: a session of processes, of which none survives the kill."""

    def __init__(self, home: Any, *flags: Any, within: Any = ()) -> None:
        command = [*within, Path(sys.executable).with_name("ray"), "start", "--block", "--num-cpus=1", *flags]
        clean = {key: value for key, value in (os.environ | TOKEN).items() if key != "PYTHONPATH"}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        self._process = subprocess.Popen(command, cwd=home, env=clean, start_new_session=True, **pipes)
        self.address = None
        for line in self._process.stdout:
            if found := re.search(r"ray start --address='([^']+)'", line):
                self.address = found[1]
            if "--block" in line:
                break

    def kill(self) -> None:
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, ProcessLookupError):
                if os.getsid(process.pid) == self._process.pid:
                    process.kill()
        self._process.wait()


@pytest.mark.slow
@pytest.mark.parametrize("gpu", [0.25, 0])
def test_a_study_over_two_nodes_outlives_one_of_them(tmp_path: Path, gpu: Any) -> None:
    """The user's module and file travel to the nodes; trials that are lost, or short of a GPU's memory, run again."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "mine.py").write_text(MINE.format(seen=tmp_path / "seen"))
    (home / "two.yaml").write_text(SPACE % gpu)
    gpus = f"--num-gpus={1 if gpu else 0}"
    nodes = [Node(tmp_path, "--head", "--port=0", "--include-dashboard=false", gpus)]
    try:
        # At another address of this machine: a driver joins the node at its own, which must not be the doomed one.
        nodes.append(Node(tmp_path, f"--address={nodes[0].address}", "--node-ip-address=127.0.0.2", gpus))
        command = [sys.executable, "-c", RUN, "--space", "two.yaml", "--address", nodes[0].address]
        environment = os.environ | TOKEN | {"PYTHONPATH": str(ROOT)}
        told = []
        with subprocess.Popen(command, cwd=home, env=environment, text=True, stdout=subprocess.PIPE) as run:
            for line in run.stdout:
                told.append(line)
                if line.startswith("baseline:"):  # what the nodes import from here on is what they were sent
                    (home / "mine.py").unlink(missing_ok=True)
                if line.startswith("trial ") and len(nodes) == 2:
                    nodes.pop().kill()
        assert run.returncode == 0, "".join(told)
    finally:
        for node in nodes:
            node.kill()
    with (home / "results" / "two" / "trials.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["kind"] == "search"]
    failed = [row["error"] for row in rows if row["state"] == "failed"]
    assert len({row["trial_id"] for row in rows}) == len(rows) == 4
    # Without a GPU there is none to be alone on, so the trial that ran out of memory stays failed.
    assert failed == ([] if gpu else ["OutOfMemoryError: CUDA out of memory"])


def small_study(home: Path) -> None:
    (home / "mine.py").write_text(MINE.format(seen=home / "seen"))
    (home / "two.yaml").write_text(SPACE % 0)
    (home / "seen").mkdir()
    for call in ("0", "1"):  # no trial runs out of memory
        (home / "seen" / call).touch()


def command(home: Path, address: Any, **environment: str) -> Any:
    """The small study on the cluster at `address`; its output and errors are one."""
    arguments = [sys.executable, "-c", RUN, "--space", "two.yaml", "--address", address]
    known = os.environ | TOKEN | {"PYTHONPATH": str(ROOT)} | environment
    return subprocess.Popen(arguments, cwd=home, env=known, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


@pytest.mark.slow
def test_a_wrong_token_is_refused_in_one_line_and_the_same_command_can_be_typed_again(tmp_path: Path) -> None:
    small_study(tmp_path)
    head = Node(tmp_path, "--head", "--port=0", "--include-dashboard=false")
    try:
        run = command(tmp_path, head.address, RAY_AUTH_TOKEN=64 * "6")
        told, _ = run.communicate(timeout=120)
    finally:
        head.kill()
    lines = [line for line in told.splitlines() if not line.startswith("images:")]
    assert (run.returncode, len(lines)) == (2, 1), told
    assert lines[0].startswith(f"error: --address {head.address}: the Ray cluster there refuses this command's token;")
    assert not (tmp_path / "results" / "two" / "study.yaml").exists()


@pytest.mark.slow
def test_a_node_without_a_package_is_named_and_the_study_runs_on_the_other(tmp_path: Path) -> None:
    small_study(tmp_path)
    hidden = tmp_path / "nothing"
    hidden.mkdir()
    package = Path(torchvision.__file__).parent
    without = ["unshare", "-m", "sh", "-c", f'mount --bind "{hidden}" "{package}" && exec "$@"', "sh"]
    if subprocess.run([*without, "true"], capture_output=True).returncode:
        pytest.skip("this user may not hide a package from one process")
    nodes = [Node(tmp_path, "--head", "--port=0", "--include-dashboard=false")]
    try:
        nodes.append(Node(tmp_path, f"--address={nodes[0].address}", "--node-ip-address=127.0.0.2", within=without))
        run = command(tmp_path, nodes[0].address)
        told, _ = run.communicate(timeout=600)
    finally:
        for node in nodes:
            node.kill()
    assert run.returncode == 0, told
    (warning,) = [line for line in told.splitlines() if "cannot run trials" in line]
    assert re.match(r"warning: node 127\.0\.0\.2 \(.+\) cannot run trials: ModuleNotFoundError: .*torchvision", warning)
    with (tmp_path / "results" / "two" / "trials.csv").open() as file:
        assert {row["state"] for row in csv.DictReader(file)} == {"complete"}


@pytest.mark.slow
def test_a_head_that_is_lost_ends_the_study_in_one_message(tmp_path: Path) -> None:
    small_study(tmp_path)
    head = Node(tmp_path, "--head", "--port=0", "--include-dashboard=false")
    told = []
    try:
        with command(tmp_path, head.address) as run:
            for line in run.stdout:
                told.append(line)
                if line.startswith("trial ") and "lost" not in told:
                    head.kill()
                    told.append("lost")
    finally:
        head.kill()
    after = told[told.index("lost") + 1 :]
    assert run.returncode == 1, "".join(told)
    errors = [line for line in after if not line.startswith("trial ")]
    assert len(errors) == 1, "".join(told)
    assert errors[0].startswith(f"error: the study failed: the head of the Ray cluster, {head.address}, was lost")
