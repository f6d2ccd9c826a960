"""The arrows between the rooms: who may import whom; and how large rooms and files may be."""

import ast
import re
import sys
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("study", "pruning", "models", "search_spaces", "analysis")
OURS = {  # which rooms a room may import, beside itself
    "study": set(ROOMS),
    "models": {"pruning"},
    "pruning": set(),
    "search_spaces": set(),
    "analysis": set(),
}
OTHERS = {  # what else it may import, beside the standard library; study: whatever is installed
    "models": {"numpy", "torch", "torchvision", "safetensors", "timm", "onnxruntime"},
    "pruning": {"numpy", "torch", "torchvision", "sklearn"},
    "search_spaces": {"yaml", "pydantic"},
    "analysis": {"numpy", "pandas", "scipy", "matplotlib", "plotly", "moocore", "yaml", "PIL"},
}
OWNERS = {  # where alone in `study` a package is known
    "ray": {"study/execution"},
    "optuna": {"study/samplers", "study/search", "study/simulation"},
}
ADAPTERS = {"study/samplers/optuna_adapter.py", "study/execution/ray_adapter.py"}
PRIVATE = (
    r"\bray\._",
    r"\._internal\b",
    r"\b_actor_task_failed\b",
    r"\b\w*study\._storage\b",
    r"\._trial_id\b",
    r"\._study_id\b",
    r"\b(?:optuna|study|trial)\._get_trials\b",
    r"system_attr",
    r"[\"']:parent:[\"']",
)

FILES = [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]
PACKAGES = sorted({path.parent for path in FILES if path.parent.parent != ROOT})


def place(path: Path) -> str:
    return str(path.relative_to(ROOT))


def module(path: Path) -> str:
    """study/config/recipe.py -> study.config.recipe; of a package, its own name."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module(path) for path in FILES}


@cache
def imports(path: Path) -> set[str]:
    """The modules that a file imports, wherever in it: of ours to the module, of others as they are written."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{place(path)}: imports are absolute here"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= names & MODULES or {str(node.module)}
            found |= {str(node.module)} if names - MODULES else set()
    return found


def tops(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imports(path)}


def node_of(name: str) -> str:
    """The sub-package of a module, or the module itself where it lies at the top of a room."""
    return ".".join(name.split(".")[:2])


def circle(arrows: dict[str, set[str]]) -> list[str]:
    """One circle of arrows, if there are any."""
    try:
        TopologicalSorter(arrows).prepare()
    except CycleError as error:
        return error.args[1]
    return []


ARROWS = {module(path): (imports(path) & MODULES) - {module(path)} for path in FILES}


def test_the_files_are_found_in_sub_packages_too() -> None:
    assert len(FILES) > 100
    assert {"study.config.recipe", "pruning.criteria.registry", "analysis.figures.registry"} <= MODULES
    assert "pruning.criteria.registry" in ARROWS["study.config.recipe"]


@pytest.mark.parametrize("path", FILES, ids=place)
def test_rooms_import_only_what_they_may(path: Any) -> None:
    room = place(path).split("/")[0]
    found = tops(path)
    assert found & set(ROOMS) <= OURS[room] | {room}
    if room in OTHERS:
        assert found - set(ROOMS) - sys.stdlib_module_names <= OTHERS[room]


def test_nobody_imports_study() -> None:
    assert [place(path) for path in FILES if "study" in tops(path) and not place(path).startswith("study/")] == []


@pytest.mark.parametrize("package", OWNERS)
def test_few_packages_know(package: Any) -> None:
    knowing = {str(Path(place(path)).parent) for path in FILES if package in tops(path)}
    assert knowing <= OWNERS[package]


@pytest.mark.parametrize(("room", "package"), [("pruning", "sklearn"), ("models", "onnxruntime")])
def test_one_file_of_a_room_knows(room: Any, package: Any) -> None:
    knowing = [place(path) for path in FILES if place(path).startswith(room) and package in tops(path)]
    assert len(knowing) <= 1, knowing


def test_private_names_of_ray_and_optuna_are_used_by_the_adapters_alone() -> None:
    """What they use, and what breaks without it, stands in the adapters' tests."""
    looked_at = [*FILES, *sorted((ROOT / "benchmarks").glob("*.py"))]
    found = [
        f"{place(path)}:{number}: {line.strip()}"
        for path in looked_at
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if place(path) not in ADAPTERS and any(re.search(name, line) for name in PRIVATE)
    ]
    assert found == []
    adapters = "".join((ROOT / adapter).read_text() for adapter in ADAPTERS)
    assert [name for name in PRIVATE if not re.search(name, adapters)] == []


def test_there_is_no_circle_between_modules() -> None:
    assert circle(ARROWS) == []


def test_there_is_no_circle_between_packages() -> None:
    arrows: dict[str, set[str]] = {}
    for name, found in ARROWS.items():
        arrows.setdefault(node_of(name), set()).update(map(node_of, found))
    assert circle({name: found - {name} for name, found in arrows.items()}) == []


def test_a_circle_is_seen() -> None:
    assert set(circle({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}})) == {"a", "b", "c"}


def test_every_folder_of_code_is_a_package() -> None:
    assert [place(folder) for folder in PACKAGES if not (folder / "__init__.py").exists()] == []


def test_sub_packages_hold_three_to_eight_modules() -> None:
    counts = {
        place(folder): len([path for path in folder.glob("*.py") if path.stem not in ("__init__", "__main__")])
        for folder in PACKAGES
    }
    assert {name: count for name, count in counts.items() if not 3 <= count <= 8} == {}


def test_no_file_is_long() -> None:
    files = [*FILES, *(ROOT / "tests").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")]
    assert {place(path): n for path in files if (n := len(path.read_text().splitlines())) > 400} == {}


def test_tests_of_ray_lie_where_make_looks_for_them() -> None:
    """To collect all others takes as long as several of them."""
    files = [path for path in (ROOT / "tests").glob("*/**/test_*.py") if re.search(r"mark\.ray\b", path.read_text())]
    lanes = [line for line in (ROOT / "Makefile").read_text().splitlines() if '"ray and not slow" tests' in line]
    assert [set(line.split()[-2:]) for line in lanes] == [
        {f"tests/{path.relative_to(ROOT / 'tests').parts[0]}" for path in files}
    ]
