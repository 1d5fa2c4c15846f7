"""What a benchmark asks: one `Item` per question, whatever file it came from.

In: nothing. Out: the record between readers and protocols. Boxes are xyxy pixels of the original image, as in
`spr.types`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

from spr.types import Box, Frame


@dataclass(frozen=True, slots=True)
class PhraseTruth:
    """A phrase of a sentence with its boxes. `group` is its type ("people", or several joined by "/")."""

    phrase: str
    boxes: tuple[Box, ...]
    group: str = ""


@dataclass(frozen=True, slots=True)
class Item:
    """One question about one image, with its truth. Unused fields stay empty; the protocol says which ones it
    reads.
    """

    item_id: str  # unique within its split of the benchmark
    split: str
    image: str  # path or URL that the describer's store can load
    width: int
    height: int
    expression: str = ""  # what is to be found, or the question itself
    region: Box | None = None  # the box that the question is about
    gt: Box | None = None  # the truth, where it is one box
    gt_boxes: tuple[Box, ...] = ()  # the truth, where it is several boxes
    truth: tuple[str, ...] = ()  # the truth in words
    group: str = ""  # kinds within the split, joined by "/": size bucket, domain
    choices: tuple[str, ...] = ()  # names offered in the question, in their order
    phrases: tuple[PhraseTruth, ...] = ()  # of a sentence; each becomes a row of its own
    gt_phrases: tuple[str, ...] = ()  # of gt_boxes, as an annotator would say it

    @property
    def frame(self) -> Frame:
        """Size of the original image."""
        return Frame(self.width, self.height)


def by_image(items: Iterable[Item]) -> list[list[Item]]:
    """Items of the same image together, images in order of first appearance: the unit of work of the
    stage.
    """
    found: dict[str, list[Item]] = {}
    for item in items:
        found.setdefault(item.image, []).append(item)
    return list(found.values())


def digest(items: Sequence[Item], images: str = "") -> str:
    """SHA-256 (16 hex digits) of all questions and truths: a changed benchmark file is another benchmark, one
    whose `images` lie elsewhere is the same.
    """
    h = hashlib.sha256()
    root = f"{images.rstrip('/')}/"
    for item in items:
        h.update(
            json.dumps({**asdict(item), "image": item.image.removeprefix(root)}, sort_keys=True).encode()
        )
    return h.hexdigest()[:16]
