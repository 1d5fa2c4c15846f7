"""Hugging Face data sets on disk: Parquet or Arrow files, or an image folder with metadata.jsonl.

In: a file, or a folder made by `save_to_disk`, `to_parquet` or a download from the hub. Out: images and
boxes. The files are read with pyarrow, a few rows at a time: the `datasets` package would first copy the
whole data set into its cache.
Convention: `HFColumns.boxes` says how a box is written (COCO's xywh unless told otherwise). Category numbers
get their names from the ClassLabel in the file, else from `data.categories`. An image that lies in a row has
the path "<file>/<row>" below the image root "rows://<folder>", which is what an empty `data.images` means. A
row that only names a file is an image below `data.images`.
"""

from __future__ import annotations

import json
import posixpath
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa

from spr.boxes import as_boxes, from_cxcywh_unit, from_xywh, from_xyxy_unit
from spr.data.arrow import BROKEN, open_batches
from spr.data.config import BoxForm, HFColumns
from spr.data.files import Source
from spr.data.images import ImageStore, may_pass, size_of, unreachable
from spr.data.rows import image_bytes, image_column
from spr.data.spool import NO_KEY, NOT_A_BOX, Spool, four_numbers
from spr.errors import DataError, ImageError, said_by
from spr.types import Box, Frame

Row: TypeAlias = dict[str, Any]
_AT_ONCE = 64  # rows, with their images


def read_hf(
    source: Source,
    columns: HFColumns,
    names: Sequence[str],
    spool: Spool,
    store: ImageStore,
    progress: Callable[[int], object],
) -> None:
    """Pour the rows of all files into the spool. Raises DataError when a column is missing."""
    for file in source.files(".parquet", ".arrow", "metadata.jsonl"):
        if posixpath.basename(file).startswith("cache-"):  # what `datasets` leaves beside its files
            continue
        name = file or posixpath.basename(source.path)
        if name.endswith(".jsonl"):
            batches, schema = _json_rows(source, file, spool), None
        else:
            batches, schema = _arrow_rows(source, file, columns, spool)
        known = _class_names(schema, columns) or names
        first = 0
        for rows in batches:
            progress(
                _pour(
                    rows,
                    [f"{name}/{n}" for n in range(first, first + len(rows))],
                    columns,
                    known,
                    spool,
                    store,
                )
            )
            first += len(rows)


def _arrow_rows(
    source: Source, file: str, columns: HFColumns, spool: Spool
) -> tuple[Iterator[list[Row]], pa.Schema | None]:
    """Rows and schema of a Parquet or Arrow file. One that breaks off is noted; what came before stays."""
    path = posixpath.join(source.path, file) if file else source.path
    before = spool.counts()
    kind = "Arrow" if path.endswith(".arrow") else "Parquet"
    try:
        schema, batches = open_batches(source.fs.open(path, "rb"), kind == "Arrow", _AT_ONCE)
    except BROKEN as e:
        _stop(e, path, kind, spool, before)
        return iter(()), None
    wanted = [columns.objects] if columns.objects else [columns.bbox, columns.category]
    image = image_column(schema)
    missing = [name for name in (*wanted, image or "an image column") if name not in schema.names]
    if missing:
        raise DataError(
            f"{source.name}: {file}: found columns {', '.join(schema.names)}, expected also "
            f"{', '.join(missing)}; see `data.hf`"
        )

    def rows() -> Iterator[list[Row]]:
        while True:
            try:
                batch = next(batches, None)
                held = batch.select([*wanted, image]).to_pylist() if batch is not None else []
            except BROKEN as e:
                _stop(e, path, kind, spool, before)
                return
            if batch is None:
                return
            yield [{**entry, "image": entry[image]} for entry in held]

    return rows(), schema


def _stop(e: Exception, path: str, kind: str, spool: Spool, before: Mapping[str, int]) -> None:
    """Note that a file breaks off. Raises UnfinishedError where it may only be out of reach now."""
    if isinstance(e, OSError) and may_pass(e, remote=False):
        raise unreachable(path, e) from None
    spool.stop(path, "rows_broken", f"not {kind} ({said_by(e)})", before)


def _json_rows(source: Source, file: str, spool: Spool) -> Iterator[list[Row]]:
    """The lines of a metadata file; `file_name` is relative to its folder."""
    rows: list[Row] = []
    try:
        data = source.read(file)
    except DataError as e:
        spool.reject(file, "unreadable_annotation", e)
        return
    for number, line in enumerate(data.split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line.decode("utf-8"))
            path = posixpath.join(posixpath.dirname(file), entry["file_name"])
            rows.append({**entry, "image": {"path": path, "bytes": None}})
        except (ValueError, KeyError, TypeError, RecursionError) as e:
            why = f"expected a JSON object with file_name ({said_by(e)})"
            spool.reject(f"{file}:{number}", "unreadable_annotation", why)
    yield from (rows[i : i + _AT_ONCE] for i in range(0, len(rows), _AT_ONCE))


def _pour(
    rows: Sequence[Row],
    places: Sequence[str],
    columns: HFColumns,
    names: Sequence[str],
    spool: Spool,
    store: ImageStore,
) -> int:
    """Some rows into the spool; returns how many boxes they have."""
    before = spool.boxes
    encoded = [image_bytes(row["image"]) for row in rows]
    paths = [
        place if data else _named(row["image"])
        for row, data, place in zip(rows, encoded, places, strict=True)
    ]
    outside = iter(store.sizes([path for path, data in zip(paths, encoded, strict=True) if not data]))
    for row, data, path, place in zip(rows, encoded, paths, places, strict=True):
        key = spool.key_of(place)
        size = size_of(path, data) if data else next(outside)
        if isinstance(size, ImageError):
            spool.bad_image(key, size)
        else:
            spool.image(key, path, *size)
        frame = Frame(1, 1) if isinstance(size, ImageError) else Frame(*size)
        objects = _objects(row, columns)
        if objects is None:
            expected = "expected a list of objects, or an object with the lists of their columns"
            spool.reject(place, "not_an_annotation", expected)
        for box, category in objects or ():
            spool.box(key, _category(category, names), _xyxy(box, columns.boxes, frame))
    return spool.boxes - before


def _named(image: object) -> str:
    """The path in a cell of an image column, "" when it has none."""
    path = image.get("path") if isinstance(image, dict) else None
    return path if isinstance(path, str) else ""


def _objects(row: Row, columns: HFColumns) -> list[tuple[Any, Any]] | None:
    """(bbox, category) of each object: from a struct of lists or a list of structs; None for anything else.
    Lists of unequal length are padded with nothing, and so is what is no struct.
    """
    held = row.get(columns.objects) if columns.objects else row
    if isinstance(held, list):
        structs = [o if isinstance(o, dict) else {} for o in held]
        return [(o.get(columns.bbox), o.get(columns.category)) for o in structs]
    if held is not None and not isinstance(held, dict):
        return None
    lists = [(held or {}).get(name) for name in (columns.bbox, columns.category)]
    if not all(some is None or isinstance(some, list) for some in lists):
        return None
    return list(zip_longest(*(some or [] for some in lists)))


def _category(value: object, names: Sequence[str]) -> int | str:
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(names):
        return names[value]
    return value if isinstance(value, str) and value else NO_KEY


def _xyxy(value: object, form: BoxForm, frame: Frame) -> Box:
    numbers = four_numbers(value)
    if numbers is None:
        return NOT_A_BOX
    box = as_boxes(numbers)
    with np.errstate(over="ignore"):  # a sum that overflows is infinite, and judged later
        match form:
            case "xywh":
                box = from_xywh(box)
            case "xyxy_unit":
                box = from_xyxy_unit(box, frame)
            case "cxcywh_unit":
                box = from_cxcywh_unit(box, frame)
    x1, y1, x2, y2 = box[0].tolist()
    return (x1, y1, x2, y2)


def _class_names(schema: pa.Schema | None, columns: HFColumns) -> list[str]:
    """The names of the ClassLabel that `datasets` wrote into the file, if any."""
    stored = (schema.metadata or {}).get(b"huggingface") if schema is not None else None
    if stored is None:
        return []
    try:
        feature: Any = json.loads(stored)
        for key in ("info", "features", columns.objects or columns.category):
            feature = feature.get(key, {})
    except (ValueError, AttributeError, RecursionError):  # somebody else's metadata
        return []
    return _names_in(feature, None if not columns.objects else columns.category)


def _names_in(feature: Any, inner: str | None) -> list[str]:
    """Down through sequences (a list, or `feature`) and the struct's field to `names`."""
    while feature is not None:
        if isinstance(feature, list):
            feature = feature[0] if feature else None
        elif not isinstance(feature, dict):
            return []
        elif inner is not None and inner in feature:
            feature, inner = feature[inner], None
        elif inner is None and isinstance(feature.get("names"), list):
            return [str(name) for name in feature["names"]]
        else:
            feature = feature.get("feature")
    return []
