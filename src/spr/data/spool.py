"""What a reader pours its images and boxes into: temporary files in source order, nothing judged yet.

In: rows one by one, or COCO's columns by the batch. Out: a compact table of images in memory and a flat file
of boxes in a working folder, which `finish` joins, judges and sorts. Keys are integers that are unique within
one annotation file: COCO's own ids, or numbers that the spool gives to names.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from spr.data.images import safe_path
from spr.errors import ImageError, is_text, shown
from spr.types import Box, Dropped

NO_KEY = -(1 << 63)  # "there is no such id"
NOT_A_BOX: Box = (float("nan"),) * 4  # what a reader gives for a box that it cannot read
_BUFFERED = 20_000  # rows held before they are written

BOX = np.dtype(
    [
        ("rank", "i8"),  # place of the image in the index; `finish` knows it
        ("seq", "i8"),
        ("image", "i8"),
        ("source", "i8"),
        ("category", "i8"),
        ("xyxy", "f8", (4,)),
        ("file", "i4"),
        ("crowd", "?"),
        ("ignore", "?"),
        ("difficult", "?"),
    ]
)
Rows: TypeAlias = NDArray[np.void]  # of dtype BOX


class Spool:
    """Collects what the readers find. `file` is the number of the annotation file that is being read."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.file = 0
        self.images = self.boxes = 0  # how many so far
        self.rejected: list[Dropped] = []  # what was set aside while it was read
        self.broken: list[Dropped] = []  # annotation files that break off
        self.categories: dict[tuple[int, int], str] = {}  # (file, key) -> name
        self._names: dict[tuple[int, str], int] = {}
        self._image_rows: list[tuple[Any, ...]] = []
        self._box_rows: list[tuple[Any, ...]] = []
        self._image_numbers: list[NDArray[np.int64]] = []
        self._image_paths: list[pa.StringArray] = []
        self._box_file = (folder / "boxes.bin").open("wb")

    def key_of(self, name: str) -> int:
        """The number of a name (of an image or a category) in this annotation file; below zero, apart from a
        source's own numbers.
        """
        return self._names.setdefault((self.file, name), -1 - len(self._names))

    def id_of(self, value: object) -> int:
        """A source's own id as a number, NO_KEY for what is none: whole numbers (and 7.0, as Python compares
        them) as they are; text, and what is beyond 64 bits, through `key_of`.
        """
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, int) and not isinstance(value, bool):
            return value if NO_KEY < value < -NO_KEY else self.key_of(shown(value))
        return self.key_of(value) if isinstance(value, str) else NO_KEY

    def image(self, key: int, path: object, width: object, height: object) -> None:
        """One image. With an unusable path or size it is set aside, and so are its boxes."""
        plain = safe_path(path) if isinstance(path, str) else None
        sides = _pixels(width), _pixels(height)
        if not isinstance(path, str) or plain is None or not is_text(plain):
            name = path if is_text(path) else shown(path)
            self.bad_image(
                key, ImageError(str(name), "path_outside_root", "expected a path below the image root")
            )
        elif sides[0] is None or sides[1] is None:
            found = f"found {shown(width)} x {shown(height)}, expected pixels"
            self.bad_image(key, ImageError(plain, "image_without_size", found))
        else:
            self._image(key, plain, *sides)

    def bad_image(self, key: int, why: ImageError) -> None:
        """An image that is set aside; its boxes will follow it."""
        self.rejected.append(Dropped(why.path, why.reason, why.detail))
        self._image(key, "", 0, 0)

    def _image(self, *row: Any) -> None:
        self.images += 1
        self._image_rows.append((self.file, *row))
        if len(self._image_rows) >= _BUFFERED:
            self._flush_images()

    def category(self, key: int, name: str) -> None:
        """The name of a category."""
        if is_text(name):
            self.categories[(self.file, key)] = name
        else:
            self.reject(shown(name), "not_a_category", "expected a name that UTF-8 can write")

    def reject(self, what: str, reason: str, detail: object) -> None:
        """Something that is no image, category or box, and is set aside."""
        self.rejected.append(Dropped(what, reason, str(detail)))

    def counts(self) -> dict[str, int]:
        """How much there is so far, by kind."""
        return {"images": self.images, "annotations": self.boxes, "categories": len(self.categories)}

    def stop(self, name: str, reason: str, why: object, before: Mapping[str, int]) -> None:
        """A file breaks off; `before`: the counts when it began."""
        read = ", ".join(f"{n - before[kind]} {kind}" for kind, n in self.counts().items())
        self.broken.append(Dropped(name, reason, f"{why}; read until then: {read}"))

    def box(
        self,
        image: int,
        category: int | str,
        box: Box,
        *,
        source: int = NO_KEY,
        crowd: bool = False,
        ignore: bool = False,
        difficult: bool = False,
    ) -> None:
        """One box, xyxy pixels. A category given by name is known by that."""
        if isinstance(category, str):
            name, category = category, self.key_of(category)
            self.category(category, name)
        self.boxes += 1
        self._box_rows.append(
            (0, self.boxes, image, source, category, box, self.file, crowd, ignore, difficult)
        )
        if len(self._box_rows) >= _BUFFERED:
            self._flush_boxes()

    def box_columns(self, boxes: NDArray[np.float64], **columns: NDArray[Any]) -> None:
        """Many boxes, xyxy pixels (n, 4); the other columns by their names in `BOX`."""
        self._flush_boxes()
        rows = np.zeros(len(boxes), BOX)
        rows["seq"] = np.arange(self.boxes + 1, self.boxes + 1 + len(boxes))
        rows["file"], rows["xyxy"] = self.file, boxes
        for name, column in columns.items():
            rows[name] = column
        write_rows(rows, self._box_file)
        self.boxes += len(boxes)

    def close(self) -> None:
        """Write what is still held."""
        self._flush_images()
        self._flush_boxes()
        self._box_file.close()

    def image_columns(self) -> tuple[NDArray[np.int64], pa.StringArray]:
        """All images of a closed spool in source order: (n, 4) file, key, width, height, and (n,) paths.
        Width 0: the image was set aside.
        """
        return np.concatenate(self._image_numbers), pa.concat_arrays(self._image_paths)

    def box_batches(self, size: int = 1 << 16) -> Iterator[Rows]:
        """All boxes in source order, a batch at a time."""
        with (self.folder / "boxes.bin").open("rb") as file:
            while len(rows := read_rows(file, BOX, size)):
                yield rows

    def names(self) -> Mapping[tuple[int, int], str]:
        """The names behind the numbers that `key_of` gave."""
        return {(file, key): name for (file, name), key in self._names.items()}

    def _flush_images(self) -> None:
        self._image_numbers.append(
            np.array(
                [(file, key, width, height) for file, key, _, width, height in self._image_rows], np.int64
            ).reshape(-1, 4)
        )
        self._image_paths.append(text_column([row[2] for row in self._image_rows]))
        self._image_rows = []

    def _flush_boxes(self) -> None:
        if self._box_rows:
            write_rows(np.array(self._box_rows, BOX), self._box_file)
            self._box_rows = []


def _pixels(value: object) -> int | None:
    """A side in pixels, None for what is none."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not 1 <= value < 2**31:
        return None
    return int(value) if int(value) == value else None


def four_numbers(values: object) -> list[float] | None:
    """A list of four finite numbers as floats, None for anything else."""
    if not isinstance(values, list | tuple) or len(values) != 4:
        return None
    try:
        found = [float(v) for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
    except OverflowError:
        return None
    return found if len(found) == 4 and all(map(math.isfinite, found)) else None


def write_rows(rows: NDArray[Any], file: BinaryIO) -> None:
    """Append rows to a file. `ndarray.tofile` would write through a C buffer whose failure nobody hears of:
    on a full disk, boxes were lost without a word.
    """
    file.write(np.ascontiguousarray(rows).tobytes())


def read_rows(file: BinaryIO, dtype: np.dtype[Any], count: int = -1) -> NDArray[Any]:
    """At most `count` rows (-1: all) from where the file stands."""
    data = file.read(count if count < 0 else count * dtype.itemsize)
    return np.frombuffer(bytearray(data), dtype)


def numbers_of(column: pa.Array) -> NDArray[Any]:
    """An Arrow column of numbers, all valid, as a numpy one; `to_numpy` would import pandas, too."""
    values = np.frombuffer(column.buffers()[1], column.type.to_pandas_dtype())
    return values[column.offset : column.offset + len(column)]


def column_of(values: NDArray[Any]) -> pa.Array:
    """A numpy column as an Arrow one, without `pa.array`: that imports pandas where it is installed (0.4 s
    and 40 MB).
    """
    buffer = (
        np.packbits(values, bitorder="little") if values.dtype == np.bool_ else np.ascontiguousarray(values)
    )
    return pa.Array.from_buffers(pa.from_numpy_dtype(values.dtype), len(values), [None, pa.py_buffer(buffer)])


def text_column(values: Sequence[str]) -> pa.Array:
    """Strings as an Arrow column, likewise."""
    data = [v.encode("utf-8", "replace") for v in values]
    offsets = np.cumsum([0, *map(len, data)], dtype=np.int32)
    return pa.Array.from_buffers(
        pa.string(), len(data), [None, pa.py_buffer(offsets), pa.py_buffer(b"".join(data))]
    )
