"""The arrows between the rooms: who may import whom."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = {"study", "pruning", "models", "search_spaces", "analysis"}
ALLOWED = {
    "study": ROOMS,
    "models": {"models", "pruning"},
    "pruning": {"pruning"},
    "search_spaces": {"search_spaces"},
    "analysis": {"analysis"},
}
FORBIDDEN = {
    "pruning": {"ray", "optuna", "pandas", "yaml", "pydantic", "sklearn", "matplotlib"},
    "models": {"ray", "optuna", "pandas", "yaml", "pydantic", "sklearn", "matplotlib"},
    "search_spaces": {"torch", "ray", "optuna", "numpy", "pandas"},
    "analysis": {"torch", "torchvision", "ray"},
}
FILES = [path for room in sorted(ROOMS) for path in sorted((ROOT / room).glob("*.py"))]


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add(str(node.module).split(".")[0])
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_rooms_import_only_what_they_may(path: Path) -> None:
    room = path.parent.name
    assert imports(path) & ROOMS <= ALLOWED[room]
    assert not imports(path) & FORBIDDEN.get(room, set())


@pytest.mark.parametrize(
    ("package", "owners"), [("ray", {"search.py", "cluster.py"}), ("optuna", {"ledger.py", "samplers.py", "replay.py"})]
)
def test_few_files_know(package: str, owners: set[str]) -> None:
    assert {p.name for p in FILES if package in imports(p)} <= owners


def test_no_file_is_long() -> None:
    assert [p for p in [*FILES, *(ROOT / "tests").glob("*.py")] if len(p.read_text().splitlines()) > 400] == []
