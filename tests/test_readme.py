"""The README is short, and its figures are small; what else must hold of it is held with all documents."""

import re

from tests.documents import README, ROOT

TEXT = README.read_text()


def test_it_is_short() -> None:
    assert len(TEXT.split()) <= 1100


def test_every_figure_exists_and_is_small() -> None:
    figures = re.findall(r"!\[[^]]*\]\(([^)]+)\)", TEXT)
    assert figures
    for figure in figures:
        assert (ROOT / figure).stat().st_size < 200_000


def test_every_page_of_the_documentation_is_linked_to() -> None:
    linked = set(re.findall(r"\]\(docs/(\w+)\.md\)", TEXT))
    assert {path.stem for path in (ROOT / "docs").glob("*.md")} - linked - {"index"} == set()


def test_the_commands_are_named() -> None:
    assert "`pruning-study run|trial|report|compare|evaluate|export|replay`" in TEXT
