"""Sphinx builds the documentation: `make docs`. Every warning is an error, so a link between pages cannot break."""

import re
import shutil
from pathlib import Path

from sphinx.application import Sphinx

project = "Pruning study"
extensions = ["myst_parser"]
exclude_patterns = ["figures"]
myst_heading_anchors = 3  # a heading is a link's target, as on GitHub

html_theme = "furo"
html_title = "Pruning study"
html_show_copyright = False
html_show_sphinx = False
html_copy_source = False


def _links_of_the_build(app: Sphinx, docname: str, source: list[str]) -> None:
    """Make links that are right in the repository right in the build, where `reports` lies in `docs`."""
    if not docname.startswith("reports/"):
        source[0] = source[0].replace("](../reports/", "](reports/")
        return
    source[0] = re.sub(r"\]\(\.\./\.\./(docs/)?", lambda m: "](../../" if m[1] else "](../../../", source[0])
    if not docname.endswith("/README"):  # a table that only the report's own page links to
        source[0] = "---\norphan: true\n---\n\n" + source[0]


def setup(app: Sphinx) -> None:
    """Called by Sphinx: the reports become pages of the site."""
    docs = Path(__file__).parent  # Sphinx reads what lies here, so the reports are copied to where it finds them
    shutil.rmtree(docs / "reports", ignore_errors=True)
    shutil.copytree(docs.parent / "reports", docs / "reports")
    app.connect("source-read", _links_of_the_build)
