"""The results folder, projected from the ledger: every file is written whole, by rename."""

from __future__ import annotations

import csv
import io
import os
import platform
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

SCHEMA_VERSION = 1
COLUMNS = [
    "trial_id",
    "kind",
    "state",
    "error",
    "seed",
    "criterion",
    "granularity",
    "channel_share",
    "reduce",
    "scope",
    "schedule",
    "requested_sparsity",
    "sparsity_of",
    "initial_sparsity",
    "steps",
    "finetune_epochs",
    "epochs_per_step",
    "finetune_lr",
    "lr_schedule",
    "optimizer",
    "weight_decay",
    "recalibrate",
    "calibration_samples",
    "min_channels",
    "round_to",
    "protect",
    "layer",
    "group",
    "sparsity",
    "channel_sparsity",
    "compression_ratio",
    "baseline_accuracy",
    "baseline_test_accuracy",
    "accuracy",
    "accuracy_drop",
    "test_accuracy",
    "params",
    "nonzero_params",
    "macs",
    "nonzero_macs",
    "theoretical_speedup",
    "size_bytes",
    "sparse_size_bytes",
    "latency_ms",
    "latency_low_ms",
    "latency_high_ms",
    "baseline_latency_ms",
    "speedup",
    "large_batch",
    "batch_latency_ms",
    "baseline_batch_latency_ms",
    "batch_speedup",
    "feasible",
    "repeats",
    "confirms",
    "train_seconds",
    "wall_seconds",
    "started",
    "finished",
]
LAYERS = [
    "layer",
    "type",
    *(f"{prefix}{name}" for name in ("in_channels", "out_channels", "params", "weights") for prefix in ("dense_", "")),
    "nonzero_weights",
    "dense_macs",
    "macs",
    "nonzero_macs",
]
IMPORTANCE = ["objective", "axis", "importance"]
HISTORY = ["trial_id", "epoch", "progress", "sparsity", "train_loss", "accuracy", "seconds"]
PACKAGES = ["torch", "torchvision", "ray", "optuna", "numpy", "pandas", "matplotlib"]


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file whole or not at all: a temporary one beside it, then a rename."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_rows(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """A CSV of `columns`, in that order; what a row lacks is an empty cell."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_whole(path, text.getvalue())


def write_layers(path: Path, dense: list[dict[str, Any]], pruned: list[dict[str, Any]]) -> None:
    """A CSV of what a network keeps of every layer, beside the dense network's; both as `cost.layer_costs`."""
    rows = [{**{f"dense_{k}": v for k, v in a.items()}, **b} for a, b in zip(dense, pruned, strict=True)]
    write_rows(path, LAYERS, rows)


def project(folder: Path, records: Mapping[str, tuple[Mapping[str, Any], list[dict[str, Any]]]]) -> None:
    """trials.csv and history.csv from the ledger's records (trial_id -> row, history)."""
    ordered = [records[trial_id] for trial_id in sorted(records, key=lambda trial_id: (len(trial_id), trial_id))]
    write_rows(folder / "trials.csv", COLUMNS, (row for row, _ in ordered))
    write_rows(folder / "history.csv", HISTORY, (line for _, history in ordered for line in history))


def write_importance(folder: Path, shares: Mapping[str, Mapping[str, float]]) -> None:
    """importance.csv: how much each axis decides, for each objective and for the front; only if that is known."""
    rows = [
        {"objective": objective, "axis": axis, "importance": share}
        for objective, of_axes in shares.items()
        for axis, share in of_axes.items()
    ]
    if rows:
        write_rows(folder / "importance.csv", IMPORTANCE, rows)


class Projector:
    """Projects at most once a second, and at most a twentieth of the time however long the study has grown."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._next = folder, 0.0

    def __call__(self, records: Mapping[str, tuple[Mapping[str, Any], list[dict[str, Any]]]]) -> None:
        started = time.monotonic()
        if started >= self._next:
            project(self._folder, records)
            self._next = started + max(1.0, 20 * (time.monotonic() - started))


def write_study(folder: Path, resolved: Mapping[str, Any], record: Mapping[str, Any]) -> None:
    """study.yaml: the study file with every key written out, and the record of how it was run."""
    content = {**resolved, "record": dict(record)}
    write_whole(folder / "study.yaml", yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=110))


def provenance(command: Sequence[str]) -> dict[str, Any]:
    """Command, start, versions, git commit and hardware: what it takes to run the study again."""
    import torch

    cuda = torch.cuda.is_available()
    return {
        "schema_version": SCHEMA_VERSION,
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


def _git_commit() -> str | None:
    where = Path(__file__).parent
    try:
        return subprocess.check_output(
            ["git", "-C", where, "rev-parse", "HEAD"], text=True, stderr=subprocess.DEVNULL
        ).strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
