"""COCO instances (also LVIS, Objects365): every annotated object is asked about; or regions are drawn and
described.

bbox is [x, y, width, height], x2 = x + w. Crowd annotations are no objects and are left out. LVIS: `synonyms`
of a category count as its names; names are written with "_" and in brackets ("bow_(weapon)"), which are read
as blanks and dropped.
For `region_description` regions are drawn as in the stage `regions` (options: `regions_per_image`,
`min_objects`, `seed`), and an object's name is its category; for any other protocol every object is an item.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from spr.errors import ConfigError, shown
from spr.evaluation.items import Item
from spr.evaluation.readers.base import (
    Source,
    load_json,
    take_id,
    take_int,
    take_list,
    take_size,
    take_text,
    take_xywh,
    wrong,
)
from spr.stages.regions import RegionsConfig, draw_regions
from spr.types import Annotation, Box, ImageRecord


@dataclass(frozen=True, slots=True)
class CocoObject:
    """An annotated object with all the names of its category."""

    annotation_id: str
    box: Box
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CocoImage:
    """An image with its objects."""

    name: str
    width: int
    height: int
    objects: tuple[CocoObject, ...]


def plain_name(name: str) -> str:
    """A category name as people say it: "bow_(weapon)" is "bow"."""
    return " ".join(re.sub(r"\([^)]*\)", " ", name.replace("_", " ")).split())


def _category_names(data: Mapping[str, Any], path: str) -> dict[int, tuple[str, ...]]:
    found: dict[int, tuple[str, ...]] = {}
    for where, value in take_list(data, "categories", path):
        spoken_name = take_text(value, "name", where)
        others = take_list(value, "synonyms", where) if "synonyms" in value else []
        names = [take_text({"name": n}, "name", at) for at, n in others]
        spoken = [plain_name(n) for n in (spoken_name, *names)]
        found[take_int(value, "id", where)] = tuple(dict.fromkeys(spoken))
    return found


def _file_name(entry: Mapping[str, Any], where: str) -> str:
    if "file_name" not in entry and "coco_url" in entry:  # LVIS names no file: the last two parts of the URL
        return "/".join(take_text(entry, "coco_url", where).rsplit("/", 2)[-2:])
    return take_text(entry, "file_name", where)


def images_of(path: str) -> Iterator[tuple[str, CocoImage]]:
    """(where, image) of a COCO file, in the file's order."""
    data = load_json(path)
    if not isinstance(data, Mapping):
        raise wrong(path, type(data).__name__, "an object with images, annotations and categories")
    categories = _category_names(data, path)
    objects: dict[Any, list[CocoObject]] = {}
    for where, value in take_list(data, "annotations", path):
        if isinstance(value, Mapping) and value.get("iscrowd"):
            continue
        category = take_int(value, "category_id", where)
        if category not in categories:
            raise wrong(f"{where}.category_id", shown(category), "the id of a category of the file")
        box = take_xywh(value, "bbox", where)
        objects.setdefault(take_id(value, "image_id", where), []).append(
            CocoObject(str(take_id(value, "id", where)), box, categories[category])
        )
    for where, value in take_list(data, "images", path):
        width, height = take_size(value, where)
        yield (
            where,
            CocoImage(
                _file_name(value, where), width, height, tuple(objects.pop(take_id(value, "id", where), []))
            ),
        )
    if objects:
        raise wrong(
            f"{path}.annotations", f"image_id {shown(next(iter(objects)))}", "the id of an image of the file"
        )


def _whole(source: Source, name: str, default: int) -> int:
    value = source.options.get(name, default)
    if not isinstance(value, int) or value < 0:
        raise ConfigError(f"reader.{name}: found {value!r}, expected a whole number")
    return value


def _regions(source: Source) -> Iterator[Item]:
    config = RegionsConfig(
        min_objects=_whole(source, "min_objects", 5), regions_per_image=_whole(source, "regions_per_image", 1)
    )
    seed = _whole(source, "seed", 0)
    for where, image in images_of(source.file()):
        record = ImageRecord(image.name, image.name, image.width, image.height)
        annotations = [Annotation(o.annotation_id, image.name, o.names[0], o.box) for o in image.objects]
        for region in draw_regions(record, annotations, config, seed)[0]:
            yield Item(
                region.region_id,
                source.split,
                source.image(image.name, where),
                image.width,
                image.height,
                region=region.box,
                gt_boxes=tuple(o.box for o in region.objects),
                truth=tuple(o.category for o in region.objects),
            )


def _objects(source: Source) -> Iterator[Item]:
    for where, image in images_of(source.file()):
        if not image.objects:
            continue
        path = source.image(image.name, where)
        for o in image.objects:
            yield Item(
                o.annotation_id,
                source.split,
                path,
                image.width,
                image.height,
                region=o.box,
                gt=o.box,
                truth=o.names,
            )


def read(source: Source) -> Iterator[Item]:
    """Drawn regions for `region_description`, else one item per object, in order of images."""
    drawn = source.protocol == "region_description"
    source.check_options(("min_objects", "regions_per_image", "seed") if drawn else ())
    return _regions(source) if drawn else _objects(source)
