"""Study files and `--set` with anything in them."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import yaml

from study import run
from tests.malformed import mutations
from tests.malformed.rule import end_of

STUDY: dict[str, Any] = {
    "study": {"name": "x", "trials": 3, "seed": 1, "constraints": {"accuracy_drop": "<= 0.02"}, "controls": ["dense"]},
    "resources": {"cpus": 1, "concurrency": 2},
    "baseline": {"model": "resnet8", "dataset": "digits", "epochs": 1, "train_samples": 100, "batch_size": 32},
    "space": {
        "criterion": ["magnitude_l1", "taylor"],
        "granularity": ["weight", "channel", "2:4"],
        "sparsity": {"low": 0.1, "high": 0.9, "log": True},
        "steps": {"choices": [3, 5], "when": {"schedule": ["iterative", "gradual"]}},
        "protect": ["conv1"],
        "finetune_epochs": 1,
    },
}
KEYS = [f"{section}.{key}" for section, content in STUDY.items() for key in content] + ["study", "space.steps.when", ""]


@pytest.mark.parametrize(("seed", "cases"), [(0, 60), pytest.param(1, 1500, marks=pytest.mark.slow)])
def test_any_study_file_is_right_or_refused(tmp_path: Path, seed: int, cases: int) -> None:
    draw = random.Random(seed)
    path = tmp_path / "x.yaml"
    for case in range(cases):
        text = yaml.safe_dump(mutations.changed_tree(STUDY, draw, draw.choice((1, 1, 2, 5))))
        content = text.encode()
        if case % 3 == 1:
            content = mutations.changed_lines(content, draw)
        if case % 3 == 2:
            content = mutations.changed_bytes(content, draw)
        path.write_bytes(content)
        ending = end_of(run.main, ["--space", str(path), "--out", str(tmp_path), "--dry-run"], tmp_path)
        assert not ending.broken, f"case {case}: {ending.broken}\n{content.decode(errors='replace')}"


@pytest.mark.parametrize(("seed", "cases"), [(0, 60), pytest.param(1, 1500, marks=pytest.mark.slow)])
def test_any_setting_is_right_or_refused(tmp_path: Path, seed: int, cases: int) -> None:
    draw = random.Random(seed)
    for case in range(cases):
        value = draw.choice((str, repr, yaml.safe_dump))(draw.choice(mutations.HOSTILE))
        setting = f"{draw.choice(KEYS)}{draw.choice(('=', '=', '=', '', '.x=', '.=', '=='))}{value}"
        ending = end_of(
            run.main, ["--space", "quickstart", "--out", str(tmp_path), "--dry-run", "--set", setting], tmp_path
        )
        assert not ending.broken, f"case {case}: --set {setting!r}: {ending.broken}"
