"""Documentation tables and the JSON Schema, generated from the code so that they stay in sync with it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic.json_schema import models_json_schema

from pruning.allocation.scopes import SCOPES
from pruning.criteria.registry import CRITERIA
from pruning.schedules import SCHEDULES
from pruning.settings import GRANULARITIES
from study.config.fields import OneOf
from study.config.recipe import Recipe
from study.config.sections import DIRECTIONS, BaselineSection, Resources, StudySection
from study.config.study_file import DEFAULT_SPACE

SECTIONS: dict[str, type[BaseModel]] = {
    "study": StudySection,
    "resources": Resources,
    "baseline": BaselineSection,
    "space": Recipe,
}
COST = {
    "": "not stated",
    "weights": "none",
    "forward": "forward",
    "backward": "forward, backward",
    "per-image": "forward, backward; gradients of single images",
}


def criteria_table() -> str:
    """All criteria with formulas, costs and sources, as Markdown table rows; higher = keep."""
    return _markdown_rows(
        (f"`{name}`", form.of_weight or "refused", form.of_channel, COST[form.cost], form.source)
        for name, form in CRITERIA.items()
    )


def scopes_table() -> str:
    """All scopes with their sources, as Markdown table rows."""
    return _markdown_rows((f"`{name}`", scope.meaning, scope.source) for name, scope in SCOPES.items())


def schedules_table() -> str:
    """All schedules with their sources, as Markdown table rows: of each docstring the first line, and `Source:`."""
    return _markdown_rows((f"`{name}`", *_documented(schedule)) for name, schedule in SCHEDULES.items())


def section_table(name: str) -> str:
    """The keys of a section of the study file (one of `SECTIONS`) with choices, defaults and meanings, as rows."""
    own_defaults = DEFAULT_SPACE if name == "space" else {}
    return _markdown_rows(
        (f"`{key}`", _choices(key, field), _default(field, own_defaults.get(key)), field.description or "")
        for key, field in SECTIONS[name].model_fields.items()
    )


def _choices(key: str, field: FieldInfo) -> str:
    named = [choice for one in field.metadata if isinstance(one, OneOf) for choice in one.choices]
    choices = {"granularity": GRANULARITIES, "objectives": tuple(DIRECTIONS)}.get(key) or named
    return ", ".join(f"`{choice}`" for choice in choices or _literals(field.annotation))


def _literals(annotation: Any) -> list[str]:
    """The strings of a Literal annotation, also inside `... | None` or a tuple.

    Empty where a literal is an alternative to numbers, such as `auto`.
    """
    found = get_args(annotation)
    if found and all(isinstance(one, str) for one in found):
        return list(found)
    inner = [part for part in found if part not in (type(None), ...)]
    return _literals(inner[0]) if len(inner) == 1 else []


def _default(field: FieldInfo, own: Any) -> str:
    if own is None and field.is_required():
        return "required"
    return f"`{json.dumps(field.default if own is None else own)}`"


def _documented(function: Callable[..., Any]) -> tuple[str, str]:
    text = (function.__doc__ or "").strip()
    source = re.search("Source: (.*)", text)
    return text.split("\n")[0].rstrip("."), source[1] if source else ""


def _markdown_rows(rows: Iterable[Iterable[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def json_schema() -> dict[str, Any]:
    """The JSON Schema of a study file, for completion and validation in editors."""
    _, found = models_json_schema(
        [(section, "validation") for section in SECTIONS.values()], title="A study file", ref_template="#/$defs/{model}"
    )
    definitions = found["$defs"]
    recipe = definitions.pop("Recipe")["properties"]
    space = {key: _axis_schema(value) for key, value in recipe.items()}
    names = {"study": "StudySection", "resources": "Resources", "baseline": "BaselineSection"}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A study file",
        "type": "object",
        "required": ["study"],
        "additionalProperties": False,
        "properties": {section: {"$ref": f"#/$defs/{model}"} for section, model in names.items()}
        | {"space": {"type": "object", "additionalProperties": False, "properties": space}},
        "$defs": definitions,
    }


def _axis_schema(value: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of a key of the space: a constant, a list of choices, or a mapping with choices or a range."""
    one = {key: part for key, part in value.items() if key not in ("description", "title", "default")}
    number = {"type": "number"}
    listed = {"type": "array", "items": one, "minItems": 1}
    when = {"when": {"type": "object"}}
    choices = {"choices": listed} | when
    span = {"low": number, "high": number, "log": {"type": "boolean"}, "step": number} | when
    axes = [
        {"type": "object", "additionalProperties": False, "required": required, "properties": properties}
        for required, properties in ((["choices"], choices), (["low", "high"], span))
    ]
    about = {"description": value["description"]} if "description" in value else {}
    return about | {"anyOf": [one, listed, *axes]}
