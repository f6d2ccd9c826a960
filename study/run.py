"""Run a study: study file -> baseline -> search -> controls -> results folder.

    python -m study.run --space quickstart
    python -m study.run --space schedules --data-dir images --out results --trials 100 --set baseline.epochs=10
    python -m study.run --space schedules --dry-run
    python -m study.run --resume results/schedules
    python -m study.run --resume results/schedules --repair      # if its journal is damaged: a new folder beside it

Exit codes: 0 done, 1 the study failed, 2 the input is wrong, 130 Ctrl-C, 143 SIGTERM, 129 SIGHUP; after these three
finished trials are kept.
"""

from __future__ import annotations

import argparse
import errno
import signal
import sys
import time
from pathlib import Path

from study.driver.interruption import Interruption, interruptible

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def main(argv: list[str] | None = None, prog: str = "python -m study.run") -> int:
    """Run the command; returns the exit code."""
    args = _arguments(prog).parse_args(argv)
    with interruptible() as interruption:
        return _run(args, interruption)


def _run(args: argparse.Namespace, interruption: Interruption) -> int:
    try:
        # They take seconds, which --help and a misspelt flag need not wait for.
        from analysis.refusal import refused
        from study.baseline import disk_cache, training
        from study.config import RefusedError
        from study.driver import address, dry_run
        from study.driver.resolution import check_installed, resolve
        from study.driver.scratch import scratch
        from study.driver.session import RunOptions, StudyRun, new_study, resume_command, resumed_study
        from study.driver.sweep import run_study
        from study.results import provenance
        from study.results.repair import repair
        from study.search.trial_queue import TrialQueue
        from study.search.trial_store import opened
        from study.selection import prior
        from study.trials.scan import ScanCache

        if args.repair and not args.resume:
            raise ValueError("--repair: repairs a results folder, so it goes with --resume DIR")
        file, folder, record = resumed_study(args) if args.resume else new_study(args)
        check_installed(file)
        if args.repair:
            repaired = repair(folder, file)
            print(f"{repaired}\nContinue with:\n  {resume_command(repaired.folder)}")
            return 0
        if args.dry_run and args.resume:
            opened(folder, file)
        record["data_dir"] = provenance.data_dir(folder, record, file.baseline.dataset, args.data_dir)
        past = prior.of_study(folder, file)
        if past.note and not args.resume:
            print(past.note)
        if args.dry_run:
            print(dry_run.estimate(file, record["data_dir"]))
            return 0
        deadline = time.monotonic() + 3600 * (file.study.hours or float("inf"))
        address.check(args.address)
        data = training.read_data(file.baseline, record["data_dir"], say=print)
        file = resolve(file, data, say=print)
        folder.mkdir(parents=True, exist_ok=True)
        scans = ScanCache(disk_cache.key(file.baseline, data))
        past = prior.of_study(folder, file)  # again, as the axes of a resolved file may have other choices
        queue = TrialQueue(folder, file, known=scans.find, prior=past)
    except (ValueError, OSError) as error:
        return refused(error)
    except KeyboardInterrupt:
        print(f"\n{_reason(interruption)} before the study began", file=sys.stderr)
        return interruption.exit_code
    ended = f"all finished trials are kept. Continue with:\n  {resume_command(folder)}"
    interruption.message = f"\nstill not ended, so ended by force; {ended}"
    try:
        with interruption.while_ray_starts(), scratch() as temporary:
            options = RunOptions(args.address, args.tensorboard, deadline, temporary, interruption)
            return run_study(StudyRun(folder, record, data, queue, scans, options))
    except KeyboardInterrupt:
        print(f"\n{_reason(interruption)}; {ended}")
        return interruption.exit_code
    except RefusedError as error:
        return refused(error)
    except Exception as error:
        full = isinstance(error, OSError) and error.errno in _DISK_FULL
        problem = "the disk is full" if full else "the study failed"
        hint = f"finished trials are kept; continue with: {resume_command(folder)}"
        print(f"error: {problem}: {type(error).__name__}: {error}\n{hint}", file=sys.stderr)
        return 1
    finally:
        queue.store.close()


def _reason(interruption: Interruption) -> str:
    received = interruption.received or signal.SIGINT
    return "interrupted" if received == signal.SIGINT else f"stopped by {received.name}"


def _arguments(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog, description="Search recipes for pruning a network, and report the best."
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--space", metavar="NAME_OR_PATH", help="a study file, or a name in search_spaces/")
    source.add_argument("--resume", metavar="DIR", type=Path, help="continue the study in this results folder")
    parser.add_argument(
        "--repair", action="store_true", help="with --resume: copy what is readable of a damaged study to DIR-repaired"
    )
    parser.add_argument("--out", metavar="DIR", type=Path, default=Path("results"), help="where results folders go")
    parser.add_argument("--trials", metavar="N", type=int, help="recipes to finish, resumed ones included")
    parser.add_argument("--hours", metavar="H", type=float, help="start no trial after this much time")
    parser.add_argument("--seed", metavar="N", type=int, help="of the search and of all trials")
    parser.add_argument(
        "--data-dir", metavar="DIR", type=Path, help="where the images are; --resume knows where they were"
    )
    parser.add_argument(
        "--set", metavar="a.b=c", action="append", default=[], help="change a key of the study file (repeatable)"
    )
    parser.add_argument("--address", metavar="ADDR", help="of a running Ray cluster; 'auto' on its head node")
    parser.add_argument("--tensorboard", action="store_true", help="a curve per trial in DIR/tensorboard")
    parser.add_argument("--dry-run", action="store_true", help="show the resolved study and what it would cost")
    return parser


if __name__ == "__main__":
    sys.exit(main())
