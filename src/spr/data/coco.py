"""COCO JSON: COCO, Objects365 (v1, v2), LVIS, and every tool that exports "COCO".

Convention: bbox = [x, y, width, height] in float pixels, x2 = x + width without "-1". `iscrowd` becomes
crowd, `ignore` becomes ignore. The image's path is `file_name`; LVIS has none, there it is the last two parts
of `coco_url` ("train2017/000000391895.jpg"). `strip_folders` cuts leading folders off (Objects365 v2 writes
"images/v1/patch8/x.jpg" where the download has "patch8/x.jpg": 2).
The file is streamed (`json_stream`); it may be larger than memory, and its arrays may come in any order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from operator import attrgetter
from typing import Any

import msgspec
import numpy as np
from numpy.typing import ArrayLike

from spr.boxes import Boxes, from_xywh
from spr.data.files import Source
from spr.data.images import ImageStore
from spr.data.json_stream import Decoder, JsonBrokenError, JsonStream
from spr.data.spool import NO_KEY, NOT_A_BOX, Spool, four_numbers
from spr.errors import ImageError, shown
from spr.types import Box


class _Image(msgspec.Struct, gc=False):
    id: int
    width: int
    height: int
    file_name: str | None = None
    coco_url: str | None = None


class _Annotation(msgspec.Struct, gc=False):
    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]
    id: int = NO_KEY
    iscrowd: int = 0
    ignore: int = 0


_DECODERS: Mapping[str, Decoder] = {
    "images": msgspec.json.Decoder(list[_Image]),
    "annotations": msgspec.json.Decoder(list[_Annotation]),
    "categories": msgspec.json.Decoder(list[dict[str, Any]]),
}


def read_coco(
    source: Source, spool: Spool, store: ImageStore, strip_folders: int, progress: Callable[[int], object]
) -> None:
    """Pour one COCO file into the spool. A file that breaks off is noted with its byte offset; what came
    before stays.
    """
    before = spool.counts()
    try:
        with source.fs.open(source.path, "rb") as file:
            for batch in JsonStream(file, _DECODERS).batches():
                if batch.key == "images":
                    _images(batch.elements, batch.typed, spool, store, strip_folders)
                elif batch.key == "categories":
                    _categories(batch.elements, spool)
                else:
                    (_typed_boxes if batch.typed else _plain_boxes)(batch.elements, spool)
                    progress(len(batch.elements))
    except JsonBrokenError as e:
        spool.stop(source.name, "json_broken", e, before)


def _path(file_name: object, coco_url: object, strip: int) -> object:
    if not isinstance(file_name, str) and isinstance(coco_url, str):
        return "/".join(coco_url.split("/")[-2:])
    return "/".join(file_name.split("/")[strip:]) if isinstance(file_name, str) and strip else file_name


def _images(elements: Sequence[Any], typed: bool, spool: Spool, store: ImageStore, strip: int) -> None:
    rows = []
    for e in elements:
        if typed:
            rows.append((spool.id_of(e.id), _path(e.file_name, e.coco_url, strip), e.width, e.height))
        elif isinstance(e, dict):
            path = _path(e.get("file_name"), e.get("coco_url"), strip)
            rows.append((spool.id_of(e.get("id")), path, e.get("width"), e.get("height")))
        else:
            spool.reject(shown(e), "not_an_image", "expected an object with id, file_name, width and height")
    unknown = [
        path for _, path, width, height in rows if isinstance(path, str) and (width is None or height is None)
    ]
    found = dict(zip(unknown, store.sizes(unknown), strict=True)) if unknown else {}
    for key, path, width, height in rows:
        size = found.get(path) if isinstance(path, str) else None
        if isinstance(size, ImageError):
            spool.bad_image(key, size)
        else:
            spool.image(key, path, *(size or (width, height)))


def _categories(elements: Sequence[Any], spool: Spool) -> None:
    for e in elements:
        if isinstance(e, dict) and isinstance(e.get("name"), str):
            spool.category(spool.id_of(e.get("id")), e["name"])
        else:
            spool.reject(shown(e), "not_a_category", "expected an object with id and name")


def _typed_boxes(elements: list[_Annotation], spool: Spool) -> None:
    n = len(elements)
    try:
        image, source, category, crowd, ignore = (
            np.fromiter(map(attrgetter(name), elements), np.int64, n)
            for name in ("image_id", "id", "category_id", "iscrowd", "ignore")
        )
    except OverflowError:  # an id beyond 64 bits
        image = np.array([NO_KEY])
    if (image == NO_KEY).any():  # beyond, or the one number of 64 bits that says "none"
        _plain_boxes(msgspec.to_builtins(elements), spool)
        return
    xywh = np.fromiter(chain.from_iterable(map(attrgetter("bbox"), elements)), np.float64, 4 * n)
    boxes = _to_xyxy(xywh.reshape(n, 4))  # JSON that is typed has only finite numbers
    spool.box_columns(
        boxes, image=image, source=source, category=category, crowd=crowd != 0, ignore=ignore != 0
    )


def _plain_boxes(elements: Sequence[Any], spool: Spool) -> None:
    for e in elements:
        if not isinstance(e, dict):
            expected = "expected an object with image_id, category_id and bbox"
            spool.reject(shown(e), "not_an_annotation", expected)
            continue
        image, category, source = (spool.id_of(e.get(name)) for name in ("image_id", "category_id", "id"))
        spool.box(
            image,
            category,
            _xywh(e.get("bbox")),
            source=source,
            crowd=bool(e.get("iscrowd")),
            ignore=bool(e.get("ignore")),
        )


def _xywh(value: object) -> Box:
    """The box, or one of NaN when it is not four finite numbers."""
    xywh = four_numbers(value)
    if xywh is None:
        return NOT_A_BOX
    x1, y1, x2, y2 = _to_xyxy(xywh)[0].tolist()
    return (x1, y1, x2, y2)


def _to_xyxy(boxes: ArrayLike) -> Boxes:
    """xyxy; a sum that overflows is infinite, and judged later."""
    with np.errstate(over="ignore"):
        return from_xywh(boxes)
