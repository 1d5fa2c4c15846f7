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
from collections.abc import Callable, Iterator, Sequence
from itertools import zip_longest
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq

from spr.boxes import as_boxes, from_cxcywh_unit, from_xywh, from_xyxy_unit
from spr.data.config import BoxForm, HFColumns
from spr.data.files import Source
from spr.data.images import ImageStore, size_of
from spr.data.rows import image_bytes, image_column
from spr.data.spool import NO_KEY, NOT_A_BOX, Spool
from spr.errors import DataError, ImageError
from spr.types import Box, Dropped, Frame

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
            batches, schema = _arrow_rows(source, file, columns)
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


def _arrow_rows(source: Source, file: str, columns: HFColumns) -> tuple[Iterator[list[Row]], pa.Schema]:
    path = posixpath.join(source.path, file) if file else source.path
    opened = source.fs.open(path, "rb")
    if path.endswith(".arrow"):
        stream = pa.ipc.open_stream(opened)
        schema, batches = (
            stream.schema,
            (b.slice(i, _AT_ONCE) for b in stream for i in range(0, b.num_rows, _AT_ONCE)),
        )
    else:
        parquet = pq.ParquetFile(opened)
        schema, batches = parquet.schema_arrow, parquet.iter_batches(_AT_ONCE)
    wanted = [columns.objects] if columns.objects else [columns.bbox, columns.category]
    image = image_column(schema)
    missing = [name for name in (*wanted, image or "an image column") if name not in schema.names]
    if missing:
        raise DataError(
            f"{source.name}: {file}: found columns {', '.join(schema.names)}, expected also "
            f"{', '.join(missing)}; see `data.hf`"
        )

    def rows() -> Iterator[list[Row]]:
        for batch in batches:
            yield [{**entry, "image": entry[image]} for entry in batch.select([*wanted, image]).to_pylist()]

    return rows(), schema


def _json_rows(source: Source, file: str, spool: Spool) -> Iterator[list[Row]]:
    """The lines of a metadata file; `file_name` is relative to its folder."""
    rows: list[Row] = []
    for number, line in enumerate(source.read(file).decode("utf-8", "replace").splitlines(), 1):
        try:
            entry = json.loads(line)
            path = posixpath.join(posixpath.dirname(file), entry["file_name"])
        except (ValueError, KeyError, TypeError) as e:
            spool.rejected.append(
                Dropped(
                    f"{file}:{number}",
                    "unreadable_annotation",
                    f"expected a JSON object with file_name ({e})",
                )
            )
            continue
        rows.append({**entry, "image": {"path": path, "bytes": None}})
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
        place if data else str((row["image"] or {}).get("path"))
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
        for box, category in _objects(row, columns):
            spool.box(key, _category(category, names), _xyxy(box, columns.boxes, frame))
    return spool.boxes - before


def _objects(row: Row, columns: HFColumns) -> list[tuple[Any, Any]]:
    """(bbox, category) of each object: from a struct of lists or a list of structs. Lists of unequal length
    are padded with nothing.
    """
    held = row.get(columns.objects) if columns.objects else row
    if isinstance(held, list):
        return [(o.get(columns.bbox), o.get(columns.category)) for o in held if isinstance(o, dict)]
    lists = [(held or {}).get(name) or [] for name in (columns.bbox, columns.category)]
    return list(zip_longest(*lists))


def _category(value: object, names: Sequence[str]) -> int | str:
    if isinstance(value, int) and 0 <= value < len(names):
        return names[value]
    return value if isinstance(value, str) and value else NO_KEY


def _xyxy(value: object, form: BoxForm, frame: Frame) -> Box:
    try:
        box = as_boxes(value)  # type: ignore[arg-type]
    except (ValueError, TypeError):
        return NOT_A_BOX
    if box.shape != (1, 4):
        return NOT_A_BOX
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
    feature: Any = (
        json.loads(stored).get("info", {}).get("features", {}).get(columns.objects or columns.category)
    )
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
