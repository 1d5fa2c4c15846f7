"""Simulated models with a planted fault, and what the doctor says about them.

In: an assumed contract and the one that the model really has. Out: verdicts. The answers are made, not a
model's: photos have no pixels here, a model is its contract and the error of its boxes.
`python -m tests.support.planted` prints the table of docs/doctor.md (half an hour; with a word: the faults
with that word in their names).
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from hypothesis import strategies as st

from spr.boxes import iou, sanitize
from spr.dialects import Dialect, get_dialect
from spr.doctor.readings import Item
from spr.doctor.verdict import Finding, contract
from spr.errors import DialectError
from spr.types import Box, Frame

PHOTOS = tuple(
    Frame(*size)
    for size in (
        (640, 480), (480, 640), (640, 427), (427, 640), (500, 375), (375, 500), (640, 640), (800, 600),
        (1024, 768), (1280, 720), (1920, 1080), (1080, 1920), (4032, 3024), (3024, 4032),
    )
)  # fmt: skip
IMAGES, OBJECTS = 20, 10  # of an image
DRAWS, JITTERS = 50, (0.0, 0.06, 0.15)
# contracts of one's own, for hypothesis
OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "order": st.sampled_from(["xyxy", "yxyx", "xxyy", "yyxx", "xywh", "yxhw", "cxcywh"]),
        "frame": st.sampled_from(["original", "padded", "padded_end", "resized"]),
        "scale": st.one_of(st.sampled_from(["pixels", 1, 100, 1000, 1024]), st.integers(200, 2000)),
        "longest_side": st.integers(400, 1600),
        "max_pixels": st.integers(300, 3000).map(lambda n: n * 784),
    },
)
Shift = Callable[[Box, Frame], Box]  # what the model does to a box that it has found


@dataclass(frozen=True)
class Fault:
    """What the configuration says and what the model does. `shift`: what no dialect can say."""

    name: str
    assumed: Mapping[str, Any]
    written: Mapping[str, Any]
    shift: Shift | None = None

    @property
    def dialects(self) -> tuple[Dialect, Dialect]:
        """As it is assumed, and as the model writes."""
        return get_dialect(self.assumed), get_dialect(self.written)


def photos(rng: np.random.Generator, images: int = IMAGES, objects: int = OBJECTS) -> list[Item]:
    """Objects with sides from 4 % to 60 % of the image."""
    items = []
    for n in range(images):
        frame = PHOTOS[rng.integers(len(PHOTOS))]
        for k in range(objects):
            w, h = np.exp(rng.uniform(np.log(0.04), np.log(0.6), 2)) * frame
            x, y = rng.uniform(0, frame.width - w), rng.uniform(0, frame.height - h)
            items.append(Item(f"{n}.jpg", frame, f"thing {k}", ((x, y, x + w, y + h),)))
    return items


def shaken(box: Box, frame: Frame, jitter: float, rng: np.random.Generator) -> Box:
    """Each edge is off by a normal error with a deviation of `jitter` box sides; inside the image."""
    sides = np.array([box[2] - box[0], box[3] - box[1]] * 2)
    x1, y1, x2, y2 = sanitize([np.array(box) + rng.normal(0, jitter, 4) * sides], frame)[0].tolist()
    return x1, y1, x2, y2


def written(dialect: Dialect, item: Item, box: Box) -> str:
    """The answer of a model of that contract."""
    try:
        return dialect.compose([(item.category, [box])], item.frame)
    except DialectError:  # no place for a label
        return dialect.compose([(None, [box])], item.frame)


def answers(fault: Fault, items: Sequence[Item], jitter: float, rng: np.random.Generator) -> list[str]:
    """What the model says about each item."""
    boxes = [shaken(item.truths[0], item.frame, jitter, rng) for item in items]
    return _texts(fault, items, boxes)


def _texts(fault: Fault, items: Sequence[Item], boxes: Sequence[Box]) -> list[str]:
    shift = fault.shift or (lambda box, frame: box)
    writes = fault.dialects[1]
    return [written(writes, item, shift(box, item.frame)) for item, box in zip(items, boxes, strict=True)]


def reached(items: Sequence[Item], boxes: Sequence[Box | None]) -> float:
    """The share of boxes that reach IoU 0.9."""
    ious = [
        0.0 if box is None else iou(sanitize([box], item.frame), [item.truths[0]])
        for item, box in zip(items, boxes, strict=True)
    ]
    return float(np.mean([found >= 0.9 for found in ious]))


@dataclass(frozen=True)
class Asked:
    """A model that was asked about some photos."""

    fault: Fault
    items: Sequence[Item]
    boxes: Sequence[Box]

    @property
    def finding(self) -> Finding:
        """What the doctor says."""
        return contract(self.fault.dialects[0], {}, _texts(self.fault, self.items, self.boxes), self.items)

    @property
    def cost(self) -> float:
        """What the fault costs at IoU 0.9, as a share of the answers: read as the model means them and
        without its shift, less read as they are assumed to be.
        """
        assumed, writes = self.fault.dialects
        meant = self._read(writes, _texts(replace(self.fault, shift=None), self.items, self.boxes))
        read = self._read(assumed, _texts(self.fault, self.items, self.boxes))
        return reached(self.items, meant) - reached(self.items, read)

    def _read(self, dialect: Dialect, texts: Sequence[str]) -> list[Box | None]:
        found = [dialect.parse(t, item.frame).mentions for t, item in zip(texts, self.items, strict=True)]
        return [m[0].boxes[0] if m and m[0].boxes else None for m in found]


def asked(fault: Fault, seed: int, jitter: float, images: int = IMAGES, objects: int = OBJECTS) -> Asked:
    """A draw of photos and errors."""
    rng = np.random.default_rng(seed)
    items = photos(rng, images, objects)
    return Asked(fault, items, [shaken(item.truths[0], item.frame, jitter, rng) for item in items])


def _cropped(box: Box, frame: Frame) -> Box:
    """The model sees the square in the middle, and takes it for the image."""
    side = min(frame)
    left, above = (frame.width - side) / 2, (frame.height - side) / 2
    x1, y1, x2, y2 = (
        (v - m) * s / side for v, m, s in zip(box, (left, above) * 2, (*frame, *frame), strict=True)
    )
    return _inside((x1, y1, x2, y2), frame)


def _turned(box: Box, frame: Frame) -> Box:
    """High photos are stored lying down, and nobody turned them for the model."""
    if frame.width >= frame.height:
        return box
    w, h = frame
    x1, y1, x2, y2 = box
    return y1 * w / h, (w - x2) * h / w, y2 * w / h, (w - x1) * h / w


def _moved(box: Box, frame: Frame) -> Box:
    """A border of 4 % that nobody knows of."""
    x1, y1, x2, y2 = (v * 0.92 + 0.04 * s for v, s in zip(box, (*frame, *frame), strict=True))
    return x1, y1, x2, y2


def _inside(box: Box, frame: Frame) -> Box:
    x1, y1, x2, y2 = sanitize([box], frame)[0].tolist()
    return x1, y1, x2, y2


def over(base: str, name: str, shift: Shift | None = None, **options: Any) -> Fault:
    """A family is assumed, and the model writes it with other options."""
    return Fault(name, {"base": base}, {"base": base, **options}, shift)


def other(name: str, assumed: str, written: str) -> Fault:
    """A family is assumed, and the model is of another."""
    return Fault(name, {"base": assumed}, {"base": written})


FAMILIES = (
    "qwen3_vl", "qwen2_5_vl", "internvl", "ferret", "llava", "paligemma", "florence2", "glm4v", "gemini",
    "kosmos2",
)  # fmt: skip
FAULTS = (
    *(over(name, f"none: {name}") for name in FAMILIES),
    *(over("qwen3_vl", f"grid 0-{scale}, not 0-1000", scale=scale) for scale in (1, 100, 999, 1024)),
    *(over("qwen3_vl", f"order {order}, not xyxy", order=order)
        for order in ("yxyx", "xxyy", "yyxx", "xywh", "yxhw", "cxcywh")),
    over("gemini", "order xyxy, not yxyx", order="xyxy"),
    over("qwen3_vl", "padded to a square", frame="padded"),
    over("qwen3_vl", "padded at one side", frame="padded_end"),
    other("not padded", "asmv2", "internvl"),
    *(over("qwen3_vl", f"pixels of a {side}-px square", scale=side) for side in (336, 640, 896)),
    over("glm4v", "pixels of a padded 1120-px square", scale=1120, frame="padded"),
    over("qwen3_vl", "original pixels, not 0-1000", scale="pixels"),
    over("qwen3_vl", "resized pixels, not 0-1000", scale="pixels", frame="resized"),
    over("qwen2_5_vl", "0-1000, not resized pixels", scale=1000),
    over("qwen2_5_vl", "original pixels, not resized ones", frame="original"),
    over("qwen2_5_vl", "patches of 32, not 28", factor=32),
    over("qwen2_5_vl", "fewer pixels at most", max_pixels=512 * 784),
    over("qwen2_5_vl", "more pixels at most", max_pixels=2048 * 784),
    over("qwen2_5_vl", "more pixels at least", min_pixels=768 * 784),
    over("qwen2_5_vl", "shrunk to 1024 px beforehand", frame="original", longest_side=1024),
    over("qwen2_5_vl", "shrunk to 768 px, then resized", longest_side=768),
    other("other notation", "internvl", "ferret"),
    other("other notation and numbers", "florence2", "asmv2"),
    over("qwen3_vl", "other key", key="bbox"),
    over("qwen3_vl", "cropped to the middle", _cropped),
    over("qwen3_vl", "high photos not turned", _turned),
    over("qwen3_vl", "an unknown border", _moved),
)  # fmt: skip


def table(draws: int = DRAWS, only: str = "", jitters: Sequence[float] = JITTERS) -> str:
    """Planted fault x verdict, as Markdown, of the faults with `only` in their names: what a fault costs at
    IoU 0.9 in points, and how often each verdict fell.
    """
    heads = ["exact" if j == 0 else f"{100 * j:.0f} % off" for j in jitters]
    lines = [
        "| planted fault | " + " | ".join(f"{h}: points | fine | look | wrong" for h in heads) + " |",
        "| --- |" + " ---: |" * 4 * len(heads),
    ]
    for fault in FAULTS:
        if only not in fault.name:
            continue
        cells = []
        for jitter in jitters:
            found = [asked(fault, seed, jitter) for seed in range(draws)]
            counts = Counter(draw.finding.verdict for draw in found)
            points = abs(100 * float(np.mean([draw.cost for draw in found])))
            cells += [f"{points:.0f}", *(str(counts[v] or "") for v in ("fine", "look", "wrong"))]
        lines.append(f"| {fault.name} | " + " | ".join(cells) + " |")
        print(lines[-1], file=sys.stderr, flush=True)
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(only=sys.argv[1] if len(sys.argv) > 1 else ""))
