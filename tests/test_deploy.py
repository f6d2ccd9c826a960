"""What `deploy/` says, against Ray's own schema and options, as far as one can without machines."""

import json
import subprocess
from pathlib import Path

import jsonschema
import ray
import yaml

DEPLOY = Path(__file__).parents[1] / "deploy"


def test_the_launchers_file_is_what_ray_up_reads() -> None:
    schema = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text())
    jsonschema.validate(yaml.safe_load((DEPLOY / "launcher.yaml").read_text()), schema)


def test_the_job_starts_a_study_and_all_its_workers_are_there() -> None:
    job = yaml.safe_load((DEPLOY / "kuberay.yaml").read_text())
    spec = job["spec"]["rayClusterSpec"]
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    assert "python -m study.run" in job["spec"]["entrypoint"]
    assert spec["authOptions"] == {"mode": "token"}
    groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    assert all(group["template"]["spec"]["containers"][0]["image"] for group in groups)
    assert all(g["minReplicas"] == g["replicas"] == g["maxReplicas"] for g in spec["workerGroupSpecs"])


def test_the_batch_script_is_a_script_and_runs_the_command_on_every_node(tmp_path: Path) -> None:
    """With stand-ins for Slurm and Ray: what they are called with."""
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    programs = {
        "scontrol": "echo node1; echo node2",
        "srun": 'printf "%s\\n" "$@"',
        ".venv/bin/python": "echo secret",
    }
    for name, script in programs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    slurm = {"SUBMIT_DIR": tmp_path, "JOB_NODELIST": "node[1-2]", "JOB_NUM_NODES": 2, "CPUS_PER_TASK": 16}
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin"} | {f"SLURM_{key}": str(value) for key, value in slurm.items()}
    command = ["bash", DEPLOY / "slurm.sh", "--space", "schedules"]
    words = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.split()
    start = [".venv/bin/ray", "symmetric-run", "--address", "node1:6379", "--min-nodes", "2", "--num-cpus", "16", "--"]
    assert words == [*start, ".venv/bin/python", "-m", "study.run", "--address", "auto", "--space", "schedules"]
