"""A cluster of two nodes on loopback, one of them killed; what fits on nodes; how a cluster is joined."""

import contextlib
import csv
import json
import os
import re
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import psutil
import pytest
import torchvision
from ray.exceptions import AuthenticationError, GetTimeoutError, RuntimeEnvSetupError

import models
from study.config import RefusedError, Resources, parse
from study.execution import allotment, cluster, ray_adapter, remote
from study.execution import allotment as gpu_memory

TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": 64 * "5", "RAY_health_check_period_ms": "1000"}
pytestmark = pytest.mark.ray
ROOT = Path(__file__).parents[3]
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
    short = not any(SEEN.iterdir())
    (SEEN / "once").touch()
    if short:
        raise torch.OutOfMemoryError("CUDA out of memory")
    return {{name: weight.detach().abs() for name, weight in prunable(model).items()}}
'''
SPACE = """
study: {name: two, trials: 6, search: random}
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


@pytest.mark.parametrize("gpu", [0.25, pytest.param(0, marks=pytest.mark.slow)])
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
        command = [sys.executable, "-m", "study.run", "--space", "two.yaml", "--address", nodes[0].address]
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
    assert len({row["trial_id"] for row in rows}) == len(rows) == 6
    # Without a GPU there is none to be alone on, so the trial that ran out of memory stays failed.
    assert failed == ([] if gpu else ["OutOfMemoryError: CUDA out of memory"])


def small_study(home: Path) -> None:
    (home / "mine.py").write_text(MINE.format(seen=home / "seen"))
    (home / "two.yaml").write_text(SPACE % 0)
    (home / "seen").mkdir()
    (home / "seen" / "once").touch()  # no trial runs out of memory


def command(home: Path, address: Any, **environment: str) -> Any:
    """The small study on the cluster at `address`; its output and errors are one."""
    arguments = [sys.executable, "-m", "study.run", "--space", "two.yaml", "--address", address]
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
    assert (run.returncode, len(told.splitlines())) == (2, 1), told
    assert told.startswith(f"error: --address {head.address}: the Ray cluster there refuses this command's token; set")
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


def on(monkeypatch: pytest.MonkeyPatch, *nodes: Any) -> None:
    monkeypatch.setattr(
        "study.execution.cluster.ray.nodes",
        lambda: [
            {"Alive": True, "NodeID": f"node {number}", "Resources": {"CPU": c, "GPU": g}}
            for number, (c, g) in enumerate(nodes)
        ],
    )


@pytest.mark.parametrize(
    ("nodes", "resources", "each", "at_once"),
    [
        ([(8, 0), (4, 0)], {"cpus": 3}, {"cpu": 3, "gpu": 0}, 3),  # 2 and 1: not 12 // 3
        ([(8, 1), (8, 0)], {}, {"cpu": 1, "gpu": 1}, 1),  # the node without a GPU runs no trial
        ([(8, 2), (2, 1)], {"gpus": 0.25}, {"cpu": 1, "gpu": 0.25}, 10),
        ([(16, 2)], {"gpus": 0.3}, {"cpu": 1, "gpu": 0.3}, 6),  # three on each of them
        ([(16, 4)], {"gpus": 2}, {"cpu": 1, "gpu": 2}, 2),
        ([(4, 1)], {"gpus": 0}, {"cpu": 1, "gpu": 0}, 4),
        ([(8, 0)], {"concurrency": 3}, {"cpu": 1, "gpu": 0}, 3),
    ],
)
def test_what_fits_is_counted_node_by_node(
    monkeypatch: pytest.MonkeyPatch, nodes: Any, resources: Any, each: Any, at_once: Any
) -> None:
    on(monkeypatch, *nodes)
    allotted = allotment.allotment(Resources(**resources))
    assert (allotted.each, allotted.at_once) == (each, at_once)


def test_who_measures_latency_has_a_node_to_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    on(monkeypatch, (8, 1), (4, 1), (16, 0))
    assert allotment.allotment(Resources(), alone=True)[:2] == ({"cpu": 8, "gpu": 1}, 1)
    on(monkeypatch, (8, 0), (8, 0))
    assert allotment.allotment(Resources(), alone=True)[:2] == ({"cpu": 8, "gpu": 0}, 2)


def test_what_never_fits_is_refused_with_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    on(monkeypatch, (2, 0), (4, 0))
    with pytest.raises(RefusedError, match=r"a trial asks for 6 CPUs and 0 GPUs; the nodes have 2 and 0, 4 and 0"):
        allotment.allotment(Resources(cpus=6))


def test_trials_that_share_a_gpu_must_fit_in_its_memory() -> None:
    gpu_memory.check_memory(0.25, 20 * 2**30, 80 * 2**30)
    with pytest.raises(
        RefusedError, match=r"0.25 puts 4 trials on a GPU of 80.0 GiB, .* 30.0 GiB; give each at least 0.5"
    ):
        gpu_memory.check_memory(0.25, 30 * 2**30, 80 * 2**30)


def test_a_cluster_is_sent_the_code_and_a_job_brings_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "environ", {})
    monkeypatch.setattr(os, "getloadavg", lambda: (0.0, 0.0, 0.0))
    file = parse({"study": {"name": "x"}}, "here")
    sent = cluster._init_arguments("head:6379", file, tmp_path)["runtime_env"]
    assert sent == {"py_modules": cluster.code(file, tmp_path), "env_vars": {}}
    os.environ["RAY_JOB_CONFIG_JSON_ENV_VAR"] = "{}"
    joining = cluster._init_arguments(None, file, tmp_path)
    assert joining == {"address": "auto", "runtime_env": {"env_vars": {}}}


@pytest.mark.parametrize(("load", "policy"), [(0.1, {}), (3.0, {"OMP_WAIT_POLICY": "passive"})])
@pytest.mark.parametrize("chosen", [{}, {"OMP_WAIT_POLICY": "active"}])
def test_threads_yield_at_barriers_where_others_compute_here_on_a_cluster_and_in_a_job(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, load: Any, policy: Any, chosen: Any
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 0.0, 0.0))
    file = parse({"study": {"name": "x"}}, "here")
    monkeypatch.setattr(os, "environ", {**chosen})
    cluster._init_arguments(None, file, tmp_path)
    assert {k: v for k, v in os.environ.items() if k == "OMP_WAIT_POLICY"} == policy | chosen
    assert os.environ[ray_adapter.NICENESS] == "0"
    monkeypatch.setattr(os, "environ", {**chosen})
    assert cluster._init_arguments("head:6379", file, tmp_path)["runtime_env"]["env_vars"] == policy | chosen
    job = {"runtime_env": {"env_vars": chosen}}  # which its workers have anyway, and Ray refuses to be told twice
    monkeypatch.setattr(os, "environ", {**chosen, "RAY_JOB_CONFIG_JSON_ENV_VAR": json.dumps(job)})
    told = cluster._init_arguments("auto", file, tmp_path)["runtime_env"]["env_vars"]
    assert told == ({} if chosen else policy)


def test_a_worker_takes_the_niceness_of_the_study_where_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    set_to = []
    monkeypatch.setattr(os, "setpriority", lambda *arguments: set_to.append(arguments))
    remote.set_niceness(4)
    assert set_to == [(os.PRIO_PROCESS, 0, 4)]

    def refuse(*arguments: Any) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "setpriority", refuse)
    remote.set_niceness(0)


def test_a_node_that_is_left_out_counts_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    on(monkeypatch, (8, 0), (4, 0))
    assert remote.usable() == {}
    remote.leave_out(["node 1"])
    try:
        assert allotment.allotment(Resources())[:2] == ({"cpu": 1, "gpu": 0}, 8)
        assert remote.usable() == {"ray.io/node-id": "!in(node 1)"}
    finally:
        remote.leave_out([])


def test_a_head_that_nobody_answers_at_ends_the_process_with_a_message(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ended = threading.Event()

    def end(code: int) -> None:
        assert code == 1
        ended.set()

    monkeypatch.setattr(cluster, "LOST_SECONDS", 0.0)
    monkeypatch.setattr(os, "_exit", end)
    with socket.create_server(("127.0.0.1", 0)) as server:
        head = f"127.0.0.1:{server.getsockname()[1]}"
        with cluster._watched(head):
            assert not ended.wait(0)
    with cluster._watched(head):
        assert ended.wait(10)
    said = capsys.readouterr().err
    assert said.startswith(f"error: the study failed: the head of the Ray cluster, {head}, was lost or started again")
    assert len(said.splitlines()) == 1


SETUP = """Failed to set up runtime environment.
[Node 10.0.0.2] Traceback (most recent call last):
  File "agent.py", line 198, in setup_logger
    yield logger
OSError: [Errno 28] No space left on device
"""


def test_errors_of_nodes_are_told_without_their_tracebacks(monkeypatch: pytest.MonkeyPatch) -> None:
    told = {
        RuntimeEnvSetupError(SETUP): "[Node 10.0.0.2] OSError: [Errno 28] No space left on device",
        GetTimeoutError("Get timed out"): "no answer within 120 seconds",
    }
    for error, said in told.items():

        def fail(*arguments: Any, error: Exception = error, **named: Any) -> None:
            raise error

        monkeypatch.setattr("study.execution.cluster.ray.get", fail)
        assert cluster._outcome(None).endswith(said)
        assert "\n" not in cluster._outcome(None)


UNAUTHENTICATED = """Failed to connect to GCS. Last connection error: Traceback (most recent call last):
  File "common.pxi", line 119, in ray._raylet.check_status
ray.exceptions.AuthenticationError: RPC error: InvalidAuthToken: Authentication token is missing or incorrect
"""


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (AuthenticationError("no token was found"), "there refuses this command's token; set RAY_AUTH_MODE=token"),
        (ConnectionError("Failed to connect"), "no Ray cluster answers there: Failed to connect"),
    ],
)
def test_why_no_cluster_was_joined_is_told_in_one_line(error: Any, said: Any) -> None:
    assert said in cluster._reason(error)
    error.__cause__ = RuntimeError(UNAUTHENTICATED)
    assert "refuses this command's token" in cluster._reason(error)
    assert "\n" not in cluster._reason(error)


def test_code_is_the_packages_and_the_users_modules_but_none_that_pip_brought(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "my_single_file.py").touch()
    (tmp_path / "my_package").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    space = {"criterion": ["my_package.deep:value", "random", "my_single_file:value"]}
    file = parse({"study": {"name": "x"}, "baseline": {"model": "torchvision.models:resnet18"}, "space": space}, "here")
    ours = [str(ROOT / name) for name in ("study", "pruning", "models", "search_spaces", "analysis")]
    assert cluster.code(file, tmp_path) == [*ours, str(tmp_path / "my_package"), str(tmp_path / "my_single_file.py")]


def test_functions_of_one_file_travel_in_one_folder_and_are_found_on_the_path_of_the_other_machine(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    (here / "nets").mkdir(parents=True)
    there.mkdir()
    (here / "nets" / "mine.py").write_text("net = value = dict\n")
    monkeypatch.chdir(here)
    section = {"model": "nets/mine.py:net"}
    file = parse({"study": {"name": "x"}, "baseline": section, "space": {"criterion": "nets/mine.py:value"}}, "here")
    *ours, folder = cluster.code(file, tmp_path / "parcels")
    assert len(ours) == 5
    monkeypatch.chdir(there)
    with pytest.raises(ValueError, match=r"there is no file .*/there/nets/mine.py"):
        models.imported("nets/mine.py:net")
    monkeypatch.syspath_prepend(Path(folder).parent)
    assert models.imported("nets/mine.py:net") is dict


@pytest.mark.parametrize(("name", "own"), [("models", False), ("study.py", False), ("data", True)])
def test_workers_are_told_of_our_packages_where_others_of_their_names_are(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: Any, own: Any
) -> None:
    (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", "theirs")
    joining = cluster._init_arguments(None, parse({"study": {"name": "x"}}, "here"), tmp_path)
    told = {} if own else {"worker_process_setup_hook": "study.find_own_packages"}
    assert joining["runtime_env"] == told
    assert os.environ["PYTHONPATH"] == os.pathsep.join([str(ROOT), "theirs"])
