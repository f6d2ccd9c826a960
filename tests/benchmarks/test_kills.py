"""The counts of benchmarks/kills.py, on results folders that were put together by hand."""

import csv
import random
from pathlib import Path
from typing import Any

import pytest

from benchmarks import kills

COLUMNS = ["trial_id", "kind", "state", "error", "seed", "schedule", "group", "requested_sparsity", "accuracy",
           "repeats", "confirms", "latency_ms"]  # fmt: skip
DONE = dict.fromkeys(COLUMNS, "") | {"kind": "search", "state": "complete", "accuracy": "0.5"}
OTHERS = (kills.CANDIDATES - 1) * kills.TRIALS
SEARCH = [DONE | {"trial_id": f"{n:04d}"} for n in range(kills.TRIALS)]
SCREENED = [DONE | {"trial_id": f"01{n:02d}", "state": "screened", "accuracy": ""} for n in range(OTHERS)]
EXTRA = [
    {"trial_id": "k0000", "kind": "confirm", "seed": "1", "confirms": "0000"},
    {"trial_id": "k0001", "kind": "confirm", "seed": "2", "confirms": "0000"},
    {"trial_id": "c0000", "kind": "control", "schedule": "dense"},
    {"trial_id": "c0001", "kind": "control", "schedule": "scratch", "confirms": "0000"},
]
MAIN = SEARCH + SCREENED + [DONE | extra for extra in EXTRA]
SCAN = [DONE | {"trial_id": f"{n:04d}", "group": "conv1", "requested_sparsity": f"0.{n + 1}"} for n in range(9)]


def write(path: Path, rows: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)


@pytest.mark.parametrize(
    ("final", "printed", "fault"),
    [
        (MAIN, "trial 0001 (2/8): failed: none, accuracy 0.5000 (1 s)\n", {}),
        ([row | {"latency_ms": "3.0"} for row in MAIN], "", {}),  # measured at the end
        ([row for row in MAIN if row["trial_id"] != "k0000"], "", {"lost": 1, "missing": 1}),
        ([row for row in MAIN if row["trial_id"] != "0103"], "", {"lost": 1, "missing": 1}),
        ([*MAIN, SCREENED[-1] | {"trial_id": "0199"}], "", {"missing": 1}),
        (MAIN, "trial 0008 (8/8): random, accuracy 0.5000 (1 s)\n", {"lost": 1, "changed": 1}),
        (MAIN, 2 * "trial 0001 (2/8): random, accuracy 0.5000 (1 s)\n", {"repeated": 1}),
        (MAIN, "trial 0001 (2/8): random, accuracy 0.6000 (1 s)\n", {"changed": 1}),
        (MAIN, "trial 0001 (2/9): random, accuracy 0.5000 (1 s)\n", {}),  # of the scan
        ([*MAIN, MAIN[-1] | {"trial_id": "c0002"}], "", {"repeated": 1, "missing": 1}),
        ([MAIN[0] | {"accuracy": "0.7"}, *MAIN[1:]], "", {"changed": 1}),
        ([MAIN[0], MAIN[1] | {"state": "failed", "error": "KeyError"}, *MAIN[2:]], "", {"changed": 1, "failed": 1}),
    ],
)
def test_each_fault_is_counted(tmp_path: Path, final: Any, printed: Any, fault: Any) -> None:
    study = kills.KilledStudy(tmp_path, 0, 1.0, random.Random(0))
    results, log = tmp_path / "0" / "killed", tmp_path / "log"
    write(results / "trials.csv", MAIN)
    write(results / "scan" / "trials.csv", SCAN)
    write(results / "pareto.csv", MAIN[:1])
    log.write_text(printed)
    study._look(log)
    write(results / "trials.csv", final)
    found = study._audit()
    assert {name: found[name] for name in kills.FAULTS if found[name]} == fault
