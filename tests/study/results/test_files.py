"""The results folder: whole files, right cells."""

import csv
from pathlib import Path

import yaml

from study.config import columns
from study.results import files, provenance


def test_rows_fill_their_columns_and_lack_nothing_else(tmp_path: Path) -> None:
    files.write_rows(tmp_path / "x.csv", ["a", "b"], [{"a": 1, "other": 2}, {"b": 'x,"y"\n'}])
    with open(tmp_path / "x.csv", newline="") as file:
        assert list(csv.reader(file)) == [["a", "b"], ["1", ""], ["", 'x,"y"\n']]


def test_projection_orders_rows_by_trial(tmp_path: Path) -> None:
    records = {i: ({"trial_id": i, "state": "complete"}, [{"trial_id": i, "epoch": 1}]) for i in ("0002", "0001")}
    files.project(tmp_path, records)
    with open(tmp_path / "trials.csv") as file:
        assert [row["trial_id"] for row in csv.DictReader(file)] == ["0001", "0002"]
    with open(tmp_path / "history.csv") as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == ["1", "1"]


def test_the_projector_waits_between_writes(tmp_path: Path) -> None:
    projector = files.Projector(tmp_path)
    projector({})
    (tmp_path / "trials.csv").unlink()
    projector({})
    assert not (tmp_path / "trials.csv").exists()


def test_the_record_names_what_it_takes_to_run_again(tmp_path: Path) -> None:
    record = provenance.provenance(["python", "-m", "study.run"])
    files.write_study(tmp_path, {"study": {"name": "x"}}, record)
    content = yaml.safe_load((tmp_path / "study.yaml").read_text())
    assert content["record"]["versions"].keys() >= {"python", "torch", "ray", "optuna"}
    assert content["record"]["hardware"]["cores"] >= 1
    assert content["record"]["schema_version"] == columns.SCHEMA_VERSION
