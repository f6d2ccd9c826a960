"""Field types and the base class shared by the models of a study file."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import core_schema

from models import packages
from models.own_functions import FORMS

OWN_FUNCTION = re.compile(r"^[\w./-]+:\w+$")  # user-defined: package.module:function or path/file.py:function
PACKAGED = re.compile(rf"^({'|'.join(packages.PACKAGES)})/[\w.-]+$")  # a network of torchvision or timm


class RefusedError(ValueError):
    """The user's input turned out to be unusable after the study had started; the message names what is available."""


@dataclass(frozen=True, eq=False)
class OneOf:
    """Field metadata: accepts one of `choices`, or (dotted) a user-defined function, or (packaged) a package's network.

    A user-defined function is written `package.module:function` or `path/file.py:function`, a network of a package
    `torchvision/name` or `timm/name`; whether there is one is found when it is built.

    what: the kind of thing being named, for the error message.
    choices: the registry itself, read on every use, so that names added later are known.
    """

    what: str
    choices: Collection[str]
    dotted: bool = False
    packaged: bool = False

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.no_info_after_validator_function(self._checked, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        names: dict[str, Any] = {"type": "string", "enum": list(self.choices)}
        patterns = [{"type": "string", "pattern": form.pattern} for form in self._forms()]
        return {"anyOf": [names, *patterns]} if patterns else names

    def _forms(self) -> list[re.Pattern[str]]:
        return [PACKAGED] * self.packaged + [OWN_FUNCTION] * self.dotted

    def _checked(self, name: str) -> str:
        if name in self.choices or any(form.fullmatch(name) for form in self._forms()):
            return name
        listed = ", ".join(self.choices) + self.packaged * f", {packages.FORMS}" + self.dotted * f", or {FORMS}"
        raise ValueError(f"unknown {self.what} {name!r}; choices: {listed}")


def one_of(what: str, choices: Collection[str], *, dotted: bool = False, packaged: bool = False) -> OneOf:
    """Metadata for a field that accepts one of these names; see `OneOf`."""
    return OneOf(what, choices, dotted, packaged)


class Section(BaseModel):
    """Base class for parts of a study file: frozen, unknown keys and non-finite numbers are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


Fraction = Annotated[float, Field(ge=0, lt=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]  # the range of numpy's seeds
Direction = Literal["max", "min"]
