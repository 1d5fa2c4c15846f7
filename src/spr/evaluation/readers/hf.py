"""Benchmarks in the layouts of the Hugging Face hub, read from local Parquet or Arrow files (one file, or a
folder of them) with pyarrow alone.

`hf_refcoco`: jxu124/refcoco, refcocoplus, refcocog. No picture; raw_anns and raw_image_info are JSON texts.
The box is raw_anns' [x, y, w, h]; the column `bbox` must say the same, as xyxy or as xywh. `image_path`
("coco/train2014/…") is relative to `images`; with the option `image_column: file_name` the name in
raw_image_info is.
`lmms_refcoco`: lmms-lab/RefCOCO, RefCOCOplus, RefCOCOg. Picture inside, `answer` = all expressions, bbox [x,
y, w, h]. Trap: its splits are not the published ones (8,811 refs in RefCOCO val, UNC has 3,811; 7,573 in
RefCOCOg val, UMD has 2,573): a note says so.
`ref_l4`: JierunChen/Ref-L4. bbox [x, y, w, h]; group = size bucket by sqrt(w * h): small < 128 <= medium <=
256 < large. `refcoco_m`: moondream/refcoco-m. Picture inside, `samples` with sentences; bbox read as [x, y,
w, h] (the card says COCO format), or with the option `bbox: xyxy` as corners; a box that leaves its image by
more than a pixel under that reading is refused.

Pictures inside the files are written once, byte for byte, into the folder `images`.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
from PIL import Image

from spr.data.arrow import BROKEN, open_batches
from spr.errors import ConfigError, DataError, said_by, shown
from spr.evaluation.items import Item
from spr.evaluation.readers.base import (
    Source,
    four,
    inside,
    parse_json,
    take,
    take_id,
    take_int,
    take_list,
    take_size,
    take_text,
    take_xywh,
    wrong,
)
from spr.store.files import write_whole
from spr.types import Box

_HF = {
    "sent_ids", "file_name", "ann_id", "ref_id", "image_id", "split", "sentences", "category_id", "raw_anns",
    "raw_image_info", "raw_sentences", "image_path", "bbox", "captions", "global_image_id", "anns_id",
}  # fmt: skip
_LMMS = {"question_id", "image", "question", "answer", "segmentation", "bbox", "iscrowd", "file_name"}
_REF_L4 = {
    "id", "caption", "bbox", "bbox_area", "bbox_id", "ori_category_id", "image_id", "height", "width",
    "file_name", "is_rewrite", "split",
}  # fmt: skip
_REFCOCO_M = {"image", "image_id", "file_name", "samples"}
NOT_PUBLISHED: Mapping[int, str] = {
    8811: "8,811 refs: this is not the UNC val split of RefCOCO (3,811 refs, 10,834 expressions); its "
    "numbers do not compare with papers'",
    7573: "7,573 refs: this is not the UMD val split of RefCOCOg (2,573 refs, 4,896 expressions); its "
    "numbers do not compare with papers'",
}


def _tables(path: Path) -> Iterator[tuple[str, list[str], list[dict[str, Any]]]]:
    """(file, columns, rows) of a Parquet or Arrow file, or of all in a folder, in order of name."""
    if path.is_dir():
        files = sorted(p for p in path.iterdir() if p.suffix in (".parquet", ".arrow"))
        if not files:
            raise DataError(f"{path}: found no .parquet or .arrow file, expected the files of a split")
        for file in files:
            yield from _tables(file)
        return
    try:
        with pa.memory_map(str(path)) as file:
            for batch in open_batches(file, path.suffix == ".arrow", 256)[1]:
                yield str(path), batch.schema.names, batch.to_pylist()
    except BROKEN as e:
        raise DataError(f"{path}: cannot be read as Parquet or Arrow ({said_by(e)})") from None


def _rows(source: Source, known: set[str], needed: set[str]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    number = 0
    for file, columns, rows in _tables(Path(source.path)):
        names = set(columns)
        if names - known or needed - names:
            odd = sorted(names - known) or sorted(needed - names)
            raise DataError(
                f"{file}: found columns {sorted(names)}, expected {sorted(needed)} "
                f"({'unknown' if names - known else 'missing'}: {odd})"
            )
        for row in rows:
            yield f"{file}[{number}]", row
            number += 1


def _json_text(row: Mapping[str, Any], key: str, where: str) -> Mapping[str, Any]:
    value = parse_json(take_text(row, key, where), f"{where}.{key}")
    if not isinstance(value, Mapping):
        raise wrong(f"{where}.{key}", shown(value), "an object")
    return value


def read_hf_refcoco(source: Source) -> Iterator[Item]:
    """Items of `rec` (or `region_caption`) from jxu124's layout."""
    source.check_options(("image_column",))
    column = source.option("image_column", "image_path", ("image_path", "file_name"))
    for where, row in _rows(
        source, _HF, {"raw_anns", "raw_image_info", "sentences", "bbox", "image_path", "ref_id"}
    ):
        info = _json_text(row, "raw_image_info", where)
        box = take_xywh(_json_text(row, "raw_anns", where), "bbox", f"{where}.raw_anns")
        said = four(row["bbox"], f"{where}.bbox")
        xywh = (box[0], box[1], box[2] - box[0], box[3] - box[1])
        if (
            max(abs(a - b) for a, b in zip(said, box, strict=True))
            > 0.01
            < max(abs(a - b) for a, b in zip(said, xywh, strict=True))
        ):
            raise wrong(f"{where}.bbox", shown(said), f"the box of raw_anns, {box} or {xywh}")
        name = (
            take_text(row, "image_path", where)
            if column == "image_path"
            else take_text(info, "file_name", f"{where}.raw_image_info")
        )
        width, height = take_size(info, f"{where}.raw_image_info")
        texts = [take_text(s, "sent", at).strip() for at, s in take_list(row, "sentences", where)]
        yield from _items(
            source,
            str(take_int(row, "ref_id", where)),
            source.image(name, where),
            (width, height),
            texts,
            box,
        )


def _items(
    source: Source, ref: str, image: str, size: tuple[int, int], texts: list[str], box: Box
) -> Iterator[Item]:
    """One item per expression, or one per ref for captioning."""
    if source.protocol == "region_caption":
        yield Item(ref, source.split, image, *size, region=box, truth=tuple(texts))
        return
    for k, text in enumerate(texts):
        yield Item(f"{ref}/{k}", source.split, image, *size, expression=text, gt=box)


def _unpacked(source: Source, value: object, name: str, where: str) -> tuple[str, tuple[int, int]]:
    """(path, size) of a picture inside the file, after writing it into the folder `images` unless it is
    there.
    """
    if not source.images or "://" in source.images:
        raise ConfigError(
            f"images: found {source.images!r}, expected a local folder for the pictures inside {source.path}"
        )
    data = value.get("bytes") if isinstance(value, Mapping) else None
    if not isinstance(data, bytes):
        raise wrong(f"{where}.image", shown(value), "a picture (bytes)")
    try:
        with Image.open(io.BytesIO(data)) as picture:
            size = picture.size
    except MemoryError:
        raise
    except Exception as e:  # a broken picture may raise anything
        raise DataError(f"{where}.image: no readable picture ({said_by(e)})") from None
    target = Path(source.images) / Path(inside(name, where)).name
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        write_whole(target, data)
    return str(target), size


def read_lmms_refcoco(source: Source) -> Iterator[Item]:
    """Items of `rec` (or `region_caption`) from lmms-lab's layout."""
    source.check_options(())
    count = 0
    for where, row in _rows(source, _LMMS, {"question_id", "image", "answer", "bbox", "file_name"}):
        count += 1
        image, size = _unpacked(source, row["image"], take_text(row, "file_name", where), where)
        texts = [take_text({"answer": a}, "answer", at).strip() for at, a in take_list(row, "answer", where)]
        yield from _items(source, f"{count - 1}", image, size, texts, take_xywh(row, "bbox", where))
    if count in NOT_PUBLISHED:
        source.notes.append(NOT_PUBLISHED[count])


def size_bucket(box: Box) -> str:
    """Ref-L4's bucket of a box."""
    side = math.sqrt((box[2] - box[0]) * (box[3] - box[1]))
    return "small" if side < 128 else "medium" if side <= 256 else "large"


def read_ref_l4(source: Source) -> Iterator[Item]:
    """Items of `rec` from Ref-L4, grouped by size."""
    source.check_options(())
    for where, row in _rows(source, _REF_L4, {"id", "caption", "bbox", "width", "height", "file_name"}):
        box = take_xywh(row, "bbox", where)
        width, height = take_size(row, where)
        yield Item(
            str(take_id(row, "id", where)),
            source.split or str(row.get("split") or ""),
            source.image(take_text(row, "file_name", where), where),
            width,
            height,
            expression=take_text(row, "caption", where).strip(),
            gt=box,
            group=size_bucket(box),
        )


def read_refcoco_m(source: Source) -> Iterator[Item]:
    """Items of `rec` (or `region_caption`) from RefCOCO-M."""
    source.check_options(("bbox",))
    corners = source.option("bbox", "xywh", ("xywh", "xyxy")) == "xyxy"
    for where, row in _rows(source, _REFCOCO_M, _REFCOCO_M):
        image, size = _unpacked(source, row["image"], take_text(row, "file_name", where), where)
        for at, sample in take_list(row, "samples", where):
            box = four(take(sample, "bbox", at), f"{at}.bbox") if corners else take_xywh(sample, "bbox", at)
            if box[2] > size[0] + 1 or box[3] > size[1] + 1 or box[0] > box[2] or box[1] > box[3]:
                raise wrong(
                    f"{at}.bbox",
                    shown(sample["bbox"]),
                    f"a box inside {size[0]}x{size[1]}; see the option `bbox: xywh | xyxy`",
                )
            texts = [
                take_text({"sentence": s}, "sentence", place).strip()
                for place, s in take_list(sample, "sentences", at)
            ]
            yield from _items(source, str(take_id(sample, "id", at)), image, size, texts, box)
