"""The section `data` of the configuration: which annotations, in which form, and where the images lie."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

from spr.data.images import Oddity
from spr.data.rows import ROWS
from spr.ranges import Amount, Range, check_ranges

Format = Literal["coco", "open_images", "voc", "yolo", "visual_genome", "hf"]
BoxForm = Literal["xywh", "xyxy", "xyxy_unit", "cxcywh_unit"]


@dataclass(frozen=True, slots=True)
class HFColumns:
    """Where a row keeps its boxes. `objects` "" means that bbox and category are columns of their own."""

    objects: str = "objects"
    bbox: str = "bbox"
    category: str = "category"
    boxes: BoxForm = "xywh"


@dataclass(frozen=True, slots=True)
class DataConfig:
    """A box-annotated data set. Each reader's docstring says which files it reads, and how boxes are."""

    format: Format
    annotations: str | tuple[str, ...]  # file, folder, or several of them
    # image root: folder, .zip, .tar, or URL (s3://, gs://, hf://); empty with hf: the images in its rows
    images: str = ""
    categories: str | None = (
        None  # names of categories, where the annotations have numbers or labels (yolo, open_images, hf)
    )
    where: str = ""  # which images: a DuckDB expression, e.g. objects >= 5 (spr.data.query)
    strip_folders: Annotated[int, Range(0)] = 0  # leading folders cut off the file names of the annotations
    # ours: pixels by which a box may stick out of its image (rounding of annotation tools)
    max_outside: Amount = 1.0
    accept: tuple[
        Oddity, ...
    ] = ()  # images that may be converted to RGB with a loss: cmyk, palette, sixteen_bit, animated
    cache: str | None = None  # folder in which indices are shared between runs
    hf: HFColumns = field(default_factory=HFColumns)

    def __post_init__(self) -> None:
        """Raise ConfigError for values that cannot be; rows of hf bring their own images."""
        check_ranges(self, "data")
        if self.format == "hf" and not self.images:
            object.__setattr__(self, "images", ROWS + self.sources[0])

    @property
    def sources(self) -> tuple[str, ...]:
        """The annotation files or folders."""
        return (self.annotations,) if isinstance(self.annotations, str) else tuple(self.annotations)

    def resolved(self, path: Callable[[str], str]) -> DataConfig:
        """The same with every path put through `path`."""
        images = (
            ROWS + path(self.images.removeprefix(ROWS)) if self.images.startswith(ROWS) else path(self.images)
        )
        names, cache = (path(p) if p else None for p in (self.categories, self.cache))
        return replace(
            self,
            annotations=tuple(path(p) for p in self.sources),
            images=images,
            categories=names,
            cache=cache,
        )
