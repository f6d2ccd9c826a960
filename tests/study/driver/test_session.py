"""A study that is resumed keeps the defaults that it began with."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from study.driver.session import resumed_study

KEPT = Path(__file__).parents[2] / "data" / "quickstart"


@pytest.mark.parametrize(
    ("recorded", "defaults"),
    [
        ({}, ("sum", "cosine", "none")),
        ({"reduce": "mean", "lr_schedule": "constant"}, ("mean", "constant", "none")),
        ({"reduce": "mean", "lr_schedule": "constant", "reconstruct": "layer"}, ("mean", "constant", "layer")),
    ],
)
def test_what_a_study_file_left_open_stays_as_it_was(tmp_path: Path, recorded: Any, defaults: Any) -> None:
    folder = tmp_path / "old"
    shutil.copytree(KEPT, folder)
    whole = yaml.safe_load((folder / "study.yaml").read_text())
    for key in ("reduce", "lr_schedule", "reconstruct"):
        whole["space"].pop(key, None)
    whole["record"] |= {"recipe_defaults": recorded} if recorded else {}
    (folder / "study.yaml").write_text(yaml.safe_dump(whole))
    args = argparse.Namespace(resume=folder, repair=False, set=[], seed=None, trials=None, hours=None)
    space = resumed_study(args)[0].resolved()["space"]
    assert (space["reduce"], space["lr_schedule"], space["reconstruct"]) == defaults
