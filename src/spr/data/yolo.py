"""YOLO: a folder of text files, one per image, beside the folder of images.

Convention: each line is `class centre_x centre_y width height`, fractions of the image's sides.
labels/train/a.txt belongs to train/a.jpg below the image root. Sizes come from the images' headers. Class
numbers are places in `data.categories` (classes.txt, or data.yaml with `names:`). An image without a text
file has no objects. A line with another count of numbers (a polygon, a confidence) is no box and is set
aside.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from spr.boxes import from_cxcywh_unit
from spr.data.files import Source
from spr.data.images import ImageStore
from spr.data.spool import NO_KEY, NOT_A_BOX, Spool
from spr.errors import DataError, ImageError
from spr.types import Box, Frame

_AT_ONCE = 512  # images whose headers are read together


def read_yolo(
    source: Source, names: Sequence[str], spool: Spool, store: ImageStore, progress: Callable[[int], object]
) -> None:
    """Pour the label files into the spool. One without image is set aside as missing_image, with its
    boxes.
    """
    for number, name in enumerate(names):
        spool.category(number, name)
    labels = {_stem(file) for file in source.files(".txt") if file.rpartition("/")[2] != "classes.txt"}
    paths = store.paths()
    alone = sorted(labels - {_stem(path) for path in paths})
    for begin in range(0, len(paths), _AT_ONCE):
        some = paths[begin : begin + _AT_ONCE]
        for path, size in zip(some, store.sizes(some), strict=True):
            text = _label(f"{_stem(path)}.txt", source, spool) if _stem(path) in labels else b""
            progress(_pour(path, text, size, spool))
    for stem in alone:
        missing = ImageError(f"{stem}.txt", "missing_image", f"no image of this name below {store.root}")
        progress(_pour(f"{stem}.txt", _label(f"{stem}.txt", source, spool), missing, spool))


def _label(file: str, source: Source, spool: Spool) -> bytes:
    """The content of a label file; one that cannot be read is set aside."""
    try:
        return source.read(file)
    except DataError as e:
        spool.reject(file, "unreadable_annotation", e)
        return b""


def _pour(path: str, text: bytes, size: tuple[int, int] | ImageError, spool: Spool) -> int:
    """One image with the boxes of its label file; returns how many these are."""
    image = spool.key_of(path)
    if isinstance(size, ImageError):
        spool.bad_image(image, size)
        frame = Frame(1, 1)
    else:
        spool.image(image, path, *size)
        frame = Frame(*size)
    boxes = list(_lines(text.decode("utf-8", "replace"), frame))
    for category, box in boxes:
        spool.box(image, category, box)
    return len(boxes)


def _stem(path: str) -> str:
    return path.rpartition(".")[0]


def _lines(text: str, frame: Frame) -> Iterator[tuple[int, Box]]:
    """(class, box) per line."""
    for line in text.splitlines():
        parts = line.split()
        if parts:
            known = parts[0].isdecimal() and len(parts[0]) < 10
            yield int(parts[0]) if known else NO_KEY, _box(parts[1:], frame)


def _box(numbers: Sequence[str], frame: Frame) -> Box:
    try:
        values = [float(v) for v in numbers]
    except ValueError:
        return NOT_A_BOX
    if len(values) != 4 or not np.isfinite(values).all():
        return NOT_A_BOX
    x1, y1, x2, y2 = from_cxcywh_unit(values, frame)[0].tolist()
    return (x1, y1, x2, y2)
