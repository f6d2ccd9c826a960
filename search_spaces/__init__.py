"""Study files: found by name or path, read safely, changed by `--set key=value`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parent


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader keeps the last of two equal keys in silence, and reads 2:4 as 124, by base 60 as YAML 1.1
    has it; a study file must not."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} stands twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)

    def construct_whole(self, node: yaml.ScalarNode) -> int | str:
        text = self.construct_scalar(node)
        return text if ":" in text else self.construct_yaml_int(node)


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_whole)


def names() -> list[str]:
    """The study files that come with the project, as `--space` takes them."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def find(space: str) -> Path:
    """The file that `space` names: a path, or a bare name (with or without `.yaml`) in this folder.

    Raises ValueError, naming the choices, where there is none.
    """
    path = Path(space)
    if path.is_file():
        return path
    if path.name == space and (bundled := FOLDER / f"{space.removesuffix('.yaml')}.yaml").is_file():
        return bundled
    raise ValueError(f"{space}: no such study file; the project's own are: {', '.join(names())}")


def read(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file. Raises ValueError naming the file and the line that is wrong."""
    try:
        content = _Loader(path.read_text(encoding="utf-8")).get_single_data()
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise ValueError(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        found = "is empty" if content is None else f"holds a {type(content).__name__}"
        raise ValueError(f"{path}: {found}; expected the keys study, resources, baseline, space")
    return content


def override(content: Mapping[str, Any], settings: Iterable[str]) -> dict[str, Any]:
    """`content` with each `a.b=value` of `settings` (values in YAML) put in place; the input is left alone.

    Raises ValueError for a setting without `=`, a value that is no YAML, or a path through a non-mapping.
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
        result = _put(result, dotted.split("."), value, setting)
    return result


def _put(mapping: Any, keys: list[str], value: Any, setting: str) -> dict[str, Any]:
    head, *rest = keys
    if mapping is not None and not isinstance(mapping, Mapping):
        raise ValueError(f"--set {setting}: {head!r} lies below a value that has no keys")
    inner = dict(mapping or {})
    inner[head] = _put(inner.get(head), rest, value, setting) if rest else value
    return inner
