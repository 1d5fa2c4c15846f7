"""Questions that stand in their files.

`pope`: POPE's JSON-lines files (coco_pope_{random,popular,adversarial}.json). question_id, image, text, label
"yes" | "no". No size: images are opened once each.
`ferret_lvis`: Ferret's lvis_eval.jsonl for region classification. image_path, bbox_norm [x1, y1, x2, y2] as
fractions, width, height, name, synonyms, neg_class. In every second line the wrong name is offered first, as
in Ferret. "bow_(weapon)" counts as "bow" and "weapon" [Ferret].
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from spr.boxes import from_xyxy_unit
from spr.errors import shown
from spr.evaluation.items import Item
from spr.evaluation.readers.base import (
    Source,
    lines,
    take,
    take_id,
    take_list,
    take_size,
    take_text,
    to_box,
    wrong,
)
from spr.types import Box, Frame

_POPE = {"question_id", "image", "text", "label"}
_LVIS = {
    "id", "image_path", "name", "synonyms", "neg_class", "bbox", "bbox_norm", "width", "height",
    "sample_point", "free_shape_bbox_raw", "free_shape_segment_mask", "segmentation", "category_id",
    "image_id", "area", "def", "frequency", "question",
}  # fmt: skip


def read_pope(source: Source) -> Iterator[Item]:
    """Items of `pope`."""
    source.check_options(())
    sizes: dict[str, tuple[int, int]] = {}
    for where, entry in lines(source.file(), _POPE):
        label = take_text(entry, "label", where)
        if label not in ("yes", "no"):
            raise wrong(f"{where}.label", shown(label), "'yes' or 'no'")
        image = source.image(take_text(entry, "image", where), where)
        if image not in sizes:
            sizes[image] = source.size(image, where)
        width, height = sizes[image]
        yield Item(
            str(take_id(entry, "question_id", where)),
            source.split,
            image,
            width,
            height,
            take_text(entry, "text", where),
            truth=(label,),
        )


def names_of(entry: Mapping[str, Any], where: str) -> tuple[str, ...]:
    """Name and synonyms as Ferret counts them."""
    found = [take_text(entry, "name", where).replace("_", " ").strip()]
    for at, value in take_list(entry, "synonyms", where):
        text = take_text({"synonym": value}, "synonym", at)
        found += [part.replace("_", " ").replace(")", "").strip() for part in text.split("(")]
    return tuple(dict.fromkeys(n for n in found if n))


def read_ferret_lvis(source: Source) -> Iterator[Item]:
    """Items of `region_choice` (or `region_classification`)."""
    source.check_options(())
    for number, (where, entry) in enumerate(lines(source.file(), _LVIS)):
        width, height = take_size(entry, where)
        unit = to_box(take(entry, "bbox_norm", where), f"{where}.bbox_norm")
        x1, y1, x2, y2 = from_xyxy_unit([unit], Frame(width, height))[0].tolist()
        box: Box = (x1, y1, x2, y2)
        offered = (take_text(entry, "name", where), take_text(entry, "neg_class", where))
        yield Item(
            str(entry.get("id", number)),
            source.split,
            source.image(take_text(entry, "image_path", where), where),
            width,
            height,
            region=box,
            gt=box,
            truth=names_of(entry, where),
            choices=offered if number % 2 == 0 else offered[::-1],
        )
