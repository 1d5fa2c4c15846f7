"""Score answers that were produced elsewhere: `spr evaluate --predictions FILE`.

In: a file of one of these forms. Out: the same metrics as `spr evaluate`, as a Markdown table per protocol.

`.parquet`  rows with the columns of predictions.parquet; the first ten (item_id … problems) are enough for
            REC.
`.jsonl`    one object a line. Either raw answers or boxes:
              answer, dialect, width, height [, dialect_options]     the answer is read in that dialect
              box (or boxes: […]) [, width, height]            pixels of the original image; null = not read
            and the truth: gt (one box) | gt_boxes | truth (words) | phrases [{"phrase", "boxes", "type"}].
            phrase_grounding wants `box_phrases`, the phrase of each box.
            Optional: item_id, image (the unit of the bootstrap), split, group, expression, region,
            box_phrases.
            A line {"defaults": {…}} gives values for the lines after it, e.g. {"defaults": {"protocol":
            "rec", "dialect": "qwen3_vl"}}; `protocol` (default rec) and its `options` stand there too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from spr.data.arrow import BROKEN
from spr.data.spool import four_numbers
from spr.dialects import Dialect, get_dialect
from spr.errors import DataError, DialectError, said_by, shown
from spr.evaluation.items import Item, PhraseTruth
from spr.evaluation.protocols import protocol_named
from spr.evaluation.protocols.base import Protocol, frame_of, overlap
from spr.evaluation.readers.base import (
    Entry,
    four,
    lines,
    take_int,
    take_list,
    take_text,
    to_box,
    wrong,
)
from spr.evaluation.results import measure
from spr.evaluation.rows import judged, row_type
from spr.evaluation.tables import metrics_table
from spr.store.config import load
from spr.store.tables import schema_of
from spr.types import Answer, Box, Prediction

_KEYS = {
    "defaults", "item_id", "protocol", "options", "split", "group", "image", "expression", "width", "height",
    "region", "gt", "gt_boxes", "truth", "phrases", "gt_phrases", "answer", "dialect", "dialect_options",
    "box", "boxes", "box_phrases",
}  # fmt: skip
BOOTSTRAP = 2000


def score_file(path: str | Path) -> str:
    """The metrics of a file of answers, as text. Raises DataError, ConfigError or DialectError, one line
    each.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file, expected predictions (.jsonl or .parquet)")
    options: dict[str, Mapping[str, Any]] = {}
    if path.suffix == ".parquet":
        rows = read_parquet(path)
    elif path.suffix in (".jsonl", ".json"):
        rows, options = read_lines(path)
    else:
        raise DataError(f"{path}: found {path.suffix or 'no ending'}, expected .jsonl or .parquet")
    if not rows:
        raise DataError(f"{path}: found no row, expected at least one")
    for row in rows:
        _check(row, protocol_named(row.protocol), f"{path}: {row.item_id}")
    parts = []
    for name in dict.fromkeys(r.protocol for r in rows):
        protocol = protocol_named(name)
        chosen = [r for r in rows if r.protocol == name]
        metrics = measure(
            chosen, protocol, load(protocol.options, options.get(name, {}), f"{path}: options"), BOOTSTRAP, 0
        )
        parts.append(
            f"{path.name} · {name} · {metrics['n']} answers, {metrics['unparsed']} unparsed · "
            f"{metrics['images']} images\n"
        )
        parts.append(metrics_table(metrics) + "\n")
    return "\n".join(parts)


def read_parquet(path: Path) -> list[Prediction]:
    """The rows of a Parquet file; columns after `problems` may be missing."""
    try:
        table = pq.read_table(path)
        kind = row_type(table.column_names)
    except BROKEN as e:
        raise DataError(f"{path}: cannot be read as Parquet ({said_by(e)})") from None
    if kind is not None:
        return [judged(r) for r in _rows(path, table, kind)]
    schema = schema_of(Prediction)
    for field in dataclasses.fields(Prediction):
        if field.default is not dataclasses.MISSING and field.name not in table.column_names:
            value = list(field.default) if isinstance(field.default, tuple) else field.default
            table = table.append_column(
                schema.field(field.name), pa.array([value] * len(table), schema.field(field.name).type)
            )
    rows = _rows(path, table, Prediction)
    return [dataclasses.replace(r, boxes=(r.box,)) if r.box is not None and not r.boxes else r for r in rows]


def _rows(path: Path, table: pa.Table, cls: Any) -> list[Any]:
    """The rows as records of that class, every value of the right type. Raises DataError."""
    columns = schema_of(cls).names
    missing = [name for name in columns if name not in table.column_names]
    if missing:
        raise DataError(f"{path}: found columns {table.column_names}, expected also {', '.join(missing)}")
    try:
        return msgspec.convert(table.select(columns).to_pylist(), list[cls])
    except (msgspec.ValidationError, *BROKEN) as e:
        raise DataError(f"{path}: {e}") from None


def _check(row: Prediction, protocol: Protocol, where: str) -> None:
    """Raise DataError for a row that its protocol cannot weigh."""
    boxes = (row.gt, row.box, row.region, *row.gt_boxes, *row.boxes)
    odd = next((box for box in boxes if box is not None and four_numbers(box) is None), None)
    if odd is not None:
        raise wrong(where, f"the box {shown(odd)}", "four numbers")
    if not protocol.phrased:
        return
    counts = {"phrases": len(row.boxes), "truth": len(row.gt_boxes), "gt_phrases": len(row.gt_boxes)}
    for name, count in counts.items():
        found = len(getattr(row, name))
        if found != count and (found or name == "phrases" or name in protocol.needs):
            raise wrong(where, f"{found} {name} for {count} boxes", "one for every box")
    if not row.gt_boxes:
        raise wrong(where, "no true box", "at least one")


def read_lines(path: Path) -> tuple[list[Prediction], dict[str, Mapping[str, Any]]]:
    """(rows, metric options by protocol) of a JSON-lines file."""
    defaults: dict[str, Any] = {}
    rows: list[Prediction] = []
    options: dict[str, Mapping[str, Any]] = {}
    for number, (where, entry) in enumerate(lines(str(path), _KEYS)):
        if "defaults" in entry:
            given = entry["defaults"]
            if not isinstance(given, Mapping) or set(given) - _KEYS:
                raise wrong(where, shown(given), "an object with keys of a line")
            defaults = dict(given)
            continue
        full = {**defaults, **entry}
        item = _item(full, where, number)
        protocol = protocol_named(str(full.get("protocol", "rec")))
        options[protocol.name] = full.get("options", {})
        missing = [
            n
            for n in protocol.needs
            if n not in ("expression", "region", "choices") and getattr(item, n) in (None, "", ())
        ]
        if missing:
            raise wrong(where, f"keys {sorted(full)}", f"{', '.join(missing)} for protocol {protocol.name!r}")
        if "answer" in full:
            rows += protocol.judge(item, _answer(full, where), protocol.name, _dialect(full, where))
        else:
            rows += protocol.spread(item, _boxes_row(item, full, where, protocol))
    return rows, options


def _answer(entry: Entry, where: str) -> Answer:
    value = entry["answer"]
    if value is None:
        return Answer("", failed="missing")
    if not isinstance(value, str):
        raise wrong(f"{where}.answer", shown(value), "a text, or null for an answer that is missing")
    return Answer(value)


def _dialect(entry: Entry, where: str) -> Dialect:
    try:
        named = entry.get("dialect")
        named = named if isinstance(named, Mapping) else take_text(entry, "dialect", where)
        return get_dialect(named, **dict(entry.get("dialect_options", {})))
    except DialectError as e:
        raise DialectError(f"{where}: {e}") from None


def _box_list(entry: Entry, key: str, where: str) -> tuple[Box, ...]:
    return (
        tuple(to_box(v, at) for at, v in take_list(entry, key, where)) if entry.get(key) is not None else ()
    )


def _texts(entry: Entry, key: str, where: str) -> tuple[str, ...]:
    value = entry.get(key)
    if value is None:
        return ()
    listed = [value] if isinstance(value, str) else value
    if not isinstance(listed, list) or not all(isinstance(v, str) for v in listed):
        raise wrong(f"{where}.{key}", shown(value), "a text or a list of texts")
    return tuple(listed)


def _phrases(entry: Entry, where: str) -> tuple[PhraseTruth, ...]:
    if "phrases" not in entry:
        return ()
    found = []
    for at, value in take_list(entry, "phrases", where):
        phrase, boxes = take_text(value, "phrase", at), _box_list(value, "boxes", at)
        if not boxes:
            raise wrong(at, f"the phrase {shown(phrase)} without a box", "at least one")
        found.append(PhraseTruth(phrase, boxes, str(value.get("type", ""))))
    return tuple(found)


def _item(entry: Entry, where: str, number: int) -> Item:
    sized = "width" in entry or "height" in entry or "answer" in entry
    return Item(
        item_id=str(entry.get("item_id", number)),
        split=str(entry.get("split", "")),
        image=str(entry.get("image", number)),
        width=take_int(entry, "width", where) if sized else 0,
        height=take_int(entry, "height", where) if sized else 0,
        expression=str(entry.get("expression", "")),
        region=to_box(entry["region"], f"{where}.region") if entry.get("region") is not None else None,
        gt=to_box(entry["gt"], f"{where}.gt") if entry.get("gt") is not None else None,
        gt_boxes=_box_list(entry, "gt_boxes", where),
        truth=_texts(entry, "truth", where),
        gt_phrases=_texts(entry, "gt_phrases", where),
        group=str(entry.get("group", "")),
        phrases=_phrases(entry, where),
    )


def _boxes_row(item: Item, entry: Entry, where: str, protocol: Protocol) -> Prediction:
    """A row from boxes that somebody else has read. Written boxes may be reversed; metrics sort them."""
    if "boxes" not in entry and "box" not in entry:
        raise wrong(where, f"keys {sorted(entry)}", "answer with dialect, or box, or boxes")
    listed = entry["boxes"] if "boxes" in entry else [entry["box"]]
    if not isinstance(listed, list):
        raise wrong(f"{where}.boxes", shown(listed), "a list of boxes")
    boxes = tuple(four(v, f"{where}.box") for v in listed if v is not None)
    phrases = _texts(entry, "box_phrases", where)
    if (phrases or protocol.phrased) and len(phrases) != len(listed):
        raise wrong(f"{where}.box_phrases", f"{len(phrases)} for {len(listed)} boxes", "one for every box")
    phrases = tuple(p for p, v in zip(phrases, listed, strict=False) if v is not None)
    row = Prediction(
        item_id=f"{item.split}/{item.item_id}" if item.split else item.item_id,
        protocol=protocol.name,
        split=item.split,
        image=item.image,
        expression=item.expression,
        gt=item.gt,
        answer="",
        box=boxes[0] if boxes else None,
        iou=None,
        problems=() if boxes else ("no_box",),
        width=item.width,
        height=item.height,
        group=item.group,
        region=item.region,
        gt_boxes=item.gt_boxes,
        truth=item.truth,
        gt_phrases=item.gt_phrases,
        boxes=boxes,
        phrases=phrases,
    )
    return dataclasses.replace(row, iou=overlap(row.gt, row.box, frame_of(row)))
