"""The notebooks run from top to bottom, and are kept without outputs."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from analysis import load
from tests.results_folder import make

ROOT = Path(__file__).parents[1]


def run(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The kinds of everything that the notebook shows."""
    monkeypatch.setenv("RESULTS_FOLDER", str(folder))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(ROOT / name, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells)
    NotebookClient(notebook, timeout=900).execute()
    return [kind for cell in notebook.cells for out in cell.get("outputs", []) for kind in out.get("data", {})]


def test_the_example_shows_a_results_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = run("analysis/example.ipynb", make(tmp_path / "study", 20, 2), monkeypatch)
    assert shown.count("image/png") == 2


@pytest.mark.slow
def test_one_shot_or_iterative_trains_its_twelve_networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = run("docs/one_shot_or_iterative.ipynb", tmp_path, monkeypatch)
    assert shown.count("image/png") == 2
    trials = load(tmp_path / "oneshot_vs_iterative")
    assert trials[trials["kind"] == "search"]["state"].tolist() == ["complete"] * 12
    assert len(list((tmp_path / "oneshot_vs_iterative" / "models").glob("00??"))) == 12
