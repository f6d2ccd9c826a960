"""The engine: a study file in, a results folder out.

Once it is imported, the project's packages are its own, whatever else of their names is on the path.
"""

import importlib.util
import os
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path

PACKAGES = ("study", "pruning", "models", "search_spaces", "analysis")
ROOT = Path(__file__).parents[1]


class _Own:
    """Finds the project's packages beside this one, before the path is asked."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        # On a cluster's node each package has a folder to itself, and the path leads to them.
        own = name in PACKAGES and _file(name).exists()
        return importlib.util.spec_from_file_location(name, _file(name)) if own else None


def _file(name: str) -> Path:
    return ROOT / name / "__init__.py"


def find_own_packages() -> None:
    """Let imports find the project's packages before others of their names. Ray's workers call it when they start."""
    if _Own not in sys.meta_path:
        sys.meta_path.insert(0, _Own)


def _refuse_others() -> None:
    """Exit with code 2 where a module of one of our names is found first: `python -m` looks in the current folder."""
    for name in PACKAGES:
        found = importlib.util.find_spec(name)
        if found and found.origin and not os.path.samefile(found.origin, _file(name)):
            other = os.path.relpath(found.origin.removesuffix("/__init__.py"))
            print(
                f"error: ./{other} shadows this project's package `{name}`; rename it, run the command in another "
                f"folder, or type `pruning-study` instead of `python -m`",
                file=sys.stderr,
            )
            sys.exit(2)


if sys.argv[:1] == ["-m"]:  # so it is while Python looks for the module that `python -m` shall run
    _refuse_others()
find_own_packages()
