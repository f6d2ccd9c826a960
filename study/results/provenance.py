"""Provenance of a study, for study.yaml: command, start time, versions, git commit and hardware."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from study.config.columns import SCHEMA_VERSION
from study.config.recipe import EARLIER_DEFAULTS, Recipe

PACKAGES = ["torch", "torchvision", "ray", "optuna", "numpy", "pandas", "matplotlib"]


def provenance(command: Sequence[str]) -> dict[str, Any]:
    """The schema version, recipe defaults, command, start time, package versions, git commit and hardware."""
    import torch

    cuda = torch.cuda.is_available()
    return {
        "schema_version": SCHEMA_VERSION,
        "recipe_defaults": {key: Recipe.model_fields[key].default for key in EARLIER_DEFAULTS},
        "command": " ".join(command),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "versions": {"python": platform.python_version(), **{name: metadata.version(name) for name in PACKAGES}},
        "git_commit": _git_commit(),
        "hardware": {
            "machine": platform.machine(),
            "cpu": _cpu_name(),
            "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if cuda else [],
        },
    }


def data_dir(folder: Path, record: Mapping[str, Any], dataset: str, given: Path | None) -> str | None:
    """Where the images of the study in `folder` are: in the folder that is `given` now, otherwise in the recorded one.

    Raises ValueError, naming it, if the recorded folder of an image folder is gone; other data sets may be cached.
    """
    recorded: str | None = record.get("data_dir")
    if given is not None:
        return str(given.expanduser().resolve())
    if recorded and dataset == "imagefolder" and not Path(recorded).is_dir():
        raise ValueError(
            f"{folder / 'study.yaml'}: the images of this study were in {recorded}, which is no folder now; "
            "--data-dir DIR says where they are"
        )
    return recorded


def _git_commit() -> str | None:
    folder = Path(__file__).parent
    try:
        return subprocess.check_output(
            ["git", "-C", folder, "rev-parse", "HEAD"], text=True, stderr=subprocess.DEVNULL
        ).strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
