"""What a model's numbers could mean: every dialect that reads the answers, and the assumed notation with
another scale, order or frame.

In: answers, the sizes of their images (original, and as the processor resizes them), true boxes. Out: how
well each reading fits. Only the doctor uses this, to advise; scoring and evaluation never choose a contract
by looking at the truth.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal, TypeAlias

from spr.boxes import iou, sanitize
from spr.dialects import Dialect, Frame, get_dialect, known_names
from spr.errors import DialectError
from spr.types import Box, Mention

CLOSE = 0.05  # ours: readings whose median IoU differs by less cannot be told apart
BETTER = 0.1  # ours: by how much another reading must fit better before the assumed one is called wrong
FITS = 0.3  # ours: below this no reading fits, and nothing can be said about frames
SCALES = (1.0, 100.0, 999.0, 1000.0, 1024.0)
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the doctor's table. `verdict`: fine, look (a person should), wrong."""

    check: str
    found: str
    verdict: Literal["fine", "look", "wrong"]


@dataclass(frozen=True, slots=True)
class Item:
    """A question with a known answer. `seen` is the size (width, height) to which the processor resizes the
    image; None = not known.
    """

    image: str
    frame: Frame
    seen: tuple[int, int] | None
    category: str
    truth: Box


@dataclass(frozen=True, slots=True)
class Reading:
    """A way to read boxes. `dialect` is its name when it is a known dialect; `own` is the share of boxes that
    are written in its very notation, each counted by how much of the answer it explains (a bare `[1, 2, 3,
    4]` inside a JSON object explains little).
    """

    name: str
    dialect: str | None
    median_iou: float | None
    read: int
    own: float

    @property
    def score(self) -> float:
        """The median IoU, 0 when nothing was read."""
        return self.median_iou or 0.0


Numbers: TypeAlias = tuple[float, float, float, float]
Decode: TypeAlias = Callable[[Numbers, Item], Box]


def first_mention(dialect: Dialect, text: str, frame: Frame) -> Mention | None:
    """The first mention with a box."""
    return next((m for m in dialect.parse(text, frame).mentions if m.boxes), None)


def skeleton(text: str, phrase: str | None) -> str:
    """The form of a mention: numbers become #, the phrase becomes §, blanks go."""
    if phrase:
        text = text.replace(phrase, "§", 1)
    return re.sub(r"\s+", "", _NUMBER.sub("#", text))


def _explained(dialect: Dialect, text: str, mention: Mention, frame: Frame) -> float:
    """Share of the answer that the mention makes up, if it is written as the dialect itself would write it;
    else 0.
    """
    start, end = mention.span
    try:
        own = dialect.compose([(mention.phrase, mention.boxes)], frame)
    except DialectError:
        return 0.0
    return (
        (end - start) / len(text.strip())
        if skeleton(text[start:end], mention.phrase) in skeleton(own, mention.phrase)
        else 0.0
    )


def _measured(
    name: str, dialect: str | None, boxes: Sequence[Box | None], items: Sequence[Item], own: float
) -> Reading:
    ious = [
        iou(sanitize([box], item.frame), [item.truth])
        for box, item in zip(boxes, items, strict=True)
        if box is not None
    ]
    return Reading(name, dialect, float(median(ious)) if ious else None, len(ious), own)


def dialect_reading(dialect: Dialect, answers: Sequence[str], items: Sequence[Item]) -> Reading:
    """How well the answers fit when the dialect reads them."""
    mentions = [first_mention(dialect, text, item.frame) for text, item in zip(answers, items, strict=True)]
    own = [
        _explained(dialect, text, m, item.frame)
        for text, item, m in zip(answers, items, mentions, strict=True)
        if m is not None
    ]
    boxes = [m.boxes[0] if m is not None else None for m in mentions]
    return _measured(dialect.name, dialect.name, boxes, items, sum(own) / len(own) if own else 0.0)


def _size(item: Item, frame: str) -> tuple[float, float, float, float]:
    """(width, height) that the numbers span, and the padding left and above, in pixels of the original."""
    w, h = item.frame.width, item.frame.height
    if frame == "padded to a square":
        side = max(w, h)
        return float(side), float(side), float((side - w) // 2), float((side - h) // 2)
    return float(w), float(h), 0.0, 0.0


def _scaled(units: float, frame: str, swapped: bool) -> Decode:
    def decode(v: Numbers, item: Item) -> Box:
        x1, y1, x2, y2 = (v[1], v[0], v[3], v[2]) if swapped else v
        w, h, left, above = _size(item, frame)
        return x1 * w / units - left, y1 * h / units - above, x2 * w / units - left, y2 * h / units - above

    return decode


def _pixels(resized: bool, swapped: bool) -> Decode:
    def decode(v: Numbers, item: Item) -> Box:
        x1, y1, x2, y2 = (v[1], v[0], v[3], v[2]) if swapped else v
        seen = item.seen if resized and item.seen is not None else (item.frame.width, item.frame.height)
        sx, sy = item.frame.width / seen[0], item.frame.height / seen[1]
        return x1 * sx, y1 * sy, x2 * sx, y2 * sy

    return decode


def alternatives(resized: bool) -> Iterator[tuple[str, Decode]]:
    """Every combination of scale, order and frame, in words. `resized`: the size after the processor is
    known.
    """
    for swapped in (False, True):
        order = ", axes swapped (y x y x)" if swapped else ""
        for frame in ("original image", "padded to a square"):
            for units in SCALES:
                yield f"0-{units:g}, {frame}{order}", _scaled(units, frame, swapped)
        yield f"pixels of the original image{order}", _pixels(False, swapped)
        if resized:
            yield f"pixels of the resized image{order}", _pixels(True, swapped)


def _first_numbers(dialect: Dialect, text: str) -> Numbers | None:
    spans = dialect.coordinate_spans(text)[:4]
    if len(spans) < 4:
        return None
    a, b, c, d = (float(text[start:end]) for start, end in spans)
    return a, b, c, d


def readings(
    assumed: Dialect, options: Mapping[str, Any], answers: Sequence[str], items: Sequence[Item]
) -> tuple[Reading, list[Reading]]:
    """The assumed reading, and all others that read at least half as many answers, best first. `options`: of
    the processor, for resized frames.
    """
    first = dialect_reading(assumed, answers, items)
    others = []
    for name in known_names("boxes"):
        dialect = get_dialect("qwen2_5_vl", **options) if name == "qwen2_5_vl" else get_dialect(name)
        if dialect.name != assumed.name or dialect.options != assumed.options:
            others.append(dialect_reading(dialect, answers, items))
    numbers = [_first_numbers(assumed, text) for text in answers]
    for name, decode in alternatives(all(item.seen for item in items)):
        boxes = [decode(v, item) if v is not None else None for v, item in zip(numbers, items, strict=True)]
        others.append(_measured(name, None, boxes, items, 0.0))
    most = max([first.read, *(r.read for r in others)])
    kept = [r for r in others if r.read and 2 * r.read >= most]
    return first, sorted(kept, key=lambda r: (r.score, r.own), reverse=True)


def verdict(assumed: Reading, others: Sequence[Reading], asked: int) -> Finding:
    """Which contract fits, and the advice."""
    top = max([assumed.score, *(r.score for r in others)])
    if top < FITS:
        found = (
            f"no reading fits (best median IoU {top:.2f}, {assumed.read} of {asked} answers read): "
            "nothing can be said about the frame"
        )
        return Finding("contract", found, "look")
    shown = f"assumed {assumed.score:.2f}" if assumed.read else "assumed: no box read"
    if top - assumed.score >= BETTER:
        near = [r for r in others if r.score > top - CLOSE]
        named = max(
            (r for r in near if r.dialect and r.own >= 0.5),
            key=lambda r: (round(r.own, 2), r.score),
            default=None,
        )
        words = next((r.name for r in near if r.dialect is None), named.name if named else near[0].name)
        advice = f"set dialect: {named.dialect}" if named else "no dialect has this contract in this notation"
        return Finding(
            "contract",
            f"{shown}, {top:.2f} read as {words}: boxes look like {words}, not {assumed.name}; {advice}",
            "wrong",
        )
    same = max(
        (r for r in others if r.dialect and abs(r.score - assumed.score) < CLOSE),
        key=lambda r: r.own,
        default=None,
    )
    if same is not None and assumed.own < 0.5 and same.own - assumed.own >= 0.3:
        found = (
            f"{shown}, but the boxes are written as {same.dialect} writes them, not as {assumed.name} does"
        )
        return Finding("contract", f"{found}; set dialect: {same.dialect}", "wrong")
    other = max((r.score for r in others if abs(r.score - assumed.score) >= CLOSE), default=0.0)
    return Finding("contract", f"{shown}, best other {other:.2f}: fine", "fine")
