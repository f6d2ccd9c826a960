"""Scope `sensitivity`, end to end on Ray: the scan first, and never again; scores of the baseline, shared by trials."""

import contextlib
import csv
import io
from collections import Counter
from typing import Any

import pytest

from analysis.figures import registry
from study import run
from tests.conftest import TINY

pytestmark = pytest.mark.ray
SETTINGS = [*TINY, "baseline.model=tests.networks:tiny", "baseline.dataset=digits"]
LAYERS, GROUPS, SHARES = 3, 2, 9


def study(space: Any, out: Any, *settings: Any) -> str:
    """Runs a study in this process, without figures, which take seconds; returns its output."""
    changes = [part for setting in (*SETTINGS, *settings) for part in ("--set", setting)]
    told = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(told):
        patch.setattr(registry, "FIGURES", {})
        assert run.main(["--space", space, "--out", str(out), *changes]) == 0, told.getvalue()
    return told.getvalue()


def rows(folder: Any, name: Any = "trials.csv") -> Any:
    with open(folder / name) as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def scopes(cache: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The space of scopes with a criterion that looks at data; and then the scan by itself."""
    out = tmp_path_factory.mktemp("out")
    first = study("scopes", out, "space.criterion=taylor", "space.sparsity=0.5", "study.seeds=1")
    second = study("layer_sensitivity", out, "space.criterion=taylor", "space.finetune_epochs=0")
    return out, first, second


def test_every_scope_meets_its_target_for_weights_and_channels(scopes: Any) -> None:
    search = [row for row in rows(scopes[0] / "scopes") if row["kind"] == "search"]
    assert Counter(row["state"] for row in search) == {"complete": 2 * 6}, [row["error"] for row in search]
    for row in search:
        assert float(row["sparsity"]) == pytest.approx(0.5, abs=0.002 if row["granularity"] == "weight" else 0.15)


def test_the_scan_cut_every_layer_and_group_alone(scopes: Any) -> None:
    scan = rows(scopes[0] / "scopes" / "scan")
    assert len(scan) == SHARES * (LAYERS + GROUPS)
    assert {row["state"] for row in scan} == {"complete"}
    assert Counter(row["layer"] for row in scan)["0"] == SHARES
    assert Counter(row["group"] for row in scan)["3"] == SHARES
    whole = next(row for row in scan if row["layer"] == "3" and row["requested_sparsity"] == "0.5")
    assert float(whole["sparsity"]) == pytest.approx(108 / (36 + 216 + 60), abs=0.01)


def test_what_was_scanned_is_not_scanned_again(scopes: Any) -> None:
    out, first, second = scopes
    assert sum(line.startswith("trial ") for line in first.splitlines()) >= SHARES * (LAYERS + GROUPS)
    assert not [line for line in second.splitlines() if line.startswith("trial ")]
    kept = rows(out / "layer_sensitivity")
    known = {
        (row["layer"], row["group"], row["requested_sparsity"]): row["accuracy"] for row in rows(out / "scopes/scan")
    }
    assert len(kept) == len(known)
    for row in kept:
        assert known[row["layer"], row["group"], row["requested_sparsity"]] == row["accuracy"]


def test_what_figures_need_of_gradients_and_weights_is_there(scopes: Any) -> None:
    folder = scopes[0] / "scopes"
    assert {row["criterion"] for row in rows(folder, "layer_scores.csv")} == {"gradient_norm", "saliency"}
    networks = list((folder / "models").glob("*/histograms.csv"))
    assert networks
    assert len(rows(networks[0].parent, networks[0].name)) == 60 * LAYERS
