"""Open Images: one CSV file with a row per box (oidv6-train-annotations-bbox.csv,
validation-annotations-bbox.csv, …).

Convention: XMin, XMax, YMin, YMax are fractions of the image's sides. The image is `<ImageID>.jpg`; its size
comes from its header. IsGroupOf becomes crowd. `data.categories` is the CSV of class descriptions (label,
name); without it a category is its label (/m/01g317).
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Mapping
from typing import TypeAlias

import numpy as np

from spr.boxes import from_xyxy_unit
from spr.data.files import Source
from spr.data.images import ImageStore
from spr.data.spool import NOT_A_BOX, Spool
from spr.errors import DataError, ImageError, is_text
from spr.types import Box, Frame

_AT_ONCE = 512  # images whose headers are read together
_NEEDED = ("ImageID", "LabelName", "XMin", "XMax", "YMin", "YMax")
Row: TypeAlias = dict[str, str]


def read_open_images(
    source: Source,
    names: Mapping[str, str] | None,
    spool: Spool,
    store: ImageStore,
    progress: Callable[[int], object],
) -> None:
    """Pour one CSV file into the spool. Rows of an image need not be neighbours. Raises DataError when a
    column is missing.
    """
    for label, name in (names or {}).items():
        spool.category(spool.key_of(label), name)
    frames: dict[str, Frame] = {}
    for rows in _batches(source, spool):
        new = list(dict.fromkeys(row["ImageID"] for row in rows if row["ImageID"] not in frames))
        for image_id, size in zip(new, store.sizes([f"{i}.jpg" for i in new]), strict=True):
            if isinstance(size, ImageError):
                spool.bad_image(spool.key_of(f"{image_id}.jpg"), size)
            else:
                spool.image(spool.key_of(f"{image_id}.jpg"), f"{image_id}.jpg", *size)
            frames[image_id] = Frame(1, 1) if isinstance(size, ImageError) else Frame(*size)
        for row in rows:
            category = row["LabelName"] if names is None else spool.key_of(row["LabelName"])
            spool.box(
                spool.key_of(f"{row['ImageID']}.jpg"),
                category,
                _box(row, frames[row["ImageID"]]),
                crowd=row.get("IsGroupOf") == "1",
            )
        progress(len(rows))


def _batches(source: Source, spool: Spool) -> Iterator[list[Row]]:
    """The rows of the file, about as many at a time as `_AT_ONCE` images have. A row that is not whole is set
    aside; a file that breaks off (a quote that nobody closes) is noted with its line.
    """
    with (
        source.fs.open(source.path, "rb") as binary,
        io.TextIOWrapper(binary, "utf-8-sig", errors="surrogateescape", newline="") as text,
    ):
        reader = csv.DictReader(text, strict=True)
        try:
            columns = reader.fieldnames or ()
        except csv.Error as e:
            raise DataError(f"{source.name}: not CSV ({e})") from None
        missing = [name for name in _NEEDED if name not in columns]
        if missing:
            raise DataError(
                f"{source.name}: found columns {', '.join(columns) or 'none'}, expected also "
                f"{', '.join(missing)}"
            )
        rows: list[Row] = []
        images: set[str] = set()
        for row in _whole_rows(reader, source.name, spool):
            if row["ImageID"] not in images and len(images) == _AT_ONCE:
                yield rows
                rows, images = [], set()
            images.add(row["ImageID"])
            rows.append(row)
        yield rows


def _whole_rows(reader: csv.DictReader[str], name: str, spool: Spool) -> Iterator[Row]:
    before = spool.counts()
    try:
        for row in reader:
            held = [row[name] for name in _NEEDED]
            if None in held or not is_text("".join(held)):
                found = "found fewer columns than in the first line" if None in held else "not UTF-8"
                spool.reject(f"{name}:{reader.line_num}", "unreadable_annotation", found)
            else:
                yield row
    except csv.Error as e:
        spool.stop(name, "csv_broken", f"breaks at line {reader.line_num} ({e})", before)


def _box(row: Row, frame: Frame) -> Box:
    try:
        values = [float(row[name] or "") for name in ("XMin", "YMin", "XMax", "YMax")]
    except (ValueError, TypeError):
        return NOT_A_BOX
    if not np.isfinite(values).all():
        return NOT_A_BOX
    x1, y1, x2, y2 = from_xyxy_unit(values, frame)[0].tolist()
    return (x1, y1, x2, y2)
