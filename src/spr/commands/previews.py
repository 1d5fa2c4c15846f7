"""Pictures of a stage's result: one HTML file without anything outside of it.

`preview_regions`: random regions of a run on their images, objects labelled, what was dropped counted by
reason. The choice is a hash of the region's id, so that the same run always shows the same regions.
"""

from __future__ import annotations

import base64
import hashlib
import heapq
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from spr.data.images import ImageStore
from spr.data.index import open_index
from spr.errors import ImageError
from spr.report.page import render
from spr.run.wiring import Config, image_store
from spr.store.folders import INDEX, REGIONS
from spr.store.run import Run
from spr.types import Box, Region

SHOWN = 50  # regions
_SIDE = 640  # pixels of the longer side of a picture in the page
_LABEL = 22  # characters of a label in the picture; the whole name is in the list below it


@dataclass(frozen=True, slots=True)
class _Shape:
    """A box in the picture with its label, all in pixels of the original image."""

    name: str
    label: str
    hue: int
    x: float
    y: float
    width: float
    height: float
    label_x: float
    label_y: float
    label_width: float
    seed: bool


@dataclass(frozen=True, slots=True)
class _Card:
    """One region of the page. `picture` is a data URL, None when the image cannot be used (`problem` says
    why).
    """

    region: Region
    picture: str | None
    problem: str
    text_size: float
    region_shape: _Shape
    objects: tuple[_Shape, ...]


def preview_regions(config: Config) -> str:
    """The page of a run whose regions are drawn. Raises DataError when they are not."""
    run = Run(config.run)
    summary = run.finished(REGIONS)
    chosen = heapq.nsmallest(
        SHOWN, run.iter_stage(Region, REGIONS), key=lambda r: hashlib.sha256(r.region_id.encode()).digest()
    )
    store = image_store(config)
    settings = config.regions
    return render(
        Path(__file__).with_name("previews.html.j2"),
        f"Regions of {config.run}",
        images=config.data.images,
        where=config.data.where,
        rows=summary.rows,
        drawn=[
            ("regions", summary.rows),
            ("objects in a region, at least", settings.min_objects),
            ("regions per image, at most", settings.regions_per_image),
            ("redrawn from IoU", settings.redraw_iou),
            ("seed", config.seed),
        ],
        cards=[_card(region, store) for region in chosen],
        dropped=_most_first(summary.dropped),
        rejected=_most_first(open_index(run.path(INDEX)).rejected()),
    )


def _card(region: Region, store: ImageStore) -> _Card:
    try:
        picture, problem = _data_url(store.load(region.image)), ""
    except ImageError as e:
        picture, problem = None, f"{e.reason}: {e.detail}"
    size = max(region.width, region.height) / 42
    objects = tuple(
        _shape(o.category, o.box, region, size, o.annotation_id == region.seed_annotation_id)
        for o in region.objects
    )
    return _Card(region, picture, problem, size, _shape("region", region.box, region, size, False), objects)


def _shape(name: str, box: Box, region: Region, size: float, seed: bool) -> _Shape:
    """A box with its label above it, or inside where there is no room; never outside the image."""
    x1, y1, x2, y2 = box
    label = name if len(name) <= _LABEL else f"{name[: _LABEL - 1]}…"
    width, height = size * (0.62 * len(label) + 0.6), size * 1.35
    left = min(max(x1, 0.0), max(0.0, region.width - width))
    top = y1 - height if y1 >= height else max(y1, 0.0)
    hue = hashlib.sha256(name.encode()).digest()[0] * 360 // 256
    return _Shape(name, label, hue, x1, y1, x2 - x1, y2 - y1, left, top, width, seed)


def _data_url(image: Image.Image) -> str:
    """The picture as a JPEG of at most `_SIDE` pixels inside the page."""
    small = image.copy()
    small.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=84)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _most_first(counts: Mapping[str, int]) -> Sequence[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))
