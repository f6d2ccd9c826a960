"""What the models of a study file have in common."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field


class Refused(ValueError):
    """What the user asked for turned out, once the study had begun, not to be had; the message says what there is."""


def one_of(what: str, choices: Iterable[str], *, dotted: bool = False) -> AfterValidator:
    """Accepts a name among `choices`, or (dotted) a user's own `package.module:function`."""
    listed = ", ".join(choices)

    def check(name: str) -> str:
        if name in choices or (dotted and re.fullmatch(r"[\w.]+:\w+", name)):
            return name
        raise ValueError(f"unknown {what} {name!r}; choices: {listed}" + dotted * ", or package.module:function")

    return AfterValidator(check)


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


Fraction = Annotated[float, Field(ge=0, lt=1)]
Direction = Literal["max", "min"]
