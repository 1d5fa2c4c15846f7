"""Regions with all their objects, for grounded description: our own plain form.

A JSON list, one entry per region; boxes are [x1, y1, x2, y2] in pixels of the image, half-open:

    [{"image": "000012.jpg", "width": 640, "height": 480, "box": [10, 20, 300, 400],
      "objects": [{"category": "dog", "box": [12, 30, 120, 200]}, …]}, …]

`image` is relative to the benchmark's `images`. Optional: `id` (default: the ordinal of the entry), `split`;
`phrase` of every object ("a dog"), which makes metrics possible that want the phrase as well as the box.
Traps: an entry without objects has nothing to recall and is refused; objects outside the region are the
writer's choice and are kept.
"""

from __future__ import annotations

from collections.abc import Iterator

from spr.evaluation.items import Item
from spr.evaluation.readers.base import Source, records, take_box, take_list, take_size, take_text, wrong
from spr.types import Box

_KEYS = {"image", "width", "height", "box", "objects", "id", "split"}


def read(source: Source) -> Iterator[Item]:
    """The regions of a file, as items of the protocol `region_description`."""
    for number, (where, entry) in enumerate(records(source.file(), _KEYS)):
        width, height = take_size(entry, where)
        objects = take_list(entry, "objects", where)
        boxes: list[Box] = []
        names: list[str] = []
        phrases: list[str] = []
        for k, (inner, value) in enumerate(objects):
            names.append(take_text(value, "category", inner))
            if "phrase" in value:
                phrases.append(take_text(value, "phrase", inner))
            boxes.append(take_box(value, "box", f"{where}.objects[{k}]"))
        if not boxes:
            raise wrong(where, "no objects", "at least one object in the region")
        if phrases and len(phrases) != len(boxes):
            raise wrong(
                where,
                f"{len(phrases)} phrases of {len(boxes)} objects",
                "a phrase for every object, or for none",
            )
        yield Item(
            item_id=str(entry.get("id", number)),
            split=str(entry.get("split", source.split)),
            image=source.image(take_text(entry, "image", where), where),
            width=width,
            height=height,
            region=take_box(entry, "box", where),
            gt_boxes=tuple(boxes),
            truth=tuple(names),
            gt_phrases=tuple(phrases),
        )
