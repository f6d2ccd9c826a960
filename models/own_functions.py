"""A user's own function, named by module or by file: `package.module:function`, or `path/file.py:function`."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

FORMS = "package.module:function, or path/file.py:function"


def imported(name: str, what: str = "model") -> Callable[..., Any]:
    """The function of that name; modules and relative paths are looked up from the current folder.

    The folder is put at the end of the path, so it hides nothing that is installed. A file is run once, as a module
    of its own. what: the key the name stands under, for the message. Raises ValueError where there is no such module,
    file or function, and where its code fails.
    """
    place, _, attribute = name.rpartition(":")
    dotted = all(part.isidentifier() for part in place.split("."))
    if not attribute.isidentifier() or not (dotted or _is_file(place)):
        raise ValueError(f"{what} {name}: expected {FORMS}")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        module = file_module(place) if _is_file(place) else importlib.import_module(place)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a user's code may raise anything
        reason = str(error) if isinstance(error, (ImportError, _NoFileError)) else f"{type(error).__name__}: {error}"
        raise ValueError(f"{what} {name}: {place} cannot be imported from {os.getcwd()}: {reason}") from error
    if module.__name__.partition(".")[0] in sys.stdlib_module_names:
        raise ValueError(f"{what} {name}: {place} is part of Python itself; name a function of your own: {FORMS}")
    function: Callable[..., Any] | None = getattr(module, attribute, None)
    if not callable(function):
        raise ValueError(f"{what} {name}: {module.__file__} has no function {attribute!r}")
    return function


def called(function: Callable[..., Any], what: str, *arguments: Any) -> Any:
    """What a user's function returns. Whatever it raises, SystemExit too, becomes a ValueError: `what` raised it."""
    try:
        return function(*arguments)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:500]
        raise ValueError(f"{what} raised {reason}") from error


def source(name: str) -> Path | None:
    """The file that holds the function of that name; None where it is not found."""
    place = name.rpartition(":")[0]
    if _is_file(place):
        sent = (Path(entry, parcel(place), Path(place).name) for entry in sys.path)
        return next((path for path in (Path(place), *sent) if path.is_file()), None)
    found = importlib.util.find_spec(place)
    return Path(found.origin) if found and found.origin else None


def parcel(place: str) -> str:
    """The name of the folder in which a file travels to other machines, where `imported` finds it on the path."""
    return "own_" + hashlib.sha256(place.encode()).hexdigest()[:12]


def file_module(place: str) -> ModuleType:
    """The module that the file at `place` is, run once, under a name that its place makes."""
    where = os.path.abspath(place)
    name = f"{Path(place).stem}_{hashlib.sha256(where.encode()).hexdigest()[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    file = source(f"{place}:")
    if file is None:
        raise _NoFileError(f"there is no file {where}")
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


class _NoFileError(Exception):
    """There is no such file."""


def _is_file(place: str) -> bool:
    return place.endswith(".py")
