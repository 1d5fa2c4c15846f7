"""JSON-lines files of referring expressions, one expression a line; boxes [x1, y1, x2, y2] in pixels of the
original image.

`qwen_jsonl` (Qwen-VL, InternVL): image, sent, bbox, width, height.
`shikra_jsonl`: img_path, expression, bbox; dataset_name, width, height where the file has them (else the
image is opened for its size). Both were made from COCO's [x, y, w, h] as x2 = x + w; no "-1" is applied here.
A `bbox` of null (our addition) is an expression for something that is not in the image, for the protocol
`absent_rec`.
"""

from __future__ import annotations

from collections.abc import Iterator

from spr.evaluation.items import Item
from spr.evaluation.readers.base import Source, lines, take, take_text, to_box

_QWEN = {"image", "sent", "bbox", "width", "height", "id", "question_id", "ref_id", "dataset_name"}
_SHIKRA = {"img_path", "expression", "bbox", "dataset_name", "width", "height", "id"}


def _read(source: Source, known: set[str], image_key: str, text_key: str) -> Iterator[Item]:
    source.check_options(())
    for number, (where, entry) in enumerate(lines(source.file(), known)):
        image = source.image(take_text(entry, image_key, where), where)
        width, height = source.frame(entry, image, where)
        value = take(entry, "bbox", where)
        gt = None if value is None else to_box(value, f"{where}.bbox")
        yield Item(
            str(number),
            source.split,
            image,
            width,
            height,
            expression=take_text(entry, text_key, where).strip(),
            gt=gt,
        )


def read_qwen(source: Source) -> Iterator[Item]:
    """Items of `rec` from Qwen-VL's or InternVL's file."""
    return _read(source, _QWEN, "image", "sent")


def read_shikra(source: Source) -> Iterator[Item]:
    """Items of `rec` from Shikra's file."""
    return _read(source, _SHIKRA, "img_path", "expression")
