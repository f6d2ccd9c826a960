"""What the documents name exists, and their tables are those of the code."""

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest

from docs import module_map
from tests.documents import (
    COLUMNS,
    DATASETS,
    FIGURES,
    MODELS,
    PAGES,
    README,
    REPORTS,
    ROOT,
    TABLES,
    page,
    read_study,
    reference,
)

WRITTEN = [README, *PAGES]
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *PAGES, *REPORTS]
each_written = pytest.mark.parametrize("path", WRITTEN, ids=lambda p: str(p.relative_to(ROOT)))
each_document = pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))


@pytest.mark.parametrize("name", reference.SECTIONS)
def test_the_keys_of_the_study_file_are_those_of_the_code(name: Any) -> None:
    fresh = reference.section_table(name)
    assert fresh in page("study_file"), f"docs/study_file.md is out of date; `{name}` is now\n{fresh}"


@pytest.mark.parametrize(
    ("name", "table"),
    [
        ("criteria", reference.criteria_table),
        ("scopes_and_granularities", reference.scopes_table),
        ("scopes_and_granularities", reference.schedules_table),
    ],
)
def test_the_tables_of_choices_are_those_of_the_code(name: Any, table: Any) -> None:
    assert table() in page(name), f"docs/{name}.md is out of date; the table is now\n{table()}"


def test_all_models_and_datasets_are_named() -> None:
    text = " ".join(page("own_data_and_networks").split())
    assert ", ".join(f"`{name}`" for name in MODELS) in text
    assert ", ".join(f"`{name}`" for name in DATASETS) in text


@pytest.mark.parametrize(
    ("name", "told"), [("results_folder", COLUMNS), ("report", [*FIGURES, *TABLES])], ids=["columns", "figures"]
)
def test_everything_of_a_study_is_explained(name: Any, told: Any) -> None:
    assert [one for one in told if f"`{one}`" not in page(name)] == []


@each_document
def test_links_lead_to_files_that_exist(path: Any) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", path.read_text())
    missing = [t for t in targets if not t.startswith(("http:", "https:")) and not (path.parent / t).exists()]
    assert missing == []


@each_document
def test_commands_name_modules_and_spaces_that_exist(path: Any) -> None:
    text = path.read_text()
    for module in set(re.findall(r"python -m ((?:study|analysis|benchmarks)(?:\.\w+)*)", text)):
        assert importlib.util.find_spec(module), module
    for name in set(re.findall(r"--space (reports/[\w/.]+|\w+)", text)) - {"NAME_OR_PATH", "mine"}:
        file = read_study(str(ROOT / name) if "/" in name else name)
        assert "/" in name or file.study.name == name


@each_written
def test_make_has_the_targets_that_are_named(path: Any) -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:^    |`)make ([\w-]+)", path.read_text(), re.MULTILINE)) <= targets


@each_written
def test_its_python_runs(path: Any) -> None:
    for block in re.findall(r"```python\n(.*?)```", path.read_text(), re.DOTALL):
        exec(compile(block, path.name, "exec"), {})


@each_written
def test_its_study_files_are_accepted(path: Any, tmp_path: Path) -> None:
    for block in re.findall(r"```yaml\n(.*?)```", path.read_text(), re.DOTALL):
        (tmp_path / "written.yaml").write_text(block)
        read_study(str(tmp_path / "written.yaml"))


@each_written
def test_it_can_be_read(path: Any) -> None:
    lines = path.read_text().splitlines()
    assert len(lines) < 400
    assert [line for line in lines if len(line) > 120 and not line.startswith("|")] == []


def test_every_space_of_a_source_is_on_the_page() -> None:
    text = page("sources")
    spaces = {"magnitude", "structured_vs_unstructured", "sensitivity", "schedules", "criteria", "vgg16_schedules"}
    spaces |= {"oneshot_vs_iterative", "vgg11", "layer_sensitivity", "fine_vs_channel"}
    assert {name for name in spaces if f"--space {name}" not in text} == set()


def test_no_page_takes_the_place_of_one_of_sphinx() -> None:
    assert {path.stem for path in PAGES} & {"search", "genindex"} == set()


def test_the_map_of_modules_is_that_of_the_code() -> None:
    fresh = module_map.markdown()
    assert fresh in page("modules"), "put what `python docs/module_map.py` prints into docs/modules.md"


def test_the_readme_names_every_module() -> None:
    found = re.search(r"## How it is built\n\n(.*?)\n\n\S", README.read_text(), re.DOTALL)
    assert found
    blocks = re.split(r"(?m)^ *(\w+)/ *", found[1])[1:]
    named = [set(text.split()) for text in blocks[1::2]]
    modules = [set(names) - {"", "__main__"} for names in module_map.modules().values()]
    assert blocks[::2] == [folder.split("/")[-1] for folder in module_map.modules()]
    assert named == modules
