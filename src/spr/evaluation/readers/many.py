"""Expressions with any number of boxes, or none.

`humanref`: HumanRef's annotations.jsonl. image_name, referring, answer_boxes [[x1, y1, x2, y2], …] in pixels,
domain, sub_domain; no size, so the image is opened for it. Groups: domain and sub-domain. The domain
"rejection" has no boxes.
`grefcoco`: gRefCOCO. `path` holds grefs(unc).json and instances.json; the split after the last "/". ann_id is
a list; [-1] = nothing fits.

For the protocol `absent_rec` only the expressions without a box are asked.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from spr.errors import shown
from spr.evaluation.items import Item
from spr.evaluation.readers.base import (
    Source,
    check_keys,
    lines,
    load_json,
    take,
    take_id,
    take_list,
    take_size,
    take_text,
    take_xywh,
    to_box,
    wrong,
)
from spr.evaluation.readers.refer import instances, referred

_HUMANREF = {
    "id", "image_name", "referring", "answer_boxes", "candidate_boxes", "answer_segmentations", "domain",
    "sub_domain", "width", "height",
}  # fmt: skip
_GREF = {
    "ref_id",
    "ann_id",
    "category_id",
    "image_id",
    "split",
    "sentences",
    "sent_ids",
    "file_name",
    "no_target",
}


def _wanted(source: Source, boxes: int) -> bool:
    return source.protocol != "absent_rec" or boxes == 0


def read_humanref(source: Source) -> Iterator[Item]:
    """Items of `many_boxes` or `absent_rec` from HumanRef."""
    source.check_options(())
    for where, entry in lines(source.file(), _HUMANREF):
        boxes = tuple(to_box(v, at) for at, v in take_list(entry, "answer_boxes", where))
        domain, inner = take_text(entry, "domain", where), str(entry.get("sub_domain") or "")
        if (domain == "rejection") != (not boxes):
            raise wrong(
                where, f"domain {domain!r} with {len(boxes)} boxes", "boxes in every domain but rejection"
            )
        if not _wanted(source, len(boxes)):
            continue
        image = source.image(take_text(entry, "image_name", where), where)
        width, height = source.frame(entry, image, where)
        kinds = dict.fromkeys(k.replace("/", " ") for k in (domain, inner) if k)
        text = take_text(entry, "referring", where).strip()
        yield Item(
            str(take_id(entry, "id", where)),
            source.split,
            image,
            width,
            height,
            expression=text,
            gt_boxes=boxes,
            group="/".join(kinds),
        )


def read_grefcoco(source: Source) -> Iterator[Item]:
    """Items of `many_boxes` or `absent_rec` from gRefCOCO."""
    source.check_options(())
    folder = Path(source.path)
    path = str(folder / "grefs(unc).json")
    images, annotations = instances(folder)
    refs = load_json(path)
    if not isinstance(refs, list):
        raise wrong(path, type(refs).__name__, "a list of refs")
    wanted = source.split.rpartition("/")[2]
    for number, value in enumerate(refs):
        where = f"{path}[{number}]"
        ref = check_keys(value, _GREF, where)
        if take(ref, "split", where) != wanted:
            continue
        ids = take(ref, "ann_id", where)
        ids = ids if isinstance(ids, list) else [ids]
        if not all(isinstance(i, int) for i in ids):
            raise wrong(f"{where}.ann_id", shown(ids), "annotation ids")
        if -1 in ids and ids != [-1]:
            raise wrong(f"{where}.ann_id", shown(ids), "[-1] alone, or annotation ids")
        found = [] if ids == [-1] else [referred(annotations, i, where, "ann_id") for i in ids]
        if not _wanted(source, len(found)):
            continue
        image_where, image = referred(images, take_id(ref, "image_id", where), where, "image_id")
        width, height = take_size(image, image_where)
        path_of_image = source.image(take_text(image, "file_name", image_where), where)
        boxes = tuple(take_xywh(a, "bbox", at) for at, a in found)
        group = "absent" if not boxes else "one" if len(boxes) == 1 else "several"
        for k, (at, sentence) in enumerate(take_list(ref, "sentences", where)):
            text = take_text(sentence, "sent", at).strip()
            name = f"{take_id(ref, 'ref_id', where)}/{k}"
            yield Item(
                name, source.split, path_of_image, width, height, expression=text, gt_boxes=boxes, group=group
            )
