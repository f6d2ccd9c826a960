"""Fault injection: a driver killed repeatedly at random times loses no finished trial and runs none twice.

    python -m benchmarks.faults --kills 60

A driver process asks the queue for trials, two at a time, and tells synthetic rows, until the study is finished. It is
killed (kill -9) after a random time, or in the middle of a write to the journal (it writes some of the bytes, then
kills itself), and started again. Drivers also log each finished trial to a separate file. Counted in the end: logged
trials without a row (lost), recipes that ran again after they had finished (repeated), missing trials (negative:
too many), rows that differ from the log (wrong), and whether the front differs from an uninterrupted study. Exit code 1
unless all counts are zero. `benchmarks.kills` does the same with `study.run` commands.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

from analysis.statistics.pareto import is_nondominated
from study.config import StudyFile, parse
from study.search.journal import Journal
from study.search.trial_queue import TrialQueue
from study.search.trial_store import LOST
from study.trials.context import Ticket

_POLL = os.WEXITED | os.WNOHANG | os.WNOWAIT
SPACE = {"criterion": "magnitude_l1", "granularity": "weight", "schedule": "one_shot"}


def study_file(trials: int) -> StudyFile:
    """A study of `trials` recipes, each with two seeds."""
    return parse({"study": {"name": "faults", "trials": trials, "seeds": 2}, "space": SPACE}, "faults")


def row_of(seed: int, recipe: dict[str, Any]) -> dict[str, Any]:
    """The row of a synthetic trial, a function of recipe and seed."""
    accuracy = random.Random(seed).random() * (1 - recipe["sparsity"] ** 3)
    return {"state": "complete", "error": None, "accuracy": accuracy, "sparsity": recipe["sparsity"]}


def driver(folder: Path, trials: int, tear: int) -> None:
    """Run the study to its end; with `tear` > 0, kill this process in the middle of that write to the journal."""
    if tear:
        _die_in_write(tear)
    queue = TrialQueue(folder, study_file(trials))
    with (folder.parent / "finished").open("a", buffering=1) as finished:
        running: list[Ticket] = []
        while True:
            while len(running) < 2 and (ticket := queue.ask()):
                running.append(ticket)
            if not running:
                return
            ticket = running.pop(0)
            row = row_of(ticket.seed, ticket.recipe)
            queue.store.tell(ticket, row, [{"epoch": 1, "accuracy": row["accuracy"]}])
            finished.write(json.dumps([ticket.trial_id, ticket.seed, ticket.recipe, row["accuracy"]]) + "\n")


def _die_in_write(tear: int) -> None:
    """Make this process write a part of a line at its `tear`-th append, and kill itself."""
    append, count = Journal.append_logs, Counter[str]()

    def torn_append(self: Any, logs: list[dict[str, Any]]) -> None:
        count["writes"] += 1
        if count["writes"] == tear:
            line = json.dumps(logs[0], separators=(",", ":"))
            os.write(self._file.fileno(), line[: random.Random(tear).randrange(1, len(line))].encode())
            os.kill(os.getpid(), signal.SIGKILL)
        append(self, logs)

    Journal.append_logs = torn_append  # type: ignore[method-assign]


def kill_drivers(base: Path, kills: int, trials: int, seed: int = 0) -> dict[str, int]:
    """Kill drivers, then let one finish; returns the counts of `audit`, and `kills`.

    Args:
      base: an empty folder.
      kills: how many drivers to kill.
      trials: recipes of the study.
      seed: of the random times.
    """
    generator = random.Random(seed)
    folder = base / "study"
    folder.mkdir()
    killed, wait = 0, 1.0
    while True:
        tear = generator.randrange(1, 60) if killed < kills and generator.random() < 0.5 else 0
        before = _size(folder)
        process = _fork_driver(folder, trials, tear)
        if killed < kills and not tear:
            while _size(folder) == before and not os.waitid(os.P_PID, process, _POLL):
                time.sleep(0.001)
            time.sleep(generator.random() * wait)
            os.kill(process, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        if code == 0:
            break
        if code != -signal.SIGKILL:
            raise RuntimeError(f"a driver ended with exit code {code}")
        killed += 1
        wait = generator.choice((0.01, 0.1, 0.3))
    return {"kills": killed, **audit(folder, base / "finished", trials)}


def _fork_driver(folder: Path, trials: int, tear: int) -> int:
    """Start a driver in a forked process, which saves its imports; returns the process id."""
    if process := os.fork():
        return process
    try:
        driver(folder, trials, tear)
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def _size(folder: Path) -> int:
    journal = folder / "optuna.journal"
    return journal.stat().st_size if journal.exists() else 0


def audit(folder: Path, finished: Path, trials: int) -> dict[str, int]:
    """Compare the store with the drivers' log. All counts but `given_up` and `finished` are zero if all is well."""
    queue = TrialQueue(folder, study_file(trials))
    rows = queue.store.rows()
    logged = [json.loads(line) for line in finished.read_text().splitlines()]
    given_up = f"{LOST} {queue.file.study.max_losses} times"
    by_id = {row["trial_id"]: row for row in rows}
    runs = Counter((trial_id, seed) for trial_id, seed, _, _ in logged)
    blamed = [row for row in rows if row["state"] == "failed"]
    complete = [row for row in rows if row["state"] == "complete"]
    recipes = [queue.store.recipe(row["trial_id"]) for row in complete]
    ran = Counter(json.dumps([r, row["seed"]]) for r, row in zip(recipes, complete, strict=True))
    wrong = [
        r for r, row in zip(recipes, complete, strict=True) if row_of(row["seed"], r)["accuracy"] != row["accuracy"]
    ]
    values = [[row["accuracy"], row["sparsity"]] for row in complete]
    queue.store.close()
    return {
        "lost": sum(trial_id not in by_id for trial_id, *_ in logged),
        "repeated": sum(count - 1 for count in [*runs.values(), *ran.values()]),
        "missing": 2 * trials - len(rows),
        "wrong": len(wrong) + sum(row["error"] != given_up for row in blamed),
        "front": int(not all(is_nondominated(values, ["max", "max"]) == _front(values))),
        "given_up": len(blamed),
        "finished": len(complete),
    }


def _front(values: list[list[float]]) -> list[bool]:
    """Whether each row is on the front, built incrementally as the recorder does."""
    front: list[list[float]] = []
    for value in values:
        if not any(a >= value[0] and b >= value[1] and [a, b] != value for a, b in front):
            front = [other for other in front if not (value[0] >= other[0] and value[1] >= other[1])] + [value]
    return [value in front for value in values]


def main() -> int:
    """Inject faults, and print the counts."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        found = kill_drivers(Path(name), args.kills, args.trials, args.seed)
    print(", ".join(f"{key.replace('_', ' ')} {count}" for key, count in found.items()))
    return int(any(found.get(key, 0) for key in ("lost", "repeated", "missing", "wrong", "front")))


if __name__ == "__main__":
    sys.exit(main())
