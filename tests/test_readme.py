"""The README tells what the code knows, and nothing it does not have."""

import re
from pathlib import Path

from models import MODELS
from study.config.reference import criteria_table, space_table
from study.data import DATASETS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_the_table_of_what_can_be_sampled_is_that_of_the_code():
    """Refresh it with: python -c 'from study.manual import space_table; print(space_table())'."""
    assert space_table() in README


def test_the_table_of_criteria_is_that_of_the_code():
    """Refresh it with: python -c 'from study.manual import criteria_table; print(criteria_table())'."""
    assert criteria_table() in README


def test_all_models_and_datasets_are_named():
    text = " ".join(README.split())
    assert ", ".join(f"`{name}`" for name in MODELS) in text
    assert ", ".join(f"`{name}`" for name in DATASETS) in text


def test_every_figure_exists_and_is_small():
    figures = re.findall(r"!\[[^]]*\]\(([^)]+)\)", README)
    assert figures
    for figure in figures:
        assert (ROOT / figure).stat().st_size < 200_000


def test_its_python_runs():
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert blocks
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {})


def test_its_commands_name_what_exists():
    for space in re.findall(r"--space (\w+)", README):
        assert (ROOT / "search_spaces" / f"{space}.yaml").exists()
    for module in re.findall(r"python -m ([\w.]+)", README):
        assert (ROOT / module.replace(".", "/")).with_suffix(".py").exists()
