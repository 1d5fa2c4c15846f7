"""The embedded world as the files that real data sets are made of, so that the pipeline reads it through the
readers of COCO and RefCOCO.

In: a folder, a split, a count. Out, per split:

    images/000000.jpg …              JPEG, quality 95, no chroma subsampling
    instances.json                   COCO instances: bbox is [x, y, width, height] in pixels
    finetune_refcoco_SPLIT.json      MDETR / Ferret form of RefCOCO: one "image" per expression, `caption`,
                                     `original_id`
    regions.json                     regions with their objects (grounded region description;
                                     spr.evaluation.readers)
    descriptions.json                a written description of each region, with boxes in COCO's convention
                                     (what an annotator would say)

A split is written once: a finished one (it holds `done.json` of the same recipe) is left as it is.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spr.boxes import to_xywh
from spr.errors import DataError, unknown_name
from spr.scenes.language import description, expressions, plain
from spr.scenes.world import NOUNS, SPLITS, Thing, scene_of
from spr.stages.prompts import with_article
from spr.stages.regions import RegionsConfig, draw_regions
from spr.store.files import write_whole
from spr.types import Annotation, Box, ImageRecord, Region

EXPRESSIONS = 3  # draws per image; equal ones count once
VERSION = 3  # of what is written; another version is another world
CATEGORY: Mapping[str, int] = {noun: k + 1 for k, noun in enumerate(NOUNS)}
_CATEGORIES = [{"id": k, "name": noun} for noun, k in CATEGORY.items()]


@dataclass(frozen=True, slots=True)
class Drawn:
    """What the files say about a scene: its size in pixels and its things."""

    width: int
    height: int
    things: tuple[Thing, ...]


@dataclass(frozen=True, slots=True)
class SplitFiles:
    """Where a split lies."""

    folder: Path
    name: str

    @property
    def images(self) -> Path:
        """The folder of images."""
        return self.folder / "images"

    @property
    def coco(self) -> Path:
        """COCO instances."""
        return self.folder / "instances.json"

    @property
    def expressions(self) -> Path:
        """Referring expressions in the MDETR form."""
        return self.folder / f"finetune_refcoco_{self.name}.json"

    @property
    def regions(self) -> Path:
        """Regions for grounded description."""
        return self.folder / "regions.json"


def _xywh(box: Box) -> list[float]:
    row: list[float] = to_xywh([box])[0].tolist()
    return row


def image_name(index: int) -> str:
    """File name of scene `index`."""
    return f"{index:06d}.jpg"


def _coco(scenes: Sequence[Drawn]) -> dict[str, Any]:
    rows = [(i, t, _xywh(t.box)) for i, scene in enumerate(scenes) for t in scene.things]
    return {
        "info": {"description": "embedded world of spr; art: OpenMoji, CC BY-SA 4.0"},
        "images": [
            {"id": i, "file_name": image_name(i), "width": s.width, "height": s.height}
            for i, s in enumerate(scenes)
        ],
        "categories": _CATEGORIES,
        "annotations": [
            {
                "id": n,
                "image_id": i,
                "category_id": CATEGORY[t.noun],
                "bbox": xywh,
                "area": xywh[2] * xywh[3],
                "iscrowd": 0,
            }
            for n, (i, t, xywh) in enumerate(rows)
        ],
    }


def referring(split: str, index: int, things: Sequence[Thing]) -> list[tuple[str, Thing]]:
    """The expressions of a scene of a split, each with the thing that it means."""
    return expressions(things, EXPRESSIONS, random.Random(f"expressions/{SPLITS[split].seed}/{index}"))


def _mdetr(scenes: Sequence[Drawn], split: str) -> dict[str, Any]:
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for i, scene in enumerate(scenes):
        size = {"file_name": image_name(i), "width": scene.width, "height": scene.height, "original_id": i}
        for text, thing in referring(split, i, scene.things):
            number, xywh = len(images), _xywh(thing.box)
            images.append({"id": number, **size, "caption": text, "dataset_name": "refcoco"})
            row = {
                "id": number,
                "image_id": number,
                "category_id": CATEGORY[thing.noun],
                "bbox": xywh,
                "area": xywh[2] * xywh[3],
                "iscrowd": 0,
            }
            annotations.append({**row, "tokens": []})
    return {"images": images, "annotations": annotations, "categories": _CATEGORIES}


def _regions(scenes: Sequence[Drawn], seed: int) -> list[Region]:
    found: list[Region] = []
    for i, scene in enumerate(scenes):
        record = ImageRecord(image_name(i), image_name(i), scene.width, scene.height)
        annotations = [Annotation(str(k), record.image_id, t.noun, t.box) for k, t in enumerate(scene.things)]
        found += draw_regions(record, annotations, RegionsConfig(), seed)[0]
    return found


def _described(region: Region) -> dict[str, Any]:
    parts = description([Thing(o.category, o.box) for o in region.objects])
    phrases, length = [], 0
    for part in parts:
        text = part if isinstance(part, str) else part[0]
        if not isinstance(part, str):
            phrases.append({"start": length, "end": length + len(text), "bbox": _xywh(part[1])})
        length += len(text)
    return {"image": region.image_id, "region": _xywh(region.box), "text": plain(parts), "phrases": phrases}


def write_split(
    folder: Path, split: str, count: int, tick: Callable[[int], None] = lambda n: None
) -> SplitFiles:
    """Write a split, unless the same is there already. `tick` hears how many more scenes are drawn. Raises
    DataError when another one is there.
    """
    if split not in SPLITS:
        raise DataError(unknown_name("split", split, SPLITS))
    files = SplitFiles(folder / split, split)
    made = {"split": split, "count": count, "version": VERSION}
    done = files.folder / "done.json"
    if done.exists():
        if json.loads(done.read_text(encoding="utf-8")) != made:
            raise DataError(
                f"{done}: found another world, expected {made}; remove the folder or choose another"
            )
        return files
    files.images.mkdir(parents=True, exist_ok=True)
    scenes = []
    for i in range(count):
        scene = scene_of(split, i)
        scene.image.save(files.images / image_name(i), quality=95, subsampling=0)
        scenes.append(Drawn(scene.image.width, scene.image.height, scene.things))
        tick(1)
    regions = _regions(scenes, SPLITS[split].seed)
    _write(files.coco, _coco(scenes))
    _write(files.expressions, _mdetr(scenes, split))
    _write(files.regions, [region_row(r) for r in regions])
    _write(files.folder / "descriptions.json", [_described(r) for r in regions])
    _write(done, made)
    return files


def region_row(region: Region) -> dict[str, Any]:
    """A region as a row of regions.json (xyxy pixels; the form is that of
    spr.evaluation.readers.regions_json).
    """
    objects = [
        {"category": o.category, "phrase": with_article(o.category), "box": list(o.box)}
        for o in region.objects
    ]
    return {
        "image": region.image,
        "width": region.width,
        "height": region.height,
        "box": list(region.box),
        "objects": objects,
    }


def _write(path: Path, value: object) -> None:
    write_whole(path, json.dumps(value))
