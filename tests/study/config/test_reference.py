"""What follows from the declarations of the study file: its JSON schema, and the columns of the tables."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

import search_spaces
from study.config import columns, parse, reference

ROOT = Path(__file__).parents[3]
SPACES = sorted(search_spaces.FOLDER.glob("*.yaml"))
VALIDATOR = jsonschema.Draft202012Validator(reference.json_schema())


@pytest.mark.parametrize(
    ("file", "fresh", "what"),
    [
        ("search_spaces/schema.json", reference.json_schema, "schema"),
        ("analysis/columns.json", columns.tables, "columns"),
    ],
    ids=["schema", "columns"],
)
def test_what_is_kept_in_a_file_is_what_follows_from_the_code(file: Any, fresh: Any, what: Any) -> None:
    kept = json.loads((ROOT / file).read_text())
    wanted = json.loads(json.dumps(fresh()))
    assert kept == wanted, f"{file} is out of date; refresh it by: python -m study.config {what} > {file}"
    # The order of columns is that of trials.csv, of which == says nothing.
    assert json.dumps(kept) == json.dumps(wanted), f"refresh it by: python -m study.config {what} > {file}"


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(reference.json_schema())


@pytest.mark.parametrize("path", SPACES, ids=lambda path: path.stem)
def test_every_study_file_of_the_project_names_the_schema_and_is_valid_under_it(path: Any) -> None:
    assert path.read_text().splitlines()[0] == "# yaml-language-server: $schema=schema.json"
    content = search_spaces.read(path)
    assert [f"{error.json_path}: {error.message}" for error in VALIDATOR.iter_errors(content)] == []
    parse(content, str(path))


def test_there_are_study_files_to_check() -> None:
    assert len(SPACES) >= 10


@pytest.mark.parametrize("path", SPACES, ids=lambda path: path.stem)
def test_a_study_file_written_out_whole_is_valid_too(path: Any) -> None:
    resolved = parse(search_spaces.read(path), str(path)).resolved()
    assert [f"{e.json_path}: {e.message}" for e in VALIDATOR.iter_errors(json.loads(json.dumps(resolved)))] == []


STUDY = {"name": "x"}


@pytest.mark.parametrize(
    "content",
    [
        {"space": {}},
        {"study": {}},
        {"study": STUDY, "sapce": {}},
        {"study": STUDY | {"trails": 60}},
        {"study": STUDY | {"trials": "many"}},
        {"study": STUDY | {"trials": 0}},
        {"study": STUDY | {"name": "not a name"}},
        {"study": STUDY | {"sampler": "cmaes"}},
        {"study": STUDY | {"search": "hyperband"}},
        {"study": STUDY | {"objectives": {"loss": "min"}}},
        {"study": STUDY, "baseline": {"dataset": "mnist"}},
        {"study": STUDY, "baseline": {"model": "lenet"}},
        {"study": STUDY, "baseline": {"model": "my.module:"}},
        {"study": STUDY, "baseline": {"validation": 1.5}},
        {"study": STUDY, "resources": {"gpus": "some"}},
        {"study": STUDY, "space": {"sparsty": 0.5}},
        {"study": STUDY, "space": {"criterion": "magnitude_l3"}},
        {"study": STUDY, "space": {"criterion": ["magnitude_l1", "magnitude_l3"]}},
        {"study": STUDY, "space": {"criterion": {"choices": ["magnitude_l3"]}}},
        {"study": STUDY, "space": {"scope": "whole"}},
        {"study": STUDY, "space": {"schedule": "slow"}},
        {"study": STUDY, "space": {"sparsity": 1.5}},
        {"study": STUDY, "space": {"sparsity": {"low": "little", "high": 0.9}}},
        {"study": STUDY, "space": {"sparsity": {"low": 0.1, "high": 0.9, "count": 3}}},
        {"study": STUDY, "space": {"sparsity": {"low": 0.1}}},
        {"study": STUDY, "space": {"sparsity": []}},
        {"study": STUDY, "space": {"granularity": "filter"}},
        {"study": STUDY, "space": {"recalibrate": "perhaps"}},
        {"study": STUDY, "space": {"optimizer": "lion"}},
    ],
    ids=lambda content: json.dumps({k: v for k, v in content.items() if k != "study" or v != STUDY})[:60],
)
def test_what_the_command_refuses_the_schema_refuses(content: Any) -> None:
    with pytest.raises(ValueError, match="^x.yaml: "):
        parse(content, "x.yaml")
    assert not VALIDATOR.is_valid(content)


@pytest.mark.parametrize(
    "space",
    [
        {"criterion": "my.module:score"},
        {"criterion": ["random", "code/mine.py:score"]},
        {"criterion": {"choices": ["random"], "when": {"granularity": ["weight"]}}},
        {"sparsity": {"low": 0.1, "high": 0.9, "step": 0.1}},
        {"sparsity": [0.5, 0.9]},
        {"granularity": ["2:4"]},
        {"epochs_per_step": None},
        {"protect": ["conv1", "fc"]},
        {"protect": [["conv1"], []]},
        {"layer": "each", "granularity": "weight", "scope": "global"},
    ],
    ids=str,
)
def test_what_the_command_takes_the_schema_takes(space: Any) -> None:
    content = {"study": STUDY, "space": space}
    parse(content, "x.yaml")
    assert [error.message for error in VALIDATOR.iter_errors(content)] == []


def test_the_columns_of_trials_begin_and_end_and_have_types_as_programs_know_them() -> None:
    names = columns.COLUMNS
    assert names[:8] == ["trial_id", "kind", "state", "error", "seed", "criterion", "granularity", "channel_share"]
    assert names[-4:] == ["train_seconds", "wall_seconds", "started", "finished"]
    known = ["seed", "scope", "requested_sparsity", "steps", "recalibrate", "sparsity", "accuracy", "test_accuracy"]
    known += ["params", "macs", "theoretical_speedup", "latency_ms", "feasible"]
    assert [name for name in names if name in known] == known
    assert {name: columns.TRIALS[name] for name in known} == {
        "seed": "Int64",
        "scope": "str",
        "requested_sparsity": "float64",
        "steps": "Int64",
        "recalibrate": "boolean",
        "sparsity": "float64",
        "accuracy": "float64",
        "test_accuracy": "float64",
        "params": "Int64",
        "macs": "Int64",
        "theoretical_speedup": "float64",
        "latency_ms": "float64",
        "feasible": "boolean",
    }
    assert set(columns.TRIALS.values()) == {"str", "Int64", "float64", "boolean"}
    assert len(names) == len(set(names))


def test_the_columns_of_the_other_tables() -> None:
    tables = columns.tables()
    assert tables["schema_version"] == 1
    assert tables["history"] == {
        "trial_id": "str",
        "epoch": "Int64",
        "progress": "float64",
        "sparsity": "float64",
        "train_loss": "float64",
        "accuracy": "float64",
        "seconds": "float64",
        "macs": "Int64",
        "latency_ms": "float64",
    }
    assert tables["importance"] == {"objective": "str", "axis": "str", "importance": "float64"}
    assert list(tables["layers"])[:4] == ["layer", "type", "dense_in_channels", "in_channels"]
