"""Visual Genome's region_descriptions.json, for region captioning: `[{"id": image id, "regions": [{region_id,
phrase, x, y, width, height}, …]}, …]`.

The picture of an image id is `<id>.jpg` in `images` or in its VG_100K or VG_100K_2; its size is read from the
picture. A box is [x, y, width, height], x2 = x + width. One item per region, with its one phrase as reference
[GLaMM]. The published test split is a list of image ids, which the file given here must already be cut to.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from spr.evaluation.items import Item
from spr.evaluation.readers.base import Source, check_keys, records, take_int, take_list, take_text, take_xywh

_REGION = {"region_id", "phrase", "x", "y", "width", "height", "image_id", "image", "synsets"}
_FOLDERS = ("", "VG_100K", "VG_100K_2")


def _image(source: Source, number: int, where: str) -> str:
    for folder in _FOLDERS:
        name = f"{folder}/{number}.jpg".lstrip("/")
        if source.images and "://" not in source.images and (Path(source.images) / name).exists():
            return source.image(name, where)
    return source.image(f"{number}.jpg", where)


def read(source: Source) -> Iterator[Item]:
    """Items of `region_caption`."""
    source.check_options(())
    for where, entry in records(source.file(), {"id", "regions"}):
        regions = take_list(entry, "regions", where)
        if not regions:
            continue
        image = _image(source, take_int(entry, "id", where), where)
        width, height = source.size(image, where)
        for at, value in regions:
            region = check_keys(value, _REGION, at)
            box = take_xywh(
                {"bbox": [take_int(region, k, at) for k in ("x", "y", "width", "height")]}, "bbox", at
            )
            phrase = take_text(region, "phrase", at).strip()
            yield Item(
                str(take_int(region, "region_id", at)),
                source.split,
                image,
                width,
                height,
                region=box,
                truth=(phrase,),
            )
