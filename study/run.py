"""The command: study file -> baseline -> search -> controls -> results folder.

    python -m study.run --space quickstart
    python -m study.run --space schedules --data-dir images --out results --trials 100 --set baseline.epochs=10
    python -m study.run --space schedules --dry-run
    python -m study.run --resume results/schedules

Exit codes: 0 done, 1 the study failed, 2 the input is wrong, 130 interrupted (all is kept).
"""

from __future__ import annotations

import argparse
import errno
import json
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml

import models
from analysis.report import report as write_report
from study import baseline as baselines
from study import probe, results, scan
from study.config import Recipe, Refused, StudyFile, parse, read_study
from study.course import Course
from study.data import Data
from study.keeper import Keeper
from study.ledger import Ledger, Record, Ticket
from study.maps import HISTOGRAM, SCORES, histograms
from study.memory import held
from study.speed import speeds
from study.trial import Shared, resolve
from study.view import View, describe

NOT_RECORDED = {
    "mean",
    "std",
    "class_names",
    "layers",
    "layer_scores",
    "sha256",
}  # of the baseline's card in study.yaml

FINE_TUNING = (
    "finetune_epochs",
    "finetune_lr",
    "lr_schedule",
    "optimizer",
    "weight_decay",
    "recalibrate",
    "calibration_samples",
)


class _Manner(NamedTuple):
    """How this run goes about its study: where, with which curves, and until when (seconds of time.monotonic)."""

    address: str | None
    tensorboard: bool
    end: float


def main(argv: list[str] | None = None) -> int:
    """Run the command; the exit code."""
    args = _arguments().parse_args(argv)
    try:
        file, folder, record = _resumed(args) if args.resume else _begun(args)
        if args.dry_run:
            print(probe.describe(file, args.data_dir))
            return 0
        end = time.monotonic() + 3600 * (file.study.hours or float("inf"))
        data = baselines.read_data(file.baseline, record["data_dir"])
        file = resolve(file, data)
        folder.mkdir(parents=True, exist_ok=True)
        kept = scan.Kept(baselines.key(file.baseline, data))
        ledger = Ledger(folder, file, known=kept)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted before the study began", file=sys.stderr)
        return 130
    try:
        return _study(folder, record, data, ledger, kept, _Manner(args.address, args.tensorboard, end))
    except KeyboardInterrupt:
        print(f"\ninterrupted; all finished trials are kept. Go on with:\n  {_resume_command(folder)}")
        return 130
    except Refused as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Exception as error:
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        what = "the disk is full" if full else "the study failed"
        print(f"error: {what}: {type(error).__name__}: {error}\n{_resume_hint(folder)}", file=sys.stderr)
        return 1


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m study.run", description="Search recipes for pruning a network, and report the best."
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--space", metavar="NAME_OR_PATH", help="the study file, or the name of one of the project's")
    what.add_argument("--resume", metavar="DIR", type=Path, help="go on with the study in this results folder")
    parser.add_argument("--out", metavar="DIR", type=Path, default=Path("results"), help="where results folders go")
    parser.add_argument("--trials", metavar="N", type=int, help="recipes to finish, those of a resumed study included")
    parser.add_argument("--hours", metavar="H", type=float, help="start no trial after this much time")
    parser.add_argument("--seed", metavar="N", type=int, help="of the search and of all trials")
    parser.add_argument("--data-dir", metavar="DIR", type=Path, help="where the images are")
    parser.add_argument(
        "--set", metavar="a.b=c", action="append", default=[], help="change a key of the study file (repeatable)"
    )
    parser.add_argument("--address", metavar="ADDR", help="of a running Ray cluster; 'auto' on its head node")
    parser.add_argument("--tensorboard", action="store_true", help="a curve per trial in DIR/tensorboard")
    parser.add_argument("--dry-run", action="store_true", help="show the resolved study and what it would cost")
    return parser


def _begun(args: argparse.Namespace) -> tuple[StudyFile, Path, Record]:
    file = read_study(args.space, args.set + _flags(args))
    folder = args.out / file.study.name
    # A lock and a journal alone are what a run leaves that was killed before it began.
    if not args.dry_run and folder.exists() and {p.name for p in folder.iterdir()} - {".lock", "optuna.journal"}:
        raise ValueError(
            f"{folder}: this results folder is taken; go on with it by --resume {folder}, "
            f"or choose another --out or --set study.name=..."
        )
    record = results.provenance(["python", "-m", "study.run", *sys.argv[1:]])
    data_dir = str(args.data_dir.resolve()) if args.data_dir else None
    return file, folder, record | {"data_dir": data_dir}


def _resumed(args: argparse.Namespace) -> tuple[StudyFile, Path, Record]:
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


def _flags(args: argparse.Namespace) -> list[str]:
    return [f"study.{key}={value}" for key in ("trials", "hours", "seed") if (value := getattr(args, key)) is not None]


def _study(folder: Path, record: Record, data: Data, ledger: Ledger, kept: scan.Kept, manner: _Manner) -> int:
    from study import cluster  # Ray takes seconds to import: wrong input is refused without it

    file = ledger.file
    results.write_study(folder, file.resolved(), record)
    with cluster.cluster(manner.address, file) as dashboard:
        print(f"results: {folder}" + (f"   dashboard: {dashboard} (token: ray get-auth-token)" if dashboard else ""))
        baseline = baselines.obtain(file.baseline, data, lambda: cluster.make_baseline(file.baseline, data))
        record["baseline"] = {k: v for k, v in baseline.card.items() if k not in NOT_RECORDED}
        results.write_study(folder, file.resolved(), record)
        results.write_rows(folder / "layer_scores.csv", SCORES, baseline.card["layer_scores"])
        about = {"metrics": record["baseline"], "dataset": file.baseline.dataset, "versions": record["versions"]}
        baselines.save(folder / "baseline", baseline, about)
        timed = "latency_ms" in file.study.objectives
        shared = Shared(baseline, data, file.baseline, seed=file.study.seed, draws=file.study.seeds, timed=timed)
        if scan_file := scan.needed(file):
            rows = _scan(resolve(scan_file, data), folder / "scan", record, shared, kept, manner, dashboard)
            shared = shared._replace(curves=scan.curves(rows))
        _sweep(folder, record, shared, ledger, kept, manner, dashboard)
        _measure_front(folder, ledger, baseline, cluster.on_device_alone)
        results.project(folder, ledger.records)
        results.write_importance(folder, ledger.importance())
    return _finish(folder, ledger)


def _scan(
    file: StudyFile,
    folder: Path,
    record: Record,
    shared: Shared,
    kept: scan.Kept,
    manner: _Manner,
    dashboard: str,
) -> list[Record]:
    """The rows of a sensitivity scan, a study in a folder of its own; what was scanned before is not run again."""
    folder.mkdir(exist_ok=True)
    ledger = Ledger(folder, file, known=kept)
    try:
        results.write_study(folder, file.resolved(), record)
        results.write_rows(folder / "layer_scores.csv", SCORES, shared.baseline.card["layer_scores"])
        _sweep(folder, record, shared._replace(timed=False), ledger, kept, manner, dashboard)
        return ledger.rows()
    finally:
        ledger.close()


def _sweep(
    folder: Path, record: Record, shared: Shared, ledger: Ledger, kept: scan.Kept, manner: _Manner, dashboard: str
) -> None:
    """Run what is still to be run of a study, and keep what it leaves."""
    from study import cluster, search

    resources = ledger.file.resources
    allotted = cluster.allotment(resources, alone=shared.timed)
    if 0 < allotted.each["gpu"] < 1 and (memory := cluster.on_device_alone(held, shared)):
        cluster.check_memory(allotted.each["gpu"], *memory)
    with View(ledger.file.study.name, ledger.runs, allotted.at_once, dashboard, len(ledger.rows())) as view:
        keeper = Keeper(folder, ledger, view, shared.baseline.card, record["versions"])

        def report(ticket: Ticket, row: Record, *rest: Any) -> None:
            keeper.report(ticket, row, *rest)
            course.over(ticket)
            kept.add(ticket.recipe, row)

        curves = folder / "tensorboard" if manner.tensorboard else None
        course = Course(ledger, view, shared.baseline.card, report, curves)
        broken: list[OSError] = []
        ask = _agenda(folder, ledger, keeper, manner.end)
        works = [_noting(work, broken) for work in (ask, report, course.hear)]
        try:
            search.run_trials(shared, resources.cpus, allotted, *works)
        except Exception:
            if broken:
                raise broken[0] from None
            raise
        finally:
            results.project(folder, ledger.records)


def _noting(work: Callable[..., Any], broken: list[OSError]) -> Callable[..., Any]:
    """`work`, that notes why the disk refused: Ray makes a text of whatever is raised within it."""

    def noted(*arguments: Any) -> Any:
        try:
            return work(*arguments)
        except OSError as error:
            broken.append(error)
            raise

    return noted


def _measure_front(folder: Path, ledger: Ledger, baseline: baselines.Baseline, alone: Callable[..., Any]) -> None:
    """Latencies of the saved networks, after the sweep: nothing else of ours runs on the device then."""
    _histograms(folder, baseline)
    saved = sorted(p.name for p in (folder / "models").glob("*") if "latency_ms" not in ledger.records[p.name][0])
    if not saved:
        return
    print(f"measuring the latency of {len(saved)} networks", flush=True)
    networks = {trial_id: models.load(folder / "models" / trial_id)[0] for trial_id in saved}
    in_shape = tuple(baseline.card["in_shape"])
    dense = baseline.network(torch.device("cpu"))
    for trial_id, columns in alone(speeds, networks, dense, in_shape).items():
        ledger.measured(trial_id, columns)


def _histograms(folder: Path, baseline: baselines.Baseline) -> None:
    """How the weights of every saved network are distributed, beside the dense network's."""
    layers = [row["layer"] for row in baseline.card["layers"]]
    for place in sorted(folder.glob("models/*")):
        if not (place / "histograms.csv").exists():
            network = baselines.arrays(models.load(place)[0])
            results.write_rows(place / "histograms.csv", HISTOGRAM, histograms(layers, baseline.state, network))


def _agenda(folder: Path, ledger: Ledger, keeper: Keeper, end: float) -> Callable[[], Ticket | str | None]:
    """What is to run next: the search, until finished; then the front with more seeds, and controls. Until `end`."""
    study = ledger.file.study
    searching = True

    def ask() -> Ticket | str | None:
        nonlocal searching
        if time.monotonic() >= end:
            return None
        if searching and (ticket := ledger.ask()):
            return ticket
        searching = searching and ledger.running > 0
        if searching:
            return "wait"
        again = ledger.ask_confirm(keeper.front) if study.confirm_seeds else None
        return again or _control(folder, ledger, keeper) or ("wait" if ledger.running else None)

    return ask


def _control(folder: Path, ledger: Ledger, keeper: Keeper) -> Ticket | None:
    """The next control: the dense network with the fine-tuning of the most accurate one; cut ones, trained anew."""
    asked = ledger.file.study.controls
    complete = [row for row in ledger.rows() if row["state"] == "complete"]
    if "dense" in asked and complete:
        best = max(complete, key=lambda row: row["accuracy"])
        recipe = {"sparsity": 0.0, "schedule": "one_shot", **{key: best[key] for key in FINE_TUNING}}
        if ticket := ledger.ask_control("dense", Recipe(**recipe).model_dump()):
            return ticket
    if "scratch" in asked and (ticket := ledger.ask_scratch(keeper.front)):
        return ticket._replace(plan=json.loads((folder / "models" / str(ticket.confirms) / "plan.json").read_text()))
    return None


def _finish(folder: Path, ledger: Ledger) -> int:
    write_report(folder)
    complete = [row for row in ledger.rows() if row["state"] == "complete"]
    states = Counter(row["state"] for row in ledger.rows())
    early = f"{states['stopped']} stopped early, " * bool(states["stopped"])
    print(
        f"{states['complete']} trials complete, {early}{states['failed']} failed; "
        f"tables, figures and networks are in {folder}"
    )
    if left := ledger.runs - len(ledger.rows()):
        print(f"the time was up before {left} of {ledger.runs} trials; go on with: {_resume_command(folder)} --hours H")
    if not complete:
        errors = [describe(row) for row in ledger.rows()][:3]
        print("error: no trial was completed. " + "; ".join(errors), file=sys.stderr)
        return 1
    return 0


def _resume_command(folder: Path) -> str:
    return f"python -m study.run --resume {folder}"


def _resume_hint(folder: Path) -> str:
    return f"what is finished is kept; go on with: {_resume_command(folder)}"


if __name__ == "__main__":
    sys.exit(main())
