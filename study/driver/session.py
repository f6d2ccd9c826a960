"""A study that is begun, or taken up again: its file, its folder, and the record of how it is run."""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from study.config import StudyFile, parse, read_study
from study.data.splits import Data
from study.results import provenance
from study.search.trial_queue import TrialQueue
from study.search.trial_store import TrialStore
from study.training.epochs import Row
from study.trials.scan import ScanCache


@dataclass(frozen=True)
class RunOptions:
    """How this run goes about its study.

    address: of a Ray cluster; None: a cluster of this machine's own. tensorboard: whether curves are written for it.
    deadline: in seconds of time.monotonic, after which no trial is begun.
    """

    address: str | None = None
    tensorboard: bool = False
    deadline: float = float("inf")


@dataclass(frozen=True)
class StudyRun:
    """A study while it is run.

    folder: its results folder.
    record: how it is run (versions, hardware, data folder, the baseline's measures), for study.yaml.
    data: its images.
    queue: what is to run next; with it the store of all trials.
    scans: cuts of single layers that were scanned before.
    options: how this run goes about it.
    dashboard: the address of Ray's, or "".
    """

    folder: Path
    record: Row
    data: Data
    queue: TrialQueue
    scans: ScanCache
    options: RunOptions
    dashboard: str = ""

    @property
    def file(self) -> StudyFile:
        """The study file, resolved."""
        return self.queue.file

    @property
    def store(self) -> TrialStore:
        """All trials of the study."""
        return self.queue.store

    def of_scan(self, file: StudyFile) -> StudyRun:
        """The run of the sensitivity scan that comes before this study, in a folder of its own."""
        folder = self.folder / "scan"
        folder.mkdir(exist_ok=True)
        return replace(self, folder=folder, queue=TrialQueue(folder, file, known=self.scans.find))


def new_study(args: argparse.Namespace) -> tuple[StudyFile, Path, Row]:
    """The study file that the command names, its folder, and the record of this run.

    Raises ValueError where the file is wrong, or the folder is taken by another study.
    """
    flags = [f"study.{key}={value}" for key in ("trials", "hours", "seed") if (value := getattr(args, key)) is not None]
    file = read_study(args.space, args.set + flags)
    folder = args.out / file.study.name
    # A lock and a journal alone are what a run leaves that was killed before it began.
    if not args.dry_run and folder.exists() and {p.name for p in folder.iterdir()} - {".lock", "optuna.journal"}:
        raise ValueError(
            f"{folder}: this results folder is taken; go on with it by --resume {folder}, "
            f"or choose another --out or --set study.name=..."
        )
    record = provenance.provenance([_command(), *sys.argv[1:]])
    data_dir = str(args.data_dir.resolve()) if args.data_dir else None
    return file, folder, record | {"data_dir": data_dir}


def resumed_study(args: argparse.Namespace) -> tuple[StudyFile, Path, Row]:
    """The study of a results folder, as `new_study`. Raises ValueError where there is none, or the flags change it."""
    folder = args.resume
    if not (folder / "optuna.journal").is_file() or not (folder / "study.yaml").is_file():
        raise ValueError(f"{folder}: no results folder of a study (study.yaml and optuna.journal are not both there)")
    if args.set or args.seed is not None:
        raise ValueError("--resume: a study goes on as it began; only --trials and --hours may be given with it")
    content = yaml.safe_load((folder / "study.yaml").read_text())
    if not isinstance(content, dict) or not isinstance(record := content.pop("record", None), dict):
        raise ValueError(f"{folder / 'study.yaml'}: no study file that this command wrote")
    for key in ("trials", "hours"):
        if getattr(args, key) is not None:
            content["study"][key] = getattr(args, key)
    if args.data_dir:
        record["data_dir"] = str(args.data_dir.resolve())
    return parse(content, str(folder / "study.yaml")), folder, record


def resume_command(folder: Path) -> str:
    """What to type to go on with the study in `folder`."""
    return f"{_command()} --resume {folder}"


def _command() -> str:
    return sys.argv[0] if sys.argv[0].startswith("pruning-study ") else "python -m study.run"
