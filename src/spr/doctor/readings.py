"""What a model's numbers could mean: the boxes of its answers, read under every contract that the notation
can have.

In: answers to questions about objects with known boxes. Out: `Reading`s, each with the IoU of every answered
box, so that two of them can be compared on the same answers (verdict.py). Only the doctor uses this, to
advise; scoring and evaluation never choose a contract by looking at the truth.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from spr.dialects import Dialect, get_dialect, known_names, resize_options
from spr.dialects.codec import ORDERS, LinearCodec
from spr.dialects.configured import FRAMES
from spr.dialects.resize import RESIZE_OPTIONS
from spr.errors import DialectError
from spr.types import Box, Frame, GroundedText, Mention

Floats: TypeAlias = NDArray[np.float64]

SCALES = (1, 100, 999, 1000, 1024)
# sides and limits that people set: a fitted number becomes the nearest of them
SIDES = (
    1, 10, 100, 224, 256, 320, 336, 384, 392, 416, 448, 480, 490, 512, 560, 600, 616, 640, 672, 720, 728, 756,
    768, 784, 800, 840, 896, 960, 980, 999, 1000, 1008, 1024, 1080, 1092, 1120, 1200, 1280, 1333, 1344, 1400,
    1536, 1600, 1792, 1920, 2000, 2048, 2560, 3072, 3840, 4096,
)  # fmt: skip
AREAS = (256, 512, 576, 640, 768, 900, 1024, 1280, 1536, 2048, 2560, 3072, 4096, 5120, 8192, 16384)
NEAR = 0.01  # ours: how far a fitted side may be from a usual one
NEAR_AREA = 0.08  # ours: the resized area is rounded down to whole patches
CHANGED = 0.02  # ours: an image whose pixels are at least that much larger or smaller was resized
SAMPLED = 12  # answers that show in which notation a model writes
_UNIT = Frame(1, 1)  # of shares of the image
_ENOUGH = 5  # boxes that make a rule
OWN = 0.3  # ours: how much more of the answers another notation must explain
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
_FRACTION = re.compile(r"(?<![\d.])0?\.\d")
CROP_OFF = "processor: {do_center_crop: false}"
DEFAULTS: Mapping[str, int] = resize_options({})
_OF_PIXELS = (*RESIZE_OPTIONS, "frame", "longest_side")
_KEY = re.compile(r"[\"'“”]?([A-Za-z][\w ]*)[\"'“”]?\s*:\s*[\[(]")


@dataclass(frozen=True, slots=True)
class Item:
    """A question about the objects of one category in an image, with all their boxes."""

    image: str
    frame: Frame
    category: str
    truths: tuple[Box, ...]


def boxes_for(g: GroundedText, item: Item) -> tuple[Box, ...]:
    """The boxes that answer the question: those that are named as the objects are, else the first ones, not
    more than there are objects.
    """
    named = [m for m in g.mentions if m.phrase and item.category.casefold() in m.phrase.casefold()]
    found = [box for m in named or g.mentions for box in m.boxes]
    return tuple(found[: len(item.truths)])


# --- the notation -----------------------------------------------------------------------------------


def first_mention(dialect: Dialect, text: str, frame: Frame) -> Mention | None:
    """The first mention with a box."""
    return next((m for m in dialect.parse(text, frame).mentions if m.boxes), None)


def skeleton(text: str, phrase: str | None) -> str:
    """The form of a mention: numbers become #, the phrase becomes §, blanks go."""
    if phrase:
        text = text.replace(phrase, "§", 1)
    return re.sub(r"\s+", "", _NUMBER.sub("#", text))


def explained(dialect: Dialect, text: str, frame: Frame) -> float:
    """Share of the answer that its first box makes up, if it is written as the dialect itself would write it;
    else 0. A bare `[1, 2, 3, 4]` inside a JSON object explains little.
    """
    mention = first_mention(dialect, text, frame)
    if mention is None:
        return 0.0
    start, end = mention.span
    try:
        own = dialect.compose([(mention.phrase, mention.boxes)], frame)
    except DialectError:
        return 0.0
    same = skeleton(text[start:end], mention.phrase) in skeleton(own, mention.phrase)
    return (end - start) / len(text.strip()) if same else 0.0


def _notations(assumed: Dialect, processor: Mapping[str, Any], answers: Sequence[str]) -> Iterator[Dialect]:
    """What the answers may be written in: the known dialects, each also with fractions, and with the key that
    stands in the answers.
    """
    keys = Counter(key for text in answers for key in set(_KEY.findall(text)))
    fractions = sum(_FRACTION.search(text) is not None for text in answers)
    changes: list[dict[str, Any]] = [{}, {"scale": 1}] if 2 * fractions >= len(answers) else [{}]
    changes += [{"key": key, **more} for key, n in keys.items() if 2 * n >= len(answers) for more in changes]
    bases = [
        (assumed.name, dict(assumed.options)),
        *((n, _options(n, processor)) for n in known_names("boxes")),
    ]
    for change in changes:
        for name, options in bases:
            kept = {o: v for o, v in options.items() if not ("scale" in change and o in _OF_PIXELS)}
            try:
                yield get_dialect(name, **{**kept, **change})
            except DialectError:
                continue  # has no key, or no fractions


def _options(name: str, processor: Mapping[str, Any]) -> dict[str, Any]:
    return dict(processor) if get_dialect(name).codec.frame == "resized" else {}


def written_as(
    assumed: Dialect, processor: Mapping[str, Any], answers: Sequence[str], items: Sequence[Item]
) -> list[Dialect]:
    """The dialects in whose notation the answers are written, whatever their numbers mean, the likeliest
    first: the assumed one, if it explains them about as well as any.
    """
    step = max(1, len(answers) // SAMPLED)
    sample = list(zip(answers, items, strict=True))[::step]
    found = [
        (sum(explained(dialect, text, item.frame) for text, item in sample) / len(sample), dialect)
        for dialect in _notations(assumed, processor, [text for text, _ in sample])
    ]
    own, most = found[0][0], max(share for share, _ in found)
    if most == 0:
        return [assumed]
    equal = [dialect for share, dialect in found[1:] if share > most - 0.02]
    return [assumed, *equal] if own > most - OWN else equal


# --- the numbers ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answers:
    """The answered boxes, n of them: the numbers that were written, (n, 4), in the order of `base`; the size
    of each one's image, (n, 2); and the true boxes that each may mean.
    """

    base: Dialect
    values: Floats
    sizes: Floats
    frames: tuple[Frame, ...]  # one per row
    items: tuple[Item, ...]
    known: tuple[Box, ...]  # as the base reads them

    @cached_property
    def boxes(self) -> Floats:
        """(n, 4) as the base reads them."""
        return np.array(self.known, dtype=np.float64).reshape(-1, 4)

    @cached_property
    def counts(self) -> NDArray[np.intp]:
        """(n,) how many true boxes each may mean."""
        return np.array([len(item.truths) for item in self.items], dtype=np.intp)

    @cached_property
    def truths(self) -> Floats:
        """All true boxes, row after row."""
        return np.array([box for item in self.items for box in item.truths], dtype=np.float64)

    @cached_property
    def starts(self) -> NDArray[np.intp]:
        """(n,) where in `truths` those of each row begin."""
        return np.cumsum(self.counts) - self.counts

    def ious(self, boxes: Floats) -> Floats:
        """(n,) IoU of each box (as `clipped` gives it) with the true box that it fits best."""
        each = overlap(np.repeat(boxes, self.counts, axis=0), self.truths)
        best: Floats = np.maximum.reduceat(each, self.starts)
        return best

    def clipped(self, boxes: Floats) -> Floats:
        """(n, 4) boxes as a metric takes them: sorted, inside the image."""
        low = np.clip(np.minimum(boxes[:, :2], boxes[:, 2:]), 0, self.sizes)
        high = np.clip(np.maximum(boxes[:, :2], boxes[:, 2:]), 0, self.sizes)
        return np.concatenate([low, high], axis=1)


def overlap(a: Floats, b: Floats) -> Floats:
    """(n,) IoU of the boxes of two arrays of shape (n, 4), row by row; 0 where both are empty."""
    side = np.clip(np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2]), 0, None)
    inter = side[:, 0] * side[:, 1]
    union = np.prod(a[:, 2:] - a[:, :2], axis=1) + np.prod(b[:, 2:] - b[:, :2], axis=1) - inter
    ious: Floats = np.divide(inter, union, out=np.zeros_like(inter), where=union > 0)
    return ious


def _axes(codec: LinearCodec, frames: Sequence[Frame]) -> tuple[Floats, Floats]:
    """((n, 2) pixels per unit, (n, 2) pads in pixels) of x and y. Raises ValueError for a bad frame."""
    known = {frame: codec.axes(frame) for frame in set(frames)}
    axes = np.array([known[frame] for frame in frames])  # (n, 2, 4)
    return axes[:, :, 0] / axes[:, :, 1], axes[:, :, 2]


def _corners(values: Floats, order: str) -> Floats:
    """(n, 4) written numbers as x1, y1, x2, y2, in the units in which they are written."""
    places, form = ORDERS[order]
    v = values[:, list(places)]
    if form == "corners":
        return v
    first = v[:, :2] - v[:, 2:] / 2 if form == "centre" else v[:, :2]
    return np.concatenate([first, first + v[:, 2:]], axis=1)


def decode(codec: LinearCodec, values: Floats, frames: Sequence[Frame]) -> Floats:
    """(n, 4) boxes in pixels of the original images. `LinearCodec.reader` for many answers at once."""
    scale, pad = _axes(codec, frames)
    corners = _corners(values, codec.order).reshape(-1, 2, 2)
    boxes: Floats = (corners + codec.offset) * scale[:, None] - pad[:, None]
    return boxes.reshape(-1, 4)


def answered(base: Dialect, answers: Sequence[str], items: Sequence[Item]) -> Answers:
    """The boxes of the answers, as `base` reads them, and the numbers that stand for them."""
    rows = [
        (box, item)
        for text, item in zip(answers, items, strict=True)
        for box in boxes_for(base.parse(text, item.frame), item)
    ]
    frames = tuple(item.frame for _, item in rows)
    boxes = np.array([box for box, _ in rows], dtype=np.float64).reshape(-1, 4)
    values = boxes
    if isinstance(base.codec, LinearCodec) and rows:
        scale, pad = _axes(base.codec, frames)
        places, form = ORDERS[base.codec.order]
        corners = boxes.reshape(-1, 2, 2)
        if form != "corners":
            size = corners[:, 1] - corners[:, 0]
            first = corners.mean(axis=1) if form == "centre" else corners[:, 0]
            written = np.stack([(first + pad) / scale - base.codec.offset, size / scale], axis=1)
        else:
            written = (corners + pad[:, None]) / scale[:, None] - base.codec.offset
        values = np.empty_like(boxes)
        values[:, list(places)] = written.reshape(-1, 4)
    return Answers(
        base,
        values,
        np.array(frames, dtype=np.float64).reshape(-1, 2),
        frames,
        tuple(item for _, item in rows),
        tuple(box for box, _ in rows),
    )


# --- the readings -----------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Reading:
    """One way to read the numbers: `dialect` is what goes into the configuration, `words` says what the
    numbers are then; `boxes` (n, 4), inside the image, and `ious` (n,) belong to the same answered boxes in
    every reading.
    """

    dialect: Mapping[str, Any] | None  # {"base": name, **options}; None: no line of YAML says this
    words: str
    boxes: Floats
    ious: Floats

    @property
    def yaml(self) -> str:
        """The line of the configuration."""
        if self.dialect is None:
            return CROP_OFF
        options = [f"{name}: {value}" for name, value in self.dialect.items()]
        return "dialect: " + (str(self.dialect["base"]) if len(options) == 1 else f"{{{', '.join(options)}}}")


_ORDER_WORDS = {
    "xyxy": "",
    "yxyx": ", axes swapped (y x y x)",
    "xxyy": ", as x x y y",
    "yyxx": ", as y y x x",
    "xywh": ", as x, y, width, height",
    "yxhw": ", as y, x, height, width",
    "cxcywh": ", as centre x, centre y, width, height",
}
_FRAME_WORDS = {
    "original": "of the original image",
    "padded": "of the image padded to a square",
    "padded_end": "of the image padded at its end",
    "resized": "of the resized image",
}


def meaning(dialect: Dialect) -> str:
    """What a dialect's numbers mean, for a person."""
    codec = dialect.codec
    if not isinstance(codec, LinearCodec):
        return f"cells of {dialect.name}"
    order, frame, scale = _meaning(codec)
    longest_side = dialect.options.get("longest_side")
    units = "pixels" if scale is None else f"0-{scale:g}"
    limits = {o: v for o, v in dialect.options.items() if o in RESIZE_OPTIONS and v != DEFAULTS[o]}
    sizes = ", ".join(f"{o.replace('_', ' ')} {v}" for o, v in limits.items())
    shrunk = f", shrunk to {longest_side} px beforehand" if longest_side else ""
    return f"{units} {_FRAME_WORDS[frame]}{f' ({sizes})' if sizes else ''}{shrunk}{_ORDER_WORDS[order]}"


def own_reading(a: Answers, processor: Mapping[str, Any]) -> Reading:
    """As the base reads the answers."""
    return _reading(_shown(a.base, processor), meaning(a.base), a.boxes, a)


def readings(notations: Sequence[Dialect], processor: Mapping[str, Any], a: Answers) -> Iterator[Reading]:
    """Every reading of the answers beside the base's own: the known dialects of their notation, contracts of
    one's own over it, and an image that lost its sides.
    """
    base = next((d for d in notations if isinstance(d.codec, LinearCodec) and not d.codec.truncate), None)
    contracts = () if base is None else _contracts(base, processor, a)
    named = (d for d in notations if (d.name, d.options) != (a.base.name, a.base.options))
    for dialect in (*named, *contracts):
        if isinstance(dialect.codec, LinearCodec):
            boxes = decode(dialect.codec, a.values, a.frames)
            yield _reading(_shown(dialect, processor), meaning(dialect), boxes, a)
    if not a.base.codec.frame.startswith("padded"):
        shorter = a.sizes.min(axis=1, keepdims=True)
        inside, margin = np.tile(shorter / a.sizes, 2), np.tile((a.sizes - shorter) / 2, 2)
        yield _reading(
            None, f"{meaning(a.base)}, cropped to the square in its middle", a.boxes * inside + margin, a
        )


def _reading(dialect: Mapping[str, Any] | None, words: str, boxes: Floats, a: Answers) -> Reading:
    clipped = a.clipped(boxes)
    return Reading(dialect, words, clipped, a.ious(clipped))


def _shown(dialect: Dialect, processor: Mapping[str, Any]) -> dict[str, Any]:
    """What of a dialect goes into the configuration. Sizes that are not said there are the processor's, or
    the family's where no processor is known.
    """
    said = {o: v for o, v in dialect.options.items() if o not in RESIZE_OPTIONS}
    sizes = {**DEFAULTS, **{o: v for o, v in dialect.options.items() if o in RESIZE_OPTIONS}}
    if dialect.codec.frame == "resized" and sizes != {**DEFAULTS, **processor}:
        said |= sizes if processor else {o: v for o, v in sizes.items() if v != DEFAULTS[o]}
    return {"base": dialect.name, **said}


def affine(a: Answers, own: Reading) -> Reading | None:
    """The base's boxes, stretched and moved by one rule, in shares of the image. Half of the images make the
    rule for the other half, so that it cannot follow the model's errors; None: too few images.
    """
    images = sorted({item.image for item in a.items})
    half = np.array([images.index(item.image) % 2 for item in a.items])
    sides = np.tile(a.sizes, 2)
    found, true = a.boxes / sides, a.truths[a.starts] / sides
    new = np.empty_like(found)
    rules = []
    for part in (0, 1):
        rows = (a.counts == 1) & (half != part) & (own.ious > 0)
        if rows.sum() < _ENOUGH or not (half == part).any():
            return None
        for axis in (0, 1):
            stretch, move = _line(found[rows][:, axis::2].ravel(), true[rows][:, axis::2].ravel())
            new[half == part, axis::2] = found[half == part, axis::2] * stretch + move
            rules.append((stretch, move))
    (sx, mx), (sy, my) = (np.mean(rules[axis::2], axis=0) for axis in (0, 1))
    meant = f"x * {sx:.3f} {mx:+.3f} and y * {sy:.3f} {my:+.3f} of the image"
    return _reading(None, meant, new * sides, a)


def _line(x: Floats, y: Floats) -> tuple[float, float]:
    """(slope, intercept) of y over x by least absolute deviations: few outliers do not bend it."""
    weights = np.ones_like(x)
    slope, intercept = 1.0, 0.0
    for _ in range(20):
        mx, my = np.average(x, weights=weights), np.average(y, weights=weights)
        spread = float((weights * (x - mx) ** 2).sum())
        slope = float((weights * (x - mx) * (y - my)).sum()) / spread if spread else 1.0
        intercept = float(my - slope * mx)
        weights = 1 / np.maximum(np.abs(y - slope * x - intercept), 1e-3)
    return slope, intercept


def _meaning(codec: LinearCodec) -> tuple[str, str, float | None]:
    frame = next(name for name, kind in FRAMES.items() if kind == codec.frame)
    return codec.order, frame, codec.divisor


def _contracts(base: Dialect, processor: Mapping[str, Any], a: Answers) -> Iterator[Dialect]:
    """Contracts of one's own over a family: orders x frames x units."""
    plain = get_dialect(base.name).codec
    assert isinstance(plain, LinearCodec)
    own = {o: v for o, v in base.options.items() if o == "key"}
    for given in _options_tried(processor, a):
        try:
            yield get_dialect(base.name, **own, **_beside(plain, given))
        except DialectError:
            continue  # cannot be written in this notation


def _beside(plain: LinearCodec, given: Mapping[str, Any]) -> dict[str, Any]:
    """The options that are not the family's own. Shares of the resized image are those of the original."""
    order, frame, scale = _meaning(plain)
    if frame == "resized" and given["scale"] != "pixels":
        frame = "original"
    same = {"order": order, "frame": frame, "scale": "pixels" if scale is None else scale}
    return {o: v for o, v in given.items() if same.get(o) != v}


def _options_tried(processor: Mapping[str, Any], a: Answers) -> Iterator[dict[str, Any]]:
    """Units and limits that nobody lists are fitted to the answers."""
    rows, truths = _meant(a)
    frames = [a.frames[row] for row in rows]
    for order in ORDERS:
        corners = _corners(a.values[rows], order)
        for frame in ("original", "padded", "padded_end"):
            side, pad = _axes(LinearCodec(1.0, 1.0, frame=FRAMES[frame]), frames)
            fitted = _fitted(corners, (truths + np.tile(pad, 2)) / np.tile(side, 2))
            if fitted is not None:
                scales = {s for s in SCALES if 0.5 < s / fitted < 2} | {_usual(fitted)}
                for scale in sorted(scales):
                    yield {"order": order, "frame": frame, "scale": scale}
        yield {"order": order, "frame": "padded", "scale": "pixels"}
        changed = {}
        for size in sorted(set(frames)):
            same = np.array([frame == size for frame in frames])
            ratio = _fitted(corners[same], truths[same], size)
            if ratio is not None and abs(ratio - 1) > CHANGED:
                changed[size] = ratio
        for pixels in _pixels_tried(processor, changed):
            yield {"order": order, "scale": "pixels", **pixels}


def _meant(a: Answers) -> tuple[NDArray[np.intp], Floats]:
    """Rows with the box that each means: those that can mean one only, or all of them with all that they may
    mean, where these are too few.
    """
    alone = np.flatnonzero(a.counts == 1)
    if len(alone) >= _ENOUGH:
        return alone, a.truths[a.starts[alone]]
    return np.repeat(np.arange(len(a.counts)), a.counts), a.truths


def _pixels_tried(processor: Mapping[str, Any], ratios: Mapping[Frame, float]) -> Iterator[dict[str, Any]]:
    """Pixels of the image as it was when it was written about. `ratios`: by how much the numbers are larger
    than the original's pixels, of images that were resized.
    """
    known = [dict(processor)] if processor else []
    known += [{"factor": factor} for factor in (28, 32)]
    shrunk = [max(frame) * ratio for frame, ratio in ratios.items() if ratio < 1]
    yield {"frame": "original"}
    for size in (*known, *_limits(ratios)):
        yield {"frame": "resized", **size}
    if shrunk:
        fitted = float(np.median(shrunk))
        for side in sorted({_usual(fitted), *(s for s in SIDES if abs(s / fitted - 1) < 3 * NEAR)}):
            yield {"frame": "original", "longest_side": side}
            for size in known:
                yield {"frame": "resized", **size, "longest_side": side}


def _limits(ratios: Mapping[Frame, float]) -> Iterator[dict[str, int]]:
    """Limits of the resized image that explain the ratios."""
    smaller = [r * r * f.width * f.height for f, r in ratios.items() if r < 1]
    larger = [r * r * f.width * f.height for f, r in ratios.items() if r > 1]
    for factor in (28, 32):
        upper = [{"max_pixels": pixels} for pixels in _areas(smaller, factor, larger=False)]
        lower = [{"min_pixels": pixels} for pixels in _areas(larger, factor, larger=True)]
        both = [{**x, **y} for x in upper for y in lower]
        for limit in (*upper, *lower, *both):
            yield {**limit, "factor": factor}


def _fitted(numbers: Floats, places: Floats, frame: Frame = _UNIT) -> float | None:
    """By which factor numbers are larger than the places that they mean: the median over coordinates that are
    away from the origin; None: nothing to see.
    """
    far = (places > 0.1 * np.array([*frame, *frame])) & (numbers > 0)
    return float(np.median(numbers[far] / places[far])) if far.any() else None


def _usual(fitted: float) -> int:
    """The nearest side that people set, where one is near; else the whole number."""
    near = min(SIDES, key=lambda side: abs(side / fitted - 1))
    return near if abs(near / fitted - 1) <= NEAR else max(1, round(fitted))


def _areas(found: Sequence[float], factor: int, larger: bool) -> list[int]:
    """Limits in pixels that give the areas found: a little below an upper one, above a lower one."""
    if not found:
        return []
    fitted, patch, side = float(np.median(found)), factor * factor, -1 if larger else 1
    near = [n * patch for n in AREAS if -NEAR < side * (n * patch / fitted - 1) < NEAR_AREA]
    return near or [max(1, round(fitted / patch)) * patch]
