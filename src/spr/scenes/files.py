"""The embedded world as the files that real data sets are made of, so that the pipeline reads it through the readers of COCO and RefCOCO.

In: a folder, a split, a count, a seed. Out, per split:

    images/000000.jpg …              JPEG, quality 95, no chroma subsampling, 224 x 224
    instances.json                   COCO instances: bbox is [x, y, width, height] in pixels
    finetune_refcoco_SPLIT.json      MDETR / Ferret form of RefCOCO: one "image" per expression, `caption`, `original_id`
    regions.json                     regions with their objects (grounded region description; spr.evaluation.readers)
    descriptions.json                a written description of each region, with boxes in COCO's convention (what an annotator would say)

A split is written once: a finished one (it holds `done.json` of the same recipe) is left as it is.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from spr.boxes import to_xywh
from spr.errors import DataError
from spr.regions import RegionsConfig, draw_regions
from spr.scenes.language import description, expressions
from spr.scenes.world import NOUNS, SIZE, SPLITS, SceneObject, draw_scene
from spr.types import Annotation, Box, ImageRecord, Region

EXPRESSIONS = 5  # per image at most: a random choice of those that fit
VERSION = 2  # of what is written; another version is another world


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


def _annotations(objects: Sequence[SceneObject], name: str) -> list[Annotation]:
    return [Annotation(str(k), name, o.noun, o.box) for k, o in enumerate(objects)]


def _coco(scenes: Sequence[tuple[SceneObject, ...]]) -> dict[str, Any]:
    category = {noun: k + 1 for k, noun in enumerate(NOUNS)}
    rows = [(i, o) for i, objects in enumerate(scenes) for o in objects]
    return {
        "info": {"description": "embedded world of spr; art: OpenMoji, CC BY-SA 4.0"},
        "images": [{"id": i, "file_name": image_name(i), "width": SIZE, "height": SIZE} for i in range(len(scenes))],
        "categories": [{"id": k, "name": noun} for noun, k in category.items()],
        "annotations": [
            {"id": n, "image_id": i, "category_id": category[o.noun], "bbox": _xywh(o.box), "area": _xywh(o.box)[2] * _xywh(o.box)[3], "iscrowd": 0}
            for n, (i, o) in enumerate(rows)
        ],
    }


def referring(objects: Sequence[SceneObject], rng: np.random.Generator) -> list[tuple[str, SceneObject]]:
    """Up to EXPRESSIONS expressions of a scene with the object each fits, in random order."""
    fitting = [(e, o) for o, found in zip(objects, expressions(objects), strict=True) for e in found]
    return [fitting[int(k)] for k in rng.permutation(len(fitting))[:EXPRESSIONS]]


def _mdetr(scenes: Sequence[tuple[SceneObject, ...]], rng_of: Callable[[int], np.random.Generator]) -> dict[str, Any]:
    category = {noun: k + 1 for k, noun in enumerate(NOUNS)}
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for i, objects in enumerate(scenes):
        for expression, o in referring(objects, rng_of(i)):
            number = len(images)
            images.append(
                {
                    "id": number,
                    "file_name": image_name(i),
                    "width": SIZE,
                    "height": SIZE,
                    "original_id": i,
                    "caption": expression,
                    "dataset_name": "refcoco",
                }
            )
            x, y, w, h = _xywh(o.box)
            annotations.append(
                {"id": number, "image_id": number, "category_id": category[o.noun], "bbox": [x, y, w, h], "area": w * h, "iscrowd": 0, "tokens": []}
            )
    return {"images": images, "annotations": annotations, "categories": [{"id": k, "name": noun} for noun, k in category.items()]}


def _regions(scenes: Sequence[tuple[SceneObject, ...]], seed: int) -> list[Region]:
    found: list[Region] = []
    for i, objects in enumerate(scenes):
        record = ImageRecord(image_name(i), image_name(i), SIZE, SIZE)
        found += draw_regions(record, _annotations(objects, record.image_id), RegionsConfig(regions_per_image=1), seed)[0]
    return found


def _described(region: Region, objects: Sequence[SceneObject], rng: np.random.Generator) -> dict[str, Any]:
    parts = description(objects, region.box, rng)
    text, boxes = "", []
    for part in parts:
        phrase = part if isinstance(part, str) else part[0]
        if not isinstance(part, str):
            boxes.append({"start": len(text), "end": len(text) + len(phrase), "bbox": _xywh(part[1])})
        text += phrase
    return {"image": region.image_id, "region": _xywh(region.box), "text": text, "phrases": boxes}


def write_split(folder: Path, split: str, count: int, seed: int, tick: Callable[[int], None] = lambda n: None) -> SplitFiles:
    """Write a split, unless the same is there already. `tick` hears how many more scenes are drawn. Raises DataError when another one is there."""
    if split not in SPLITS:
        raise DataError(f"split: found {split!r}, expected one of {', '.join(SPLITS)}")
    files = SplitFiles(folder / split, split)
    made = {"split": split, "count": count, "seed": seed, "version": VERSION}
    done = files.folder / "done.json"
    if done.exists():
        if json.loads(done.read_text(encoding="utf-8")) != made:
            raise DataError(f"{done}: found another world, expected {made}; remove the folder or choose another")
        return files
    files.images.mkdir(parents=True, exist_ok=True)
    scenes = []
    for i in range(count):
        scene = draw_scene(seed, split, i)
        Image.fromarray(scene.pixels).save(files.images / image_name(i), quality=95, subsampling=0)
        scenes.append(scene.objects)
        tick(1)

    def rng_of(index: int) -> np.random.Generator:
        return np.random.default_rng([seed, SPLITS.index(split), index, 1])

    regions = _regions(scenes, seed)
    _write(files.coco, _coco(scenes))
    _write(files.expressions, _mdetr(scenes, rng_of))
    _write(files.regions, [region_row(r) for r in regions])
    _write(files.folder / "descriptions.json", [_described(r, scenes[int(r.image_id[:6])], rng_of(int(r.image_id[:6]))) for r in regions])
    _write(done, made)
    return files


def region_row(region: Region) -> dict[str, Any]:
    """A region as a row of regions.json (xyxy pixels; the form is that of spr.evaluation.readers.regions_json)."""
    objects = [{"category": o.category, "box": list(o.box)} for o in region.objects]
    return {"image": region.image, "width": region.width, "height": region.height, "box": list(region.box), "objects": objects}


def _write(path: Path, value: object) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(value), encoding="utf-8")
    os.replace(temporary, path)
