"""What fits on nodes, how a cluster is joined, and what is said where it fails; with stand-ins for Ray."""

import json
import os
import socket
import threading
from pathlib import Path
from typing import Any

import pytest
from ray.exceptions import AuthenticationError, GetTimeoutError, RuntimeEnvSetupError

import models
from study.config import RefusedError, Resources, parse
from study.execution import allotment, cluster, ray_adapter, remote
from study.execution import allotment as gpu_memory

pytestmark = pytest.mark.ray
ROOT = Path(__file__).parents[3]


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


def test_a_system_without_load_averages_counts_as_idle(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "environ", {})
    monkeypatch.delattr(os, "getloadavg")
    arguments = cluster._init_arguments(None, parse({"study": {"name": "x"}}, "here"), tmp_path)
    assert arguments["address"] == "local"
    assert "OMP_WAIT_POLICY" not in os.environ


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
