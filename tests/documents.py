"""The documents of the project, and what of the code they tell. The tests of documents take both from here alone."""

from pathlib import Path

from analysis.figures import FIGURES
from analysis.tables import TABLES
from models import MODELS
from study.config import read_study, reference
from study.config.columns import COLUMNS
from study.data.sources import DATASETS

__all__ = ["COLUMNS", "DATASETS", "FIGURES", "MODELS", "TABLES", "reference", "read_study"]
__all__ += ["PAGES", "README", "REPORTS", "ROOT", "page"]

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
PAGES = sorted((ROOT / "docs").glob("*.md"))
REPORTS = sorted((ROOT / "reports").glob("*/*.md"))


def page(name: str) -> str:
    """The text of a page of the documentation."""
    return (ROOT / "docs" / f"{name}.md").read_text()
