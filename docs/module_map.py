"""Print the map of all modules, each with the first sentence of its docstring, for docs/modules.md.

python docs/module_map.py
"""

from __future__ import annotations

import ast
import re
import textwrap
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("study", "pruning", "models", "search_spaces", "analysis")


def modules() -> dict[str, dict[str, str]]:
    """Folder, such as "study/config" -> name of a module in it -> first sentence of its docstring; "": the folder's."""
    found: dict[str, dict[str, str]] = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            folder = str(path.parent.relative_to(ROOT))
            name = "" if path.stem == "__init__" else path.stem
            text = ast.get_docstring(ast.parse(path.read_text())) or ""
            first = " ".join(text.split("\n\n")[0].split())
            found.setdefault(folder, {})[name] = re.split(r"(?<!al)\. ", first)[0].rstrip(".")
    return {folder: found[folder] for folder in sorted(found, key=lambda f: (PACKAGES.index(f.split("/")[0]), f))}


def markdown() -> str:
    """The map as Markdown: a table for each folder."""
    parts = []
    for folder, names in modules().items():
        rows = [f"| `{name}` | {text} |" for name, text in names.items() if name]
        heading = textwrap.fill(f"**`{folder}/`** {names.get('', '')}.", 120)
        parts.append("\n".join([heading, "", "| module | |", "|---|---|", *rows] if rows else [heading]))
    return "\n\n".join(parts)


if __name__ == "__main__":
    print(markdown())
