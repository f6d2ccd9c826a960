"""What the documents name exists: files that are linked to, studies and modules in their commands."""

import importlib.util
import re
from pathlib import Path

import pytest

from study.config import read_study

ROOT = Path(__file__).parent.parent
DOCUMENTS = [path for pattern in ("*.md", "docs/*.md", "reports/*/*.md") for path in sorted(ROOT.glob(pattern))]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_to_files_that_exist(path):
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", path.read_text())
    missing = [t for t in targets if not t.startswith(("http:", "https:")) and not (path.parent / t).exists()]
    assert missing == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_commands_name_modules_and_spaces_that_exist(path):
    text = path.read_text()
    for module in set(re.findall(r"python -m ((?:study|analysis|benchmarks)(?:\.\w+)*)", text)):
        assert importlib.util.find_spec(module), module
    for name in set(re.findall(r"--space (\w+)", text)) - {"NAME_OR_PATH", "mine"}:
        assert read_study(name).study.name == name


def test_every_space_of_a_source_is_on_the_page():
    text = (ROOT / "docs" / "sources.md").read_text()
    spaces = {"magnitude", "structured_vs_unstructured", "sensitivity", "schedules", "criteria", "vgg16_schedules"}
    spaces |= {"oneshot_vs_iterative", "vgg11", "layer_sensitivity", "fine_vs_channel"}
    assert {name for name in spaces if f"--space {name}" not in text} == set()
