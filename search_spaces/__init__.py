"""Study files: find them by name or path, read them as YAML, apply `--set key=value`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parent


class _Loader(yaml.SafeLoader):
    """Safe YAML loader that refuses duplicate keys and reads 2:4 as text.

    PyYAML silently keeps the last of two equal keys, and reads 2:4 as the base-60 number 124 (YAML 1.1).
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
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
        content = _Loader(path.read_text(encoding="utf-8")).get_single_data()
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise ValueError(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from None
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
        try:
            value = _Loader(text).get_single_data()
        except yaml.YAMLError as error:
            raise ValueError(f"--set {setting}: not YAML: {' '.join(str(error).split())}") from None
        result = _set_nested(result, dotted.split("."), value, setting)
    return result


def _set_nested(mapping: Any, keys: list[str], value: Any, setting: str) -> dict[str, Any]:
    head, *rest = keys
    if mapping is not None and not isinstance(mapping, Mapping):
        raise ValueError(f"--set {setting}: {head!r} is below a value that is not a mapping")
    inner = dict(mapping or {})
    inner[head] = _set_nested(inner.get(head), rest, value, setting) if rest else value
    return inner
