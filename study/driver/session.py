"""A new or resumed study: its study file, results folder, and the record of how it is run."""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path

from analysis.results_folder import read_study
from study.config import StudyFile, parse
from study.config import read_study as read_space
from study.config.recipe import EARLIER_DEFAULTS
from study.data.splits import Data
from study.driver.interruption import Interruption
from study.results import provenance
from study.search.trial_queue import TrialQueue
from study.search.trial_store import TrialStore
from study.training.epochs import Row
from study.trials.scan import ScanCache


@dataclass(frozen=True)
class RunOptions:
    """Ray address, TensorBoard, deadline, temporary files, signals.

    Attributes:
      address: of a Ray cluster; None: start a local one.
      tensorboard: whether to write curves for TensorBoard.
      deadline: on the clock of time.monotonic, in seconds; no trial starts after it.
      temporary: a folder for temporary files.
      interruption: what Ctrl-C and other signals do.
    """

    address: str | None = None
    tensorboard: bool = False
    deadline: float = float("inf")
    temporary: Path = field(default_factory=lambda: Path(tempfile.gettempdir()))
    interruption: Interruption = field(default_factory=Interruption)


@dataclass(frozen=True)
class StudyRun:
    """A running study.

    Attributes:
      folder: the results folder.
      record: how it is run (versions, hardware, data folder, the baseline's measures), for study.yaml.
      data: the images.
      queue: the queue of trials, with the store of all trials.
      scans: cached results of the sensitivity scan.
      options: of this run.
      dashboard: URL of Ray's dashboard, or "".
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
        """The run of the sensitivity scan that precedes this study, in the subfolder `scan`."""
        folder = self.folder / "scan"
        folder.mkdir(exist_ok=True)
        return replace(self, folder=folder, queue=TrialQueue(folder, file, known=self.scans.find))


def new_study(args: argparse.Namespace) -> tuple[StudyFile, Path, Row]:
    """The study file, the results folder and the record of a new study, from the command line.

    Raises ValueError if the file is invalid or the folder is not empty.
    """
    flags = [f"study.{key}={value}" for key in ("trials", "hours", "seed") if (value := getattr(args, key)) is not None]
    file = read_space(args.space, args.set + flags)
    folder = args.out / file.study.name
    # A run killed before its study started leaves only a lock and a journal.
    if not args.dry_run and folder.exists() and {p.name for p in folder.iterdir()} - {".lock", "optuna.journal"}:
        raise ValueError(
            f"{folder}: this results folder is taken; continue it with --resume {folder}, "
            f"or choose another --out or --set study.name=..."
        )
    return file, folder, provenance.provenance([command("run"), *sys.argv[1:]])


def resumed_study(args: argparse.Namespace) -> tuple[StudyFile, Path, Row]:
    """The same for an existing results folder. Raises ValueError if it holds no study or the flags would change it."""
    folder, path = args.resume, args.resume / "study.yaml"
    if not path.is_file() or not ((folder / "optuna.journal").is_file() or args.repair):
        raise ValueError(f"{folder}: no results folder of a study (study.yaml and optuna.journal are not both there)")
    if args.set or args.seed is not None:
        raise ValueError("--resume: only --trials and --hours can change; the rest of the study stays as it began")
    content, record = read_study(path)
    content["space"] = EARLIER_DEFAULTS | record.get("recipe_defaults", {}) | content["space"]
    for key in ("trials", "hours"):
        if getattr(args, key) is not None:
            content["study"][key] = getattr(args, key)
    return parse(content, str(path)), folder, record


def resume_command(folder: Path) -> str:
    """The command that continues the study in `folder`."""
    return f"{command('run')} --resume {folder}"


def command(name: str) -> str:
    """How the user types a command of the project, such as `run`."""
    return f"pruning-study {name}" if sys.argv[0].startswith("pruning-study ") else f"python -m study.{name}"
