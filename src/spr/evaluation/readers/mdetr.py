"""MDETR's and Ferret's RefCOCO files:
`finetune_{refcoco,refcoco+,refcocog}_{train,val,test,testA,testB}.json`.

COCO style, but with one "image" PER EXPRESSION: `caption` is the expression, `file_name` the picture (several
entries share it), `original_id` the COCO image. The annotation is joined by image_id; its bbox is [x, y,
width, height], read as x2 = x + w (no "-1").
An expression with no box, or with several, is not a referring expression and is refused.
For `region_caption` the expressions of one box of one picture are the references of one item.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from spr.errors import shown
from spr.evaluation.items import Item
from spr.evaluation.readers.base import (
    Source,
    check_keys,
    load_json,
    take_id,
    take_list,
    take_size,
    take_text,
    take_xywh,
    wrong,
)
from spr.types import Box

_TOP = {"info", "licenses", "images", "annotations", "categories"}
IMAGE_KEYS = {
    "file_name", "height", "width", "id", "original_id", "caption", "dataset_name", "tokens_negative",
    "sentence_id", "split", "task_id", "license", "coco_url", "date_captured", "flickr_url",
    "original_img_id", "tokens_positive_eval",
}  # fmt: skip
_ANNOTATION = {
    "area", "iscrowd", "image_id", "category_id", "id", "bbox", "tokens_positive", "tokens", "segmentation",
    "original_id", "split", "ref_id", "ann_id",
}  # fmt: skip


def by_image_id(
    data: Mapping[str, Any], path: str, known: set[str]
) -> dict[Any, list[tuple[str, Mapping[str, Any]]]]:
    """The annotations of a COCO-style file by image_id, each with its place."""
    found: dict[Any, list[tuple[str, Mapping[str, Any]]]] = {}
    for where, value in take_list(data, "annotations", path):
        entry = check_keys(value, known, where)
        found.setdefault(take_id(entry, "image_id", where), []).append((where, entry))
    return found


def read(source: Source) -> Iterator[Item]:
    """The expressions of a file as items of `rec`, or its boxes as items of `region_caption`."""
    source.check_options(())
    if source.protocol != "region_caption":
        yield from _expressions(source)
        return
    grouped: dict[tuple[str, Box | None], list[Item]] = {}
    for item in _expressions(source):
        grouped.setdefault((item.image, item.gt), []).append(item)
    for items in grouped.values():
        truth = tuple(i.expression for i in items)
        yield replace(items[0], expression="", region=items[0].gt, gt=None, truth=truth)


def _expressions(source: Source) -> Iterator[Item]:
    path = source.file()
    data = check_keys(load_json(path), _TOP, path)
    annotations = by_image_id(data, path, _ANNOTATION)
    for where, value in take_list(data, "images", path):
        entry = check_keys(value, IMAGE_KEYS, where)
        number = take_id(entry, "id", where)
        boxes = annotations.get(number, [])
        if len(boxes) != 1:
            raise wrong(
                where, f"{len(boxes)} boxes for image id {shown(number)}", "one annotation per expression"
            )
        width, height = take_size(entry, where)
        yield Item(
            item_id=str(number),
            split=source.split,
            image=source.image(take_text(entry, "file_name", where), where),
            width=width,
            height=height,
            expression=take_text(entry, "caption", where).strip(),
            gt=take_xywh(boxes[0][1], "bbox", boxes[0][0]),
        )
