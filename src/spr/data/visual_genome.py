"""Visual Genome: objects.json, and image_data.json for the images' addresses and sizes.

Convention: x, y, w, h are pixels, x2 = x + w. The image's path is the last two parts of its address
("VG_100K_2/1592.jpg"), as the two zip files unpack. The category is the first of `names`. With objects.json
alone, an entry's `image_url` gives the path, and the header the size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from spr.boxes import from_xywh
from spr.data.files import Source
from spr.data.images import ImageStore
from spr.data.json_stream import JsonBrokenError, JsonStream
from spr.data.spool import NO_KEY, NOT_A_BOX, Spool, four_numbers
from spr.errors import ImageError, shown
from spr.types import Box

_DECODERS = {"": msgspec.json.Decoder(list[dict[str, Any]])}


def read_visual_genome(
    sources: Sequence[Source], spool: Spool, store: ImageStore, progress: Callable[[int], object]
) -> None:
    """Pour both files (in any order) into the spool; entries with `objects` are boxes, the others are
    images.
    """
    for source in sources:
        before = spool.counts()
        try:
            with source.fs.open(source.path, "rb") as file:
                for batch in JsonStream(file, _DECODERS).batches():
                    boxes = spool.boxes
                    _entries(batch.elements, len(sources) == 1, spool, store)
                    progress(spool.boxes - boxes)
        except JsonBrokenError as e:
            spool.stop(source.name, "json_broken", e, before)


def _entries(entries: Sequence[Any], alone: bool, spool: Spool, store: ImageStore) -> None:
    unsized: list[tuple[int, str]] = []
    for entry in entries:
        image = spool.id_of(entry.get("image_id", entry.get("id"))) if isinstance(entry, dict) else NO_KEY
        if image == NO_KEY:
            spool.reject(shown(entry), "not_an_image", "expected an object with image_id")
            continue
        path = "/".join(str(entry.get("image_url", entry.get("url", ""))).split("/")[-2:])
        if "objects" not in entry:
            spool.image(image, path, entry.get("width"), entry.get("height"))
            continue
        if alone:
            unsized.append((image, path))
        objects = entry["objects"]
        for element in objects if isinstance(objects, list) else [objects]:
            if isinstance(element, dict):
                _object(image, element, spool)
            else:
                spool.reject(shown(element), "not_an_annotation", f"{path}: expected a list of objects")
    for (image, path), size in zip(unsized, store.sizes([path for _, path in unsized]), strict=True):
        if isinstance(size, ImageError):
            spool.bad_image(image, size)
        else:
            spool.image(image, path, *size)


def _object(image: int, element: Mapping[str, Any], spool: Spool) -> None:
    names = element.get("names") or [element.get("name")]
    first = names[0] if isinstance(names, list) else None
    spool.box(image, first if isinstance(first, str) and first else NO_KEY, _box(element))


def _box(element: Mapping[str, Any]) -> Box:
    xywh = four_numbers([element.get(name) for name in "xywh"])
    if xywh is None:
        return NOT_A_BOX
    with np.errstate(over="ignore"):
        x1, y1, x2, y2 = from_xywh([xywh])[0].tolist()
    return (x1, y1, x2, y2)
