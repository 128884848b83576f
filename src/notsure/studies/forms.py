"""The types of what a study declares: strict, so that a mistake is not read as something else."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

Scale = Literal["smoke", "cpu", "paper"]
"""How large a study is run: in minutes, in hours on two cores, or as the report did."""

Count = Annotated[int, Field(ge=1, strict=True)]
Whole = Annotated[int, Field(ge=0, strict=True)]
Number = Annotated[float, Field(strict=True)]
Text = Annotated[str, Field(min_length=1, strict=True)]
Statistic = Number | tuple[Number, ...]
Parameter = Annotated[int, Field(strict=True)] | Number | Text

FORM = ConfigDict(frozen=True, extra="forbid")
"""What all models of a study have in common: they are frozen, and know all their keys."""
