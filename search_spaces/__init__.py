"""Study files: find them by name or path, read them as YAML, apply `--set key=value`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parent
DEEPEST, MOST_VALUES, LONGEST = 20, 20_000, 500_000  # levels of nesting, values and characters of a study file


class _Loader(yaml.SafeLoader):
    """Safe YAML loader that refuses duplicate keys, keys that are no text and deep nesting, and reads 2:4 as text.

    PyYAML silently keeps the last of two equal keys, reads 2:4 as the base-60 number 124 (YAML 1.1), and recurses once
    per level of nesting.
    """

    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self._depth += 1
        if self._depth > DEEPEST:
            raise yaml.composer.ComposerError(None, None, "nested too deeply", parent.start_mark if parent else None)
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            key = key_node.value
            if not isinstance(key_node, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a key is no text", key_node.start_mark)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} appears twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)

    def construct_int(self, node: yaml.ScalarNode) -> int | str:
        text = self.construct_scalar(node)
        return text if ":" in text else self.construct_yaml_int(node)


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_int)


def names() -> list[str]:
    """Names of the bundled study files, as `--space` accepts them."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def find(space: str) -> Path:
    """Path of a study file: `space` is a path, or a bare name (with or without `.yaml`) in this folder.

    Raises ValueError, naming the choices, if there is no such file.
    """
    path = Path(space)
    if path.is_file():
        return path
    if path.name == space and (bundled := FOLDER / f"{space.removesuffix('.yaml')}.yaml").is_file():
        return bundled
    raise ValueError(f"{space}: no such study file; bundled are: {', '.join(names())}")


def read(path: Path) -> dict[str, Any]:
    """Read the mapping in a YAML file. Raises ValueError naming the file and, for a syntax error, the line."""
    try:
        content = _parsed(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise ValueError(f"{path}: not readable as YAML: {error}") from None
    if not isinstance(content, dict):
        found = "is empty" if content is None else f"holds a {type(content).__name__}"
        raise ValueError(f"{path}: {found}; expected the keys study, resources, baseline, space")
    return content


def override(content: Mapping[str, Any], settings: Iterable[str]) -> dict[str, Any]:
    """A copy of `content` with each `a.b=value` of `settings` applied; values are YAML.

    Raises ValueError for a setting without `=`, a value that is not valid YAML, or a path through a non-mapping.
    """
    result: dict[str, Any] = dict(content)
    for setting in settings:
        dotted, equals, text = setting.partition("=")
        if not equals or not all(dotted.split(".")):
            raise ValueError(f"--set {setting}: expected key.subkey=value")
        if dotted.count(".") >= DEEPEST:
            raise ValueError(f"--set {setting}: no key is that deep")
        try:
            value = _parsed(text)
        except ValueError as error:
            raise ValueError(f"--set {setting}: not YAML: {error}") from None
        result = _set_nested(result, dotted.split("."), value, setting)
    return result


def _parsed(text: str) -> Any:
    """The content of one YAML document. Raises ValueError with the reason in one line."""
    try:
        if len(text) > LONGEST:
            raise ValueError(f"more than {LONGEST:,} characters")
        content = _Loader(text).get_single_data()
        if sum(1 for _ in islice(_values(content, 0), MOST_VALUES + 1)) > MOST_VALUES:
            raise ValueError(f"more than {MOST_VALUES:,} values")
        return content
    except Exception as error:  # for a value that its tag does not allow, PyYAML raises any type
        reason = str(error) if isinstance(error, (yaml.YAMLError, ValueError)) else repr(error)
        raise ValueError(" ".join(reason.split())) from None


def _values(content: Any, depth: int) -> Iterator[Any]:
    """All values within, each as often as it is referred to: a few aliases can stand for billions, or for endless."""
    if depth > DEEPEST:
        raise ValueError("nested too deeply")
    yield content
    for inner in content.values() if isinstance(content, dict) else content if isinstance(content, list) else ():
        yield from _values(inner, depth + 1)


def _set_nested(mapping: Any, keys: list[str], value: Any, setting: str) -> dict[str, Any]:
    head, *rest = keys
    if mapping is not None and not isinstance(mapping, Mapping):
        raise ValueError(f"--set {setting}: {head!r} is below a value that is not a mapping")
    inner = dict(mapping or {})
    inner[head] = _set_nested(inner.get(head), rest, value, setting) if rest else value
    return inner
