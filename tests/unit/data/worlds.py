"""Small data sets for the tests of this folder: real files, written where a test asks for them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from spr.data.config import DataConfig
from spr.data.index import Index, IndexSummary, build_index, open_index
from spr.stages.regions import RegionsConfig, draw_regions
from spr.types import Dropped, ImageRecord, Region, ShardResult

CATEGORIES = [{"id": 1, "name": "cat"}, {"id": 7, "name": "dog"}]


def picture(path: Path, width: int = 64, height: int = 48, mode: str = "RGB", **options: Any) -> Path:
    """A smooth picture on disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    grey = Image.linear_gradient("L").resize((width, height))
    grey.convert(mode).save(path, **options)
    return path


def image(number: int, width: int = 64, height: int = 48, name: str | None = None) -> dict[str, Any]:
    return {"id": number, "file_name": name or f"{number}.png", "width": width, "height": height}


def box(number: int, of: int, xywh: Sequence[float], category: int = 1, **more: Any) -> dict[str, Any]:
    return {"id": number, "image_id": of, "category_id": category, "bbox": list(xywh), **more}


def coco(
    folder: Path,
    images: Sequence[Mapping[str, Any]],
    annotations: Sequence[Any],
    categories: Sequence[Any] = CATEGORIES,
) -> DataConfig:
    """A COCO file beside an empty image folder. NaN is written as Python writes it."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    (folder / "boxes.json").write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": categories}), encoding="utf-8"
    )
    return DataConfig("coco", str(folder / "boxes.json"), str(folder / "images"))


def index(
    config: DataConfig, out: Path, progress: Callable[[int], object] = int
) -> tuple[IndexSummary, Index]:
    """Build and open."""
    summary = build_index(config, str(out), progress)
    return summary, open_index(str(out))


def set_aside(found: Index) -> list[Dropped]:
    """The rejected rows of an index."""
    with found.connect() as con:
        return [Dropped(*row) for row in con.sql("SELECT item_id, reason, detail FROM rejected").fetchall()]


def moved(config: DataConfig, **changes: Any) -> DataConfig:
    """The configuration with some fields changed."""
    return replace(config, **changes)


def regions_work(path: str, config: RegionsConfig) -> Callable[[Sequence[ImageRecord]], ShardResult[Region]]:
    """The work of stage `regions` over an index, light enough for a spawned process."""
    found = open_index(path)

    def work(images: Sequence[ImageRecord]) -> ShardResult[Region]:
        of = found.annotations_of([i.image_id for i in images])
        results = [draw_regions(i, of[i.image_id], config, 7) for i in images]
        return ShardResult([r for rows, _ in results for r in rows], [d for _, lost in results for d in lost])

    return work
