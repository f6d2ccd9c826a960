"""Reading a results folder: types, what is refused, and what analysis may import."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from analysis import read
from analysis.results_folder import (
    HISTORY,
    LAYERS,
    NEEDED,
    RECIPE,
    TRIALS,
    axes,
    dense_control,
    layers_of,
    networks,
    ordered,
    tally,
)
from study.config import Recipe, columns
from tests.results_folder import make


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("results") / "study")


def test_knows_the_columns_the_engine_writes() -> None:
    assert set(TRIALS) - {"confirms"} <= set(columns.COLUMNS)
    assert set(RECIPE) == set(Recipe.model_fields) - {"sparsity"}, (
        "tables show a recipe's keys by analysis.frame.RECIPE"
    )
    assert set(NEEDED) <= set(TRIALS)
    assert HISTORY == columns.HISTORY
    assert LAYERS == columns.LAYERS


def test_rows_and_types(folder: Path) -> None:
    results = read(folder)
    assert len(results.trials) == 61
    assert list(dict.fromkeys([*columns.COLUMNS, "confirms"])) == list(results.trials.columns)
    assert results.trials["trial_id"].iloc[7] == "0007"
    assert results.trials.dtypes[["steps", "feasible", "accuracy", "epochs_per_step"]].astype(str).tolist() == [
        "Int64", "boolean", "float64", "Int64",
    ]  # fmt: skip
    assert len(results.history) == 54 * 5
    assert results.objectives == {"accuracy": "max", "sparsity": "max"}
    assert results.record["baseline"]["params"] == 272474
    assert "record" not in results.study


def test_what_failed_has_its_error_and_no_measures(folder: Path) -> None:
    failed = read(folder).trials.query("state == 'failed'")
    assert len(failed) == 6
    assert failed["error"].str.contains("|", regex=False).sum() == 3
    assert failed[["accuracy", "sparsity", "macs"]].isna().all(axis=None)


def test_csv_round_trip_is_exact(folder: Path, tmp_path: Path) -> None:
    before = read(folder)
    again = make(tmp_path / "again")
    before.trials.to_csv(again / "trials.csv", index=False)
    before.history.to_csv(again / "history.csv", index=False)
    after = read(again)
    pd.testing.assert_frame_equal(after.trials, before.trials, check_exact=True)
    pd.testing.assert_frame_equal(after.history, before.history, check_exact=True)


def test_words_that_pandas_takes_for_missing_stay_words(tmp_path: Path) -> None:
    folder = make(tmp_path / "odd", 3, 2, error="None", criterion="NA")
    trials = read(folder).trials
    assert (trials["error"][:3] == "None").all()
    assert (trials["criterion"][:3] == "NA").all()


def test_a_study_without_a_finished_trial_is_read(tmp_path: Path) -> None:
    results = read(make(tmp_path / "new", 0, 0, control=False))
    assert len(results.trials) == len(results.history) == 0
    assert results.trials["accuracy"].dtype == "float64"
    assert tally(results.trials) == "none finished"
    assert axes(results.trials) == ([], {})


def test_columns_that_either_side_does_not_know(tmp_path: Path) -> None:
    folder = make(tmp_path / "old", 3, 0)
    rows = pd.read_csv(folder / "trials.csv", dtype=str).drop(columns=["reduce", "macs", "feasible", "speedup"])
    layers: list[Any] = [7, 8, None, 9]
    rows.assign(note="new", layers=layers, ratio=["2", "0.5", "", "nan"], sure="True").to_csv(
        folder / "trials.csv", index=False
    )
    trials = read(folder).trials
    assert trials[["reduce", "macs", "feasible", "speedup"]].isna().all(axis=None)
    assert trials.dtypes[["macs", "feasible"]].astype(str).tolist() == ["Int64", "boolean"]
    found = trials.dtypes[["note", "layers", "ratio", "sure"]].astype(str).tolist()
    assert found == ["str", "Int64", "float64", "boolean"]  # what is not known is what it looks like
    assert len(networks(trials)) == 3


def test_layers_are_those_of_the_networks_asked_for(tmp_path: Path) -> None:
    results = read(make(tmp_path / "study", 5, 1, layers=3))
    (results.folder / "models" / "0002" / "layers.csv").unlink()
    rows = results.trials.set_index("trial_id").loc[["0004", "0002", "0000", "0001"]].reset_index()
    found = layers_of(results, rows)
    assert found.columns.tolist() == ["trial_id", *columns.LAYERS]
    assert found["trial_id"].tolist() == ["0004"] * 3 + ["0001"] * 3  # 0000 failed
    assert found["layer"].tolist() == ["layer1.0.conv", "layer1.1.conv", "layer1.2.conv"] * 2
    assert found["nonzero_weights"].dtype == "Int64"


def test_no_layers_are_none_of_the_right_types(folder: Path) -> None:
    results = read(folder)
    found = layers_of(results, results.trials)
    assert len(found) == 0
    assert found.dtypes[["trial_id", "layer", "macs"]].astype(str).tolist() == ["str", "str", "Int64"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("Conv2d,16,", "Conv2d,many,", "column dense_in_channels: 'many' is not of type Int64"),
        ("type,", "sort,", "missing: type"),
    ],
)
def test_what_is_wrong_with_layers_is_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    results = read(make(tmp_path / "study", 1, 0, layers=3))
    path = results.folder / "models" / "0000" / "layers.csv"
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        layers_of(results, results.trials)
    assert str(path) in str(caught.value)


def test_networks_are_complete_and_no_controls(folder: Path) -> None:
    trials = read(folder).trials
    assert set(networks(trials)["trial_id"]) == {f"{number:04d}" for number in range(6, 60)}
    assert dense_control(trials)["trial_id"].tolist() == ["c0000"]
    assert tally(trials) == "54 complete, 6 failed"


def test_axes_are_those_that_vary(folder: Path) -> None:
    varying, constant = axes(read(folder).trials)
    assert varying == ["scope", "schedule", "steps", "finetune_lr"]
    assert constant["criterion"] == "magnitude_l1"
    assert constant["recalibrate"]
    assert not {"epochs_per_step", "protect", "requested_sparsity"} & set(constant)  # nobody has a value for these


def test_protecting_nothing_is_a_value_of_its_own(tmp_path: Path) -> None:
    folder = make(tmp_path / "protect", 4, 0)
    trials = pd.read_csv(folder / "trials.csv", dtype=str)
    trials.loc[1, "protect"] = "conv1"
    trials.to_csv(folder / "trials.csv", index=False)
    assert "protect" in axes(read(folder).trials)[0]


def test_usual_names_come_first() -> None:
    assert ordered(["channel", "n:m", "weight"]) == ["weight", "channel", "n:m"]
    assert ordered(["zigzag", "gradual", "one_shot", "gradual", "agp"]) == ["one_shot", "gradual", "agp", "zigzag"]


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nowhere.*no such folder"):
        read(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"study\.yaml, trials\.csv, history\.csv missing"):
        read(tmp_path)
    (make(tmp_path / "partly", 1, 0) / "history.csv").unlink()
    with pytest.raises(ValueError, match=r"partly: no results folder of a study: history\.csv missing"):
        read(tmp_path / "partly")


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("trials.csv", "complete", "finished", "column state: 'finished'; choices: complete, stopped, failed"),
        ("trials.csv", "search", "hunt", "column kind: 'hunt'; choices: search, confirm, control"),
        ("trials.csv", "0001,", "0000,", "trial 0000 occurs twice"),
        ("trials.csv", ",512,", ",512.5,", "column calibration_samples: '512.5' is not of type Int64"),
        ("trials.csv", ",25.25,", ",fast,", "column train_seconds: 'fast' is not of type float64"),
        ("trials.csv", ",True,512", ",maybe,512", "column recalibrate: 'maybe' is not of type boolean"),
        ("trials.csv", "trial_id,kind", "trial_id,sort", "columns missing: kind"),
        ("history.csv", "train_loss", "loss", "columns missing: train_loss"),
        ("study.yaml", "accuracy: max", "accuracy: up", "study.objectives: expected a mapping"),
        ("study.yaml", "sparsity: max", "speed: max", "study.objectives: 'speed' is not a column"),
        ("study.yaml", "schema_version: 1", "schema_version: 99", "record.schema_version: 99"),
        ("study.yaml", "schema_version: 1", "schema_version:", "record.schema_version: None"),
        ("study.yaml", "study:", "study: [", "not readable as YAML"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, file: str, old: str, new: str, message: str) -> None:
    path = make(tmp_path / "spoilt", 4, 1) / file
    content = path.read_text()
    path.write_text(content.replace(old, new))
    assert content != path.read_text()
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        read(path.parent)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "record.schema_version: None"),
        ("- 1\n", "expected a mapping"),
        ("study: 3\nrecord: {schema_version: 1}\n", "study: expected a mapping"),
        ("study: {objectives: {}}\nrecord: {schema_version: 1}\n", "study.objectives: expected a mapping"),
    ],
)
def test_a_file_that_is_no_study(tmp_path: Path, content: str, message: str) -> None:
    folder = make(tmp_path / "other", 1, 0)
    (folder / "study.yaml").write_text(content)
    with pytest.raises(ValueError, match=rf"study\.yaml: {re.escape(message)}"):
        read(folder)


@pytest.mark.parametrize("content", ["", "a,b\n1,2,3\n"])
def test_a_file_that_is_no_table(tmp_path: Path, content: str) -> None:
    folder = make(tmp_path / "other", 1, 0)
    (folder / "trials.csv").write_text(content)
    with pytest.raises(ValueError, match=r"trials\.csv: "):
        read(folder)
