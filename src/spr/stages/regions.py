"""Stage `regions` (method 2.1): random region queries on object-rich images.

In: one image with its annotations. Out: regions, or the reasons why there are none.
From a randomly chosen object the region grows by merging the nearest other object (the region is the
enclosing box) until it holds more than four objects (paper, section 3.2). Nearest = smallest gap between the
region and the object's box, ties by centre distance, then by annotation id; an object is in the region when
its centre is, or at least half of its area (both ours). Crowd and ignored boxes are never used; difficult
ones are objects. "Random" is a hash of (seed, image id, region index, attempt): a region depends on that and
on its image's annotations, and on nothing else: not on the order of rows, the shard, the worker, or the other
images.
Where an annotation sticks out of its image, the region grows around its visible part; the object's own box
stays as annotated.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from spr.boxes import iou, sanitize
from spr.ranges import Count, Range, Share, check_ranges
from spr.types import Annotation, Box, Dropped, Frame, ImageRecord, Region, RegionObject


@dataclass(frozen=True, slots=True)
class RegionsConfig:
    """How regions are drawn."""

    min_objects: Annotated[int, Range(0)] = 5  # paper, section 3.2: "more than four objects"
    regions_per_image: Count = 1
    # paper, section 4.1: 10k images, of those that can give a region; None: all that pass `data.where`
    max_images: Count | None = 10_000
    # ours: a region this like an earlier one of its image is redrawn from another seed object
    redraw_iou: Share = 0.7
    # ours: decode each chosen image once, and drop it with a reason when it cannot be used
    verify: bool = True

    def __post_init__(self) -> None:
        """Raise ConfigError for values that cannot be."""
        check_ranges(self, "regions")


def draw_regions(
    image: ImageRecord, annotations: Sequence[Annotation], config: RegionsConfig, seed: int
) -> tuple[list[Region], list[Dropped]]:
    """The regions of one image in order of index. What cannot be drawn is dropped: too_few_objects (per
    image), no_new_region (per index).
    """
    objects = sorted(
        (a for a in annotations if not (a.crowd or a.ignore)), key=lambda a: _id_order(a.annotation_id)
    )
    if len(objects) < least_objects(config):
        return [], [
            Dropped(
                image.image_id,
                "too_few_objects",
                f"{len(objects)} objects, expected at least {config.min_objects}",
            )
        ]
    boxes = [_visible(a.box, image) for a in objects]
    regions: list[Region] = []
    dropped: list[Dropped] = []
    for index in range(config.regions_per_image):
        region = _draw(image, objects, boxes, config, seed, index, [r.box for r in regions])
        if region is None:
            why = f"from every object the region has IoU >= {config.redraw_iou} with an earlier one"
            dropped.append(Dropped(f"{image.image_id}#{index}", "no_new_region", why))
        else:
            regions.append(region)
    return regions, dropped


def grow(boxes: Sequence[Box], seed: int, min_objects: int) -> Growth:
    """The region around box `seed` with at least `min_objects` of the boxes in it (all of them, when there
    are fewer).

    The boxes must come in the order that breaks ties. Plain floats, not numpy: an image has a dozen boxes,
    and a call of numpy costs more than all of them. The rules are those of `boxes.gap` and `boxes.inside`,
    against which they are tested.
    """
    region, merged = boxes[seed], [seed]
    rest = [i for i in range(len(boxes)) if i != seed]
    while True:
        nearest, inside = _survey(boxes, rest, region)
        if len(merged) + len(inside) >= min_objects or nearest is None:
            return Growth(region, tuple(merged), tuple(sorted(merged + inside)))
        rest.remove(nearest)
        merged.append(nearest)
        (x1, y1, x2, y2), (a1, b1, a2, b2) = region, boxes[nearest]
        region = (min(x1, a1), min(y1, b1), max(x2, a2), max(y2, b2))


@dataclass(frozen=True, slots=True)
class Growth:
    """A region as it grew: its box, the indices of the merged boxes in order, and of all boxes in it."""

    box: Box
    merged: tuple[int, ...]
    held: tuple[int, ...]


def _survey(boxes: Sequence[Box], rest: Sequence[int], region: Box) -> tuple[int | None, list[int]]:
    """Which of `rest` is nearest to the region (smallest gap, then nearest centre, then first), and which of
    them are in it.
    """
    x1, y1, x2, y2 = region
    nearest, least, least_off = None, math.inf, math.inf
    inside = []
    for i in rest:
        a1, b1, a2, b2 = boxes[i]
        dx = a1 - x2 if a1 > x2 else x1 - a2 if x1 > a2 else 0.0
        dy = b1 - y2 if b1 > y2 else y1 - b2 if y1 > b2 else 0.0
        gap = dx * dx + dy * dy
        if gap == 0.0 and _is_inside(a1, b1, a2, b2, region):  # a box apart from the region is never in it
            inside.append(i)
        if gap <= least:
            cx, cy = a1 + a2 - x1 - x2, b1 + b2 - y1 - y2
            off = cx * cx + cy * cy
            if gap < least or off < least_off:
                nearest, least, least_off = i, gap, off
    return nearest, inside


def _is_inside(a1: float, b1: float, a2: float, b2: float, region: Box) -> bool:
    """Whether the box's centre is in the region, or at least half of its area."""
    x1, y1, x2, y2 = region
    if x1 <= (a1 + a2) / 2 <= x2 and y1 <= (b1 + b2) / 2 <= y2:
        return True
    width, height = min(a2, x2) - max(a1, x1), min(b2, y2) - max(b1, y1)
    return width > 0 and height > 0 and width * height >= 0.5 * ((a2 - a1) * (b2 - b1))


def _visible(box: Box, image: ImageRecord) -> Box:
    """The part of a box that is in its image."""
    x1, y1, x2, y2 = box
    if x1 >= 0.0 and y1 >= 0.0 and x2 <= image.width and y2 <= image.height:
        return box
    x1, y1, x2, y2 = sanitize([box], Frame(image.width, image.height))[0].tolist()
    return (x1, y1, x2, y2)


def choose_images(
    ids: Iterable[str], objects: NDArray[np.integer[Any]], config: RegionsConfig, seed: int
) -> NDArray[np.int64]:
    """Which images are looked at, as positions in order: at most `max_images`, chosen by a hash of (seed,
    image id). Those with enough objects for a region come first. `objects`: how many each has (n,).
    """
    if config.max_images is None or len(objects) <= config.max_images:
        return np.arange(len(objects))
    hashes = np.fromiter((_hash(seed, name) for name in ids), np.uint64, len(objects))
    too_few = objects < least_objects(config)
    return np.sort(np.lexsort((hashes, too_few))[: config.max_images])


def least_objects(config: RegionsConfig) -> int:
    """Objects of an image that can give a region."""
    return max(1, config.min_objects)


def _draw(
    image: ImageRecord,
    objects: Sequence[Annotation],
    boxes: Sequence[Box],
    config: RegionsConfig,
    seed: int,
    index: int,
    earlier: Sequence[Box],
) -> Region | None:
    """Region `index`, from the first drawn seed object whose region is not too like an earlier one; each
    object is drawn once at most.
    """
    left = list(range(len(objects)))
    while left:
        start = left.pop(_hash(seed, image.image_id, index, len(left)) % len(left))
        growth = grow(boxes, start, config.min_objects)
        if any(iou(growth.box, other) >= config.redraw_iou for other in earlier):
            continue
        held = tuple(
            RegionObject(a.annotation_id, a.category, a.box) for a in (objects[i] for i in growth.held)
        )
        region_id, seed_id = f"{image.image_id}#{index}", objects[start].annotation_id
        return Region(
            region_id, image.image_id, image.path, image.width, image.height, index, growth.box, seed_id, held
        )
    return None


def _hash(*parts: object) -> int:
    """A uniform 64-bit number made of its parts, the same on every machine."""
    return int.from_bytes(
        hashlib.blake2b("\x00".join(map(str, parts)).encode(), digest_size=8).digest(), "big"
    )


def _id_order(annotation_id: str) -> tuple[int, str]:
    """Ordinals by value ("2" before "10"); other ids by length, then text."""
    return (len(annotation_id), annotation_id)
