"""Ranges of the numbers in a configuration: they stand in the annotation of a field, and every section checks
its own when it is made.

    samples: Annotated[int, Range(1)] = 2
"""

from __future__ import annotations

import math
import typing
from dataclasses import dataclass, fields
from typing import Annotated, Any, TypeAlias

from spr.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Range:
    """Numbers from `least` to `most`, which are in it; `above` and `below` are not. NaN and infinity are in
    none.
    """

    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None

    def __contains__(self, value: float) -> bool:
        return (
            math.isfinite(value)
            and (self.least is None or value >= self.least)
            and (self.most is None or value <= self.most)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )

    def __str__(self) -> str:
        low = f"at least {self.least:g}" if self.least is not None else ""
        low = f"above {self.above:g}" if self.above is not None else low
        high = f"at most {self.most:g}" if self.most is not None else ""
        high = f"below {self.below:g}" if self.below is not None else high
        return " and ".join(part for part in (low, high) if part)


Count: TypeAlias = Annotated[int, Range(1)]
Share: TypeAlias = Annotated[float, Range(0, 1)]
Seed: TypeAlias = Annotated[int, Range(0, 2**32 - 1)]  # what numpy and torch both take
Amount: TypeAlias = Annotated[float, Range(0)]


def check_ranges(section: Any, name: str) -> None:
    """Raise ConfigError for a number of a dataclass that is out of the range of its field. `name`: of the
    section in the configuration.
    """
    hints = typing.get_type_hints(type(section), include_extras=True)
    for field in fields(section):
        value = getattr(section, field.name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        for allowed in _ranges(hints[field.name]):
            if value not in allowed:
                dotted = f"{name}.{field.metadata.get('also', field.name)}" if name else field.name
                raise ConfigError(f"{dotted}: found {value}, expected {allowed}")


def _ranges(annotation: Any) -> list[Range]:
    """The ranges in an annotation `Annotated[T, Range]`, or of one part of a union."""
    if typing.get_origin(annotation) is Annotated:
        return [extra for extra in annotation.__metadata__ if isinstance(extra, Range)]
    return [found for part in typing.get_args(annotation) for found in _ranges(part)]
