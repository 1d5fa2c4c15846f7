"""Every number of a configuration has a range, and what is out of it is one line before anything runs."""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Iterator
from typing import Annotated, Any

import pytest

from spr.errors import ConfigError
from spr.ranges import Range, check_ranges
from spr.run.wiring import Config
from spr.store.config import load

# checked by TrainConfig itself: what it may be depends on the loss
ELSEWHERE = {"train.label_smoothing"}
WHOLE = {
    "run": "r",
    "data": {"format": "coco", "annotations": "a.json", "images": "i"},
    "model": {"folder": "m", "dialect": "florence2"},
}


def sections(cls: type, name: str = "") -> Iterator[tuple[str, type]]:
    """Every dataclass of the configuration with its dotted name."""
    yield name, cls
    for key, hint in typing.get_type_hints(cls).items():
        for part in (hint, *typing.get_args(hint)):
            if dataclasses.is_dataclass(part) and isinstance(part, type):
                yield from sections(part, f"{name}.{key}".strip("."))


def ranges(annotation: Any) -> list[Range] | None:
    """The ranges in an annotation; None when no number is in it."""
    if typing.get_origin(annotation) is Annotated:
        inner = ranges(annotation.__origin__)
        found = [extra for extra in annotation.__metadata__ if isinstance(extra, Range)]
        return None if inner is None else inner + found
    if annotation in (int, float):
        return []
    parts = [ranges(part) for part in typing.get_args(annotation)]
    return next((part for part in parts if part is not None), None)


NUMBERS = {
    f"{name}.{field}".strip("."): found
    for name, cls in sections(Config)
    for field, hint in typing.get_type_hints(cls, include_extras=True).items()
    if typing.get_origin(hint) is not typing.Literal and (found := ranges(hint)) is not None
}


def impossible(allowed: Range) -> list[float]:
    """Values just out of a range, far out of it, and no numbers at all."""
    values = [math.nan, math.inf, -math.inf]
    if allowed.least is not None:
        values += [allowed.least - 1, allowed.least - 1e6]
    if allowed.above is not None:
        values += [allowed.above, allowed.above - 1]
    if allowed.most is not None:
        values += [allowed.most + 1, allowed.most * 50]
    if allowed.below is not None:
        values += [allowed.below, allowed.below + 7]
    return values


def test_every_number_has_a_range() -> None:
    assert len(NUMBERS) > 40
    assert {name for name, found in NUMBERS.items() if not found} == ELSEWHERE


@pytest.mark.parametrize("name", sorted(NUMBERS.keys() - ELSEWHERE))
def test_what_cannot_work_is_refused(name: str) -> None:
    """samples: 0, lambda: 8, iou_threshold: 50 went through, and failed hours later or never."""
    found = NUMBERS[name]
    assert found is not None
    (allowed,) = found
    for value in impossible(allowed):
        data: dict[str, Any] = {k: dict(v) if isinstance(v, dict) else v for k, v in WHOLE.items()}
        section, _, key = name.rpartition(".")
        inner: dict[str, Any] = {key: value}
        if section == "evaluate.benchmarks":
            data["evaluate"] = {
                "benchmarks": [{"name": "b", "protocol": "rec", "format": "mdetr", "path": "p", **inner}]
            }
        elif section:
            needed = {"folder": "f"} if section in ("semantic", "detector") else {}
            data[section] = {**needed, **data.get(section, {}), **inner}
        else:
            data |= inner
        with pytest.raises(ConfigError, match=rf"{key.replace('lam', 'lam(bda)?')}: found"):
            load(Config, data)


def test_a_range_says_what_it_is() -> None:
    assert str(Range(1)) == "at least 1"
    assert str(Range(0, 1)) == "at least 0 and at most 1"
    assert str(Range(above=0, below=0.5)) == "above 0 and below 0.5"


def test_the_name_of_the_file_is_shown() -> None:
    """`pairing.lambda` is `lam` only in the code."""

    @dataclasses.dataclass(frozen=True)
    class Section:
        lam: Annotated[float, Range(0, 1)] = dataclasses.field(default=8.0, metadata={"also": "lambda"})

    Section.__annotations__["lam"] = Annotated[float, Range(0, 1)]
    with pytest.raises(ConfigError, match=r"^pair\.lambda: found 8\.0, expected at least 0 and at most 1$"):
        check_ranges(Section(), "pair")
