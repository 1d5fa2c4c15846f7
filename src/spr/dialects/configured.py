"""A contract of one's own: the notation of a family with another scale, order, frame or key.

`get_dialect("qwen3_vl", scale=1024, order="yxyx")`, in YAML `dialect: {base: qwen3_vl, scale: 1024, order:
yxyx}`. What is not given stays as the family has it. Nothing is guessed: what cannot be written in the
notation and read back is refused.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from spr.dialects.base import Dialect, Grammar
from spr.dialects.codec import ORDERS, FrameKind, LinearCodec, ModelSize, original_size, shrunk, square_size
from spr.dialects.contract import Contract
from spr.dialects.family import NOT_PUBLISHED, Family
from spr.dialects.json_objects import JsonGrammar
from spr.dialects.mixed import MixedGrammar
from spr.dialects.resize import RESIZE_OPTIONS, resized_in_words, smart_resize
from spr.errors import DialectError, unknown_name
from spr.types import Box, Frame, Point

FRAMES: Mapping[str, FrameKind] = {
    "original": "original",
    "padded": "padded to a square",
    "padded_end": "padded at the end",
    "resized": "resized",
}
OPTIONS = ("scale", "order", "frame", "key", "decimals", "longest_side", *RESIZE_OPTIONS)
_CHECKED_ON = Frame(640, 480)
_BOX: Box = (64.0, 48.0, 320.0, 240.0)
_LOSS = 0.05  # ours: of a side, what rounding may cost


def configured(name: str, family: Family, changes: Mapping[str, Any]) -> Family:
    """The family with other numbers. Raises DialectError, one line each, for what cannot be."""
    grammar, codec, contract, prompts = family
    if not isinstance(codec, LinearCodec) or codec.truncate:
        raise DialectError(
            f"{name}: found {', '.join(changes)}, expected none: its boxes are "
            + ("whole pixels" if isinstance(codec, LinearCodec) else "cells of a grid")
        )
    new = _codec(name, codec, changes, contract.writes)
    units = "new_W" if new.divisor is None else f"{new.divisor:g}"
    decode = f"v / {units} * " + ("S" if new.frame.startswith("padded") else "W")
    decode += " - (S - W) // 2" if new.frame == FRAMES["padded"] else ""
    found = (
        _grammar(name, grammar, changes.get("key")),
        new,
        replace(
            contract,
            order=new.order if "boxes" in contract.writes else new.order[:2],
            divisor=new.divisor,
            maximum=new.maximum,
            offset=new.offset,
            frame=_in_words(new.frame, codec, contract, changes),
            encode=NOT_PUBLISHED,
            official_decode=decode,
            source=f"configured, from {contract.source}",
            edge=new.edge,
        ),
        prompts,
    )
    _check(name, found, changes)
    return found


def _codec(name: str, codec: LinearCodec, changes: Mapping[str, Any], writes: tuple[str, ...]) -> LinearCodec:
    order = changes.get("order", codec.order)
    if order not in ORDERS:
        raise DialectError(f"{name}.order: " + unknown_name("order", str(order), tuple(ORDERS)))
    if "points" in writes and order not in ("xyxy", "yxyx"):
        raise DialectError(f"{name}.order: found {order!r}, expected xyxy or yxyx: it writes points too")
    kind = _frame(name, codec, changes)
    units = _units(name, codec, kind, changes)
    same = units is not None and units == codec.divisor
    decimals = whole_number(name, "decimals", changes["decimals"], 0, 8) if "decimals" in changes else None
    if decimals is None:
        decimals = codec.decimals if same else 3 if units is not None and units <= 2 else 0
    return replace(
        codec,
        divisor=units,
        maximum=codec.maximum if same else units,
        order=order,
        frame=kind,
        offset=codec.offset if same else 0.0,
        decimals=decimals,
        official=None,
        size=_size(name, codec, kind, changes),
        edge=1.0 if kind == "resized" else 0.0,
    )


def _units(name: str, codec: LinearCodec, kind: FrameKind, changes: Mapping[str, Any]) -> float | None:
    """Units per side; None = pixels."""
    scale = changes.get("scale")
    if scale is None:
        units = None if "resized" in (kind, codec.frame) else codec.divisor
    elif scale == "pixels":
        units = None
    elif isinstance(scale, int | float) and not isinstance(scale, bool) and 0 < scale < math.inf:
        units = float(scale)
    else:
        raise DialectError(f"{name}.scale: found {scale!r}, expected units per side (1000) or 'pixels'")
    if units is not None and kind == "resized":
        raise DialectError(f"{name}.scale: found {scale!r} with frame: resized, expected scale: pixels")
    if units is not None and "longest_side" in changes:
        raise DialectError(
            f"{name}.longest_side: found scale {units:g}, expected scale: pixels: shares of an image stay"
        )
    return units


def _frame(name: str, codec: LinearCodec, changes: Mapping[str, Any]) -> FrameKind:
    """The frame that is given, or the family's; shares of the resized image are those of the original."""
    given = changes.get("frame")
    if given is None:
        relative = codec.frame == "resized" and changes.get("scale", "pixels") != "pixels"
        kind = "original" if relative else codec.frame
    elif str(given) in FRAMES:
        kind = FRAMES[str(given)]
    else:
        raise DialectError(f"{name}.frame: " + unknown_name("frame", str(given), tuple(FRAMES)))
    for option in RESIZE_OPTIONS:
        if option in changes and kind != "resized":
            raise DialectError(f"{name}.{option}: found the {kind} frame, expected frame: resized")
    return kind


def _size(name: str, codec: LinearCodec, kind: FrameKind, changes: Mapping[str, Any]) -> ModelSize:
    """What the numbers span: (width, height) of the image as it is when they are written."""
    base: ModelSize = square_size if kind.startswith("padded") else original_size
    if kind == "resized":
        given: dict[str, Any] = {o: whole_number(name, o, changes[o]) for o in RESIZE_OPTIONS if o in changes}
        base = codec.size if codec.frame == "resized" else functools.partial(smart_resize, **given)
    if "longest_side" not in changes:
        return base
    longest = whole_number(name, "longest_side", changes["longest_side"])
    return functools.partial(_after_shrinking, size=base, longest_side=longest)


def _after_shrinking(frame: Frame, size: ModelSize, longest_side: int) -> tuple[int, int]:
    return size(shrunk(frame, longest_side))


def whole_number(name: str, option: str, value: object, low: int = 1, high: int = 1 << 40) -> int:
    """The value of an option. Raises DialectError."""
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        expected = "a positive whole number" if low else f"a whole number from {low} to {high}"
        raise DialectError(f"{name}.{option}: found {value!r}, expected {expected}")
    return value


def _grammar(name: str, grammar: Grammar, key: object) -> Grammar:
    if key is None:
        return grammar
    if not isinstance(key, str) or not key.strip():
        raise DialectError(f"{name}.key: found {key!r}, expected the name of the key that holds a box")
    if isinstance(grammar, JsonGrammar) and grammar.key:
        return replace(grammar, key=key)
    if isinstance(grammar, MixedGrammar):
        return replace(grammar, json=replace(grammar.json, key=key))
    raise DialectError(f"{name}.key: found {key!r}, expected none: this notation has no key that holds a box")


def _in_words(kind: FrameKind, codec: LinearCodec, contract: Contract, changes: Mapping[str, Any]) -> str:
    """The frame with the sizes that make it."""
    words: str = contract.frame if kind == codec.frame else kind
    if kind == "resized" and codec.frame != kind:
        words = resized_in_words(**{o: changes[o] for o in RESIZE_OPTIONS if o in changes})
    longest = changes.get("longest_side")
    return words + (f", after a longer side of at most {longest} px" if longest else "")


def _check(name: str, family: Family, changes: Mapping[str, Any]) -> None:
    """Raise DialectError where a box, or a point, does not come back, or its name does not."""
    d = Dialect(name, *family)
    place: Box | Point = _BOX if "boxes" in d.contract.writes else (_BOX[2], _BOX[3])
    phrase: str | None = "cat"
    try:
        text = d.compose([(phrase, [place])], _CHECKED_ON)
    except DialectError:  # no place for a label
        phrase = None
        text = d.compose([(phrase, [place])], _CHECKED_ON)
    g = d.parse(text, _CHECKED_ON)
    read = [place for m in g.mentions for place in (*m.boxes, *m.points) if m.phrase == phrase]
    away = [abs(a - b) for a, b in zip(read[0], place, strict=True)] if len(read) == 1 else [math.inf]
    if max(away) > _LOSS * max(_CHECKED_ON):
        given = ", ".join(f"{option}: {value}" for option, value in changes.items())
        raise DialectError(
            f"{name}: found {given}, expected numbers that this notation can write: {text!r} reads back as "
            f"{read[0] if read else 'nothing'} for {place}"
        )
