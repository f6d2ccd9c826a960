"""Real studies that are killed at random times and resumed: nothing is lost, repeated, changed or left behind.

    python -m benchmarks.kills --kills 50 --terms 20
    python -m benchmarks.kills --in-a-row 3

`study.run` commands on the digits, with a sensitivity scan, screening, promotion, confirmations and controls, are ended
by SIGKILL and SIGTERM, from their first import to their report, and resumed until the study is finished; then the next.
Counted in the end, over all studies: trials that were printed or in a table and have no row (lost), that ended twice
(repeated) or have another row than before (changed); rows too few or too many (missing); rows that failed for another
reason than having lost their driver too often (failed); commands that ended in another way than by their signal
(exits). No fault, but printed: commands that did not end in order after SIGTERM, but by force (forced). Left behind:
processes, files in /dev/shm that nobody uses, folders for temporary files, unfinished files. Exit code 1 unless all of
these are zero. --in-a-row: studies one after another in one process; what they leave behind is
counted after each. Open files and threads are printed too, but are no fault: Ray keeps one of each per cluster that a
process has started. Linux.
"""

from __future__ import annotations

import argparse
import csv
import gc
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import psutil

ROOT = Path(__file__).parent.parent
TRIALS = 8
CONFIRM = 2
CANDIDATES = 3
STUDY = f"""
study: {{name: killed, trials: {TRIALS}, confirm_seeds: {CONFIRM}, controls: [dense, scratch], seed: %d,
  screen: {{candidates: {CANDIDATES}, images: 100}},
  stop_early: {{min_epochs: 1, reduction: 2, promote: true}}}}
resources: {{concurrency: 2}}
baseline: {{model: resnet8, dataset: digits, train_samples: 300, epochs: 1, augment: false}}
space:
  criterion: magnitude_l1
  granularity: channel
  scope: [global, sensitivity]
  schedule: [one_shot, iterative]
  sparsity: {{low: 0.3, high: 0.9}}
  finetune_epochs: 3
  calibration_samples: 64
"""
PER_STUDY = 12  # signals at most; then it may finish
ENDING = 60  # seconds that a command may take to end after SIGTERM
# Seconds that Ray's processes may take to end after theirs: its agent first tries to report, for a minute.
FOLLOWING = 120
MEASURED = re.compile(r"latency|speedup|large_batch|^runtime$")  # columns that are filled in after the last trial
FAULTS = ("lost", "repeated", "changed", "missing", "failed", "exits", "processes", "shared_memory", "folders", "files")


def kill_commands(base: Path, kills: int, terms: int, seconds: float, seed: int = 0) -> Counter[str]:
    """Kill and resume commands until all signals are sent and each study is finished; returns the counts.

    Args:
      base: an empty folder, of a short name: Ray's sockets lie in it.
      kills: how many commands to end by SIGKILL.
      terms: how many by SIGTERM.
      seconds: the longest time until the signal, from the start of the command or of its Ray.
      seed: of times and order.
    """
    generator = random.Random(seed)
    signals = [signal.SIGKILL] * kills + [signal.SIGTERM] * terms
    generator.shuffle(signals)
    found, before, number = Counter[str](), _shared_memory(), 0
    while signals:
        study = KilledStudy(base, number, seconds, generator)
        allowed, rest = signals[:PER_STUDY], signals[PER_STUDY:]
        signals = study.live(allowed) + rest
        found += study.found
        number += 1
        print(f"study {number}: {_line(study.found)}; {len(signals)} signals left", flush=True)
    time.sleep(60)  # a younger folder may be that of a run which just starts
    study.command()
    found += study.audit_again()
    found["shared_memory"] += len(_shared_memory() - before)
    found["folders"] += len(list((base / "tmp").glob("pruning-study-*")))
    return found


class KilledStudy:
    """A study in a folder of its own, with a cache of its own.

    Attributes:
      found: counts so far.
    """

    def __init__(self, base: Path, number: int, seconds: float, generator: random.Random) -> None:
        self._folder, self._seconds, self._generator = base / str(number), seconds, generator
        self._results = self._folder / "killed"
        self._folder.mkdir()
        (base / "tmp").mkdir(exist_ok=True)
        self._file = self._folder / "killed.yaml"
        self._file.write_text(STUDY % number)
        own = {"STUDY_CACHE": str(self._folder / "cache"), "TMPDIR": str(base / "tmp")}
        self._environment = os.environ | own
        self._printed: list[tuple[str, str, str]] = []  # table, trial, accuracy
        self._seen: dict[tuple[str, str], dict[str, str]] = {}  # table, trial -> its row when it was first seen
        self._sessions: dict[int, float] = {}  # of processes -> when their command ended
        self.found = Counter[str](studies=1)

    def live(self, signals: list[signal.Signals]) -> list[signal.Signals]:
        """Send the signals, one per command, then let the study finish; returns those that it did not live to get."""
        left = list(signals)
        while True:
            sent = self.command(left[0] if left else None)
            if sent:
                self.found[left.pop(0).name] += 1
            elif (self._results / "report.html").exists():
                break
        self.found += self._audit()
        self.found["processes"] = self._left_behind()
        return left

    def _left_behind(self) -> int:
        """Count the processes that outlived their commands for too long, and end them."""
        count = 0
        for session, ended in self._sessions.items():
            while (left := _session(session)) and time.monotonic() < ended + FOLLOWING:
                time.sleep(0.5)
            count += len(left)
            for process in left:
                print(f"left behind: {process}", flush=True)
                process.kill()
        return count

    def command(self, wanted: signal.Signals | None = None) -> bool:
        """Run the command until it ends, or is ended by a signal at a random time; returns whether it was."""
        resumes = (self._results / "study.yaml").exists()
        begin = ["--space", str(self._file), "--out", str(self._folder)]
        arguments = ["--resume", str(self._results)] if resumes else begin
        log = self._folder / f"{self.found['commands']}.log"
        self.found["commands"] += 1
        with log.open("w") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "study.run", *arguments],
                cwd=ROOT, env=self._environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        sent = wanted is not None and self._signal(process, wanted, log)
        try:
            code = process.wait(ENDING if sent else 1200)
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
        # Before the command handles SIGTERM, and after it, the signal ends Python itself.
        expected = (-signal.SIGKILL,) if wanted == signal.SIGKILL else (128 + signal.SIGTERM, -signal.SIGTERM)
        if code not in (expected if sent else (0,)):
            self.found["exits"] += 1
            print(f"exit code {code}: {log}\n{log.read_text()[-2000:]}", flush=True)
        if "(it hung in " in log.read_text():
            self.found["forced"] += 1
            print(f"ended by force: {log}\n{log.read_text()[-2000:]}", flush=True)
        self._sessions[process.pid] = time.monotonic()
        time.sleep(2)  # most of Ray's processes end at once
        self._look(log)
        return sent

    def _signal(self, process: subprocess.Popen[bytes], wanted: signal.Signals, log: Path) -> bool:
        """Send the signal at a random time; returns whether the process still ran."""
        mark = self._generator.choice(["", "results: ", "results: ", "results: "])
        while mark not in log.read_text() and process.poll() is None:
            time.sleep(0.1)
        until = time.monotonic() + self._generator.random() * self._seconds
        while time.monotonic() < until and process.poll() is None:
            time.sleep(0.01)
        if process.poll() is not None:
            return False
        process.send_signal(wanted)
        return True

    def _look(self, log: Path) -> None:
        """Remember what the command printed, and the rows that are now in the tables."""
        for found in re.finditer(r"^trial (\S+) \((.*?)\): (.*)\n", log.read_text(), re.MULTILINE):
            scans = "/" in found[2] and not found[2].endswith(f"/{TRIALS}")
            accuracy = re.search(r"accuracy ([0-9.]+)", found[3])
            self._printed.append(("scan" if scans else "", found[1], accuracy[1] if accuracy else ""))
        for key, row in self._rows().items():
            self._seen.setdefault(key, row)

    def _rows(self) -> dict[tuple[str, str], dict[str, str]]:
        tables = {name: _table(self._results / name / "trials.csv") for name in ("", "scan")}
        return {(name, row["trial_id"]): row for name, rows in tables.items() for row in rows}

    def _audit(self) -> Counter[str]:
        rows = self._rows()
        main = [row for (table, _), row in rows.items() if not table]
        scanned = [row for (table, _), row in rows.items() if table]
        kinds = Counter("screened" if row["state"] == "screened" else row["kind"] for row in main)
        front = [row for row in _table(self._results / "pareto.csv") if not row["repeats"]]
        expected = {"search": TRIALS, "confirm": CONFIRM * len(front), "control": 1 + len(front)}
        # Candidates of which a kill came between one's row and the next one's are dropped, for others to be drawn.
        most = (CANDIDATES - 1) * TRIALS
        expected["screened"] = min(max(kinds["screened"], most - (CANDIDATES - 1) * self.found["SIGKILL"]), most)
        failed = [row for row in rows.values() if row["state"] == "failed"]
        given_up = [row for row in failed if row["error"].startswith("lost with its driver")]
        ended = Counter((table, trial) for table, trial, _ in self._printed)
        jobs = [(row["kind"], row["confirms"], row["schedule"], row["seed"]) for row in main if row["kind"] != "search"]
        cuts = [(row["group"], row["requested_sparsity"]) for row in scanned]
        changed = [key for key, row in self._seen.items() if key in rows and _fixed(row) != _fixed(rows[key])]
        for table, trial, accuracy in self._printed:
            value = rows.get((table, trial), {}).get("accuracy", "")
            if (f"{float(value):.4f}" if value else "") != accuracy:
                changed.append((table, trial))
        unfinished = [path for path in self._folder.rglob(".*.*") if re.match(r"\.\d+\.|.*\.part$", path.name)]
        return Counter(
            lost=len({key for key in [*ended, *self._seen] if key not in rows}),
            repeated=sum(n - 1 for n in [*ended.values(), *Counter(jobs).values(), *Counter(cuts).values()]),
            changed=len(set(changed)),
            missing=sum(abs(n - kinds[kind]) for kind, n in expected.items()) + len(scanned) % 9 + (not scanned),
            failed=len(failed) - len(given_up),
            files=len(unfinished),
            given_up=len(given_up),
            rows=len(rows),
        )

    def audit_again(self) -> Counter[str]:
        """What another command changed that had nothing to do; counted anew."""
        before, self.found = self.found, Counter[str]()
        return self._audit() - before


def _fixed(row: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in row.items() if not MEASURED.search(name)}


def _table(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def _session(session: int) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.Error, ProcessLookupError):
            continue
    return found


def _shared_memory() -> set[str]:
    """Files in /dev/shm that no process has open or mapped."""
    used = set()
    for maps in Path("/proc").glob("[0-9]*/maps"):
        try:
            used |= set(re.findall(r"/dev/shm/(\S+)", maps.read_text()))
            used |= {Path(os.readlink(link)).name for link in maps.with_name("fd").iterdir()}
        except OSError:
            continue
    return {path.name for path in Path("/dev/shm").iterdir()} - used


def in_a_row(base: Path, studies: int) -> Counter[str]:
    """Run studies one after another in this process; returns what the later ones left behind beyond the first."""
    from study import run

    os.environ |= {"STUDY_CACHE": str(base / "cache"), "TMPDIR": str(base / "tmp")}
    tempfile.tempdir = None
    (base / "tmp").mkdir()
    (base / "killed.yaml").write_text(STUDY % 0)
    counts = [_ours(base)]
    print(f"before: {_line(counts[0])}", flush=True)
    for number in range(studies):
        code = run.main(["--space", str(base / "killed.yaml"), "--out", str(base / str(number))])
        counts.append(_ours(base) + Counter(exits=code))
        print(f"after study {number + 1}: {_line(counts[-1])}", flush=True)
    # Libraries keep threads and open files of their own from their first use on: those count as before.
    return counts[-1] - (counts[0] | Counter({k: counts[1][k] for k in ("threads", "open_files")}))


def _ours(base: Path) -> Counter[str]:
    until = time.monotonic() + 20
    while psutil.Process().children(recursive=True) and time.monotonic() < until:
        time.sleep(0.2)
    gc.collect()
    process = psutil.Process()
    return Counter(
        processes=len(process.children(recursive=True)),
        threads=process.num_threads(),
        open_files=process.num_fds(),
        shared_memory=len(_shared_memory()),
        folders=len(list((base / "tmp").glob("pruning-study-*"))),
        files=len([path for path in (base / "tmp").iterdir() if path.name != "ray"]),
        ray_sessions=len(list((base / "tmp" / "ray").glob("session_2*"))),
    )


def _line(found: Counter[str]) -> str:
    return ", ".join(f"{key.replace('_', ' ')} {count}" for key, count in found.items())


def main() -> int:
    """Kill commands, or run studies in a row, and print the counts."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--terms", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--in-a-row", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="k", ignore_cleanup_errors=True) as name:
        if args.in_a_row:
            found = in_a_row(Path(name), args.in_a_row)
        else:
            found = kill_commands(Path(name), args.kills, args.terms, args.seconds, args.seed)
    for fault in FAULTS:
        found.setdefault(fault, 0)
    print(_line(found))
    return int(any(found[fault] for fault in FAULTS))


if __name__ == "__main__":
    sys.exit(main())
