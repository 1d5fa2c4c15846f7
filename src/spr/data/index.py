"""Annotations in the form people have them -> one index that DuckDB can query (stage `index`).

In: a `DataConfig`. Out: a folder with images.parquet, annotations.parquet, categories.parquet and rejected.parquet (what was set aside, and why).
An image's id is its POSIX path below the image root; an annotation's id is its ordinal among all annotations of its image in source order (also
those set aside), as text. Boxes are xyxy float pixels of the stored image, exactly as the source says them: nothing is clipped or rounded.
Reading is streamed and sorting goes through files, so that memory does not grow with the boxes (images cost about 100 bytes each).
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal

import fsspec

from spr.data.finish import Counts, finish
from spr.data.hf import HFColumns
from spr.data.images import Oddity, open_store
from spr.data.query import POINTER, TABLES, Index, open_index
from spr.data.read import read_all
from spr.data.rows import ROWS
from spr.data.spool import Spool
from spr.errors import DataError

__all__ = ["DataConfig", "Index", "IndexSummary", "build_index", "open_index"]
Format = Literal["coco", "open_images", "voc", "yolo", "visual_genome", "hf"]
IndexSummary = Counts


@dataclass(frozen=True, slots=True)
class DataConfig:
    """A box-annotated data set. docs/data.md has the snippet for each one we know."""

    format: Format
    annotations: str | tuple[str, ...]  # file, folder, or several of them
    images: str = ""  # image root: folder, .zip, .tar, or URL (s3://, gs://, hf://); empty with hf: the images in its rows
    categories: str | None = None  # names of categories, where the annotations have numbers or labels (yolo, open_images, hf)
    where: str = ""  # which images: a DuckDB expression, e.g. objects >= 5 (query.py)
    strip_folders: int = 0  # leading folders cut off the file names of the annotations
    max_outside: float = 1.0  # ours: pixels by which a box may stick out of its image (rounding of annotation tools)
    accept: tuple[Oddity, ...] = ()  # images that may be converted to RGB with a loss: cmyk, palette, sixteen_bit, animated
    cache: str | None = None  # folder in which indices are shared between runs
    hf: HFColumns = field(default_factory=HFColumns)

    def __post_init__(self) -> None:
        if self.format == "hf" and not self.images:
            object.__setattr__(self, "images", ROWS + self.sources[0])

    @property
    def sources(self) -> tuple[str, ...]:
        """The annotation files or folders."""
        return (self.annotations,) if isinstance(self.annotations, str) else tuple(self.annotations)

    def resolved(self, path: Callable[[str], str]) -> DataConfig:
        """The same with every path put through `path`."""
        images = ROWS + path(self.images.removeprefix(ROWS)) if self.images.startswith(ROWS) else path(self.images)
        names, cache = (path(p) if p else None for p in (self.categories, self.cache))
        return replace(self, annotations=tuple(path(p) for p in self.sources), images=images, categories=names, cache=cache)


def build_index(config: DataConfig, out_path: str, progress: Callable[[int], object] = int) -> IndexSummary:
    """Read the annotations and write the index into `out_path` (or into the shared cache, with a pointer in `out_path`).

    `progress` is told how many more boxes were read. Raises DataError when a file is missing or nothing usable is left.
    """
    if config.cache is None:
        return _build(config, out_path, progress)
    location = f"{config.cache.rstrip('/')}/{_cache_key(config)}"
    fs, base = fsspec.core.url_to_fs(location)
    if fs.exists(f"{base}/counts.json"):
        summary = Counts(**json.loads(fs.cat_file(f"{base}/counts.json")))
    else:
        summary = _build(config, location, progress)
        fs.pipe_file(f"{base}/counts.json", json.dumps(asdict(summary)).encode())
    out, folder = fsspec.core.url_to_fs(out_path)
    out.makedirs(folder, exist_ok=True)
    out.pipe_file(f"{folder}/{POINTER}", json.dumps({"location": location}).encode())
    return summary


def _build(config: DataConfig, out_path: str, progress: Callable[[int], object]) -> IndexSummary:
    store = open_store(config.images)
    fs, base = fsspec.core.url_to_fs(out_path)
    fs.makedirs(base, exist_ok=True)
    local = "file" in ([fs.protocol] if isinstance(fs.protocol, str) else fs.protocol)
    with tempfile.TemporaryDirectory(prefix=".building-", dir=base if local else None) as work:
        spool = Spool(Path(work) / "spool")
        try:
            read_all(config, store, spool, progress)
        finally:
            spool.close()
        out = Path(work) / "out"
        out.mkdir()
        summary = finish(spool, out, config.max_outside)
        if summary.images == 0 or summary.annotations == 0:
            raise DataError(_nothing_left(config, summary, spool.broken[0].detail if spool.broken else ""))
        for table in TABLES:
            if local:
                shutil.move(out / f"{table}.parquet", f"{base}/{table}.parquet")
            else:
                fs.put_file(str(out / f"{table}.parquet"), f"{base}/{table}.parquet")
    return summary


def _nothing_left(config: DataConfig, summary: IndexSummary, broken: str) -> str:
    reasons = ", ".join(f"{reason}: {n}" for reason, n in summary.rejected.items()) or "the files hold none"
    found = f"{summary.images} usable images and {summary.annotations} usable boxes"
    return f"{', '.join(config.sources)}: found {found}, expected some ({broken or reasons})"


def _cache_key(config: DataConfig) -> str:
    """Names the index of these annotation files as they are now (size and time), read with these settings."""
    settings = {k: v for k, v in asdict(config).items() if k not in ("where", "accept", "cache")}
    files = []
    for source in (*config.sources, *([config.categories] if config.categories else [])):
        fs, path = fsspec.core.url_to_fs(source)
        found = sorted(fs.find(path)) if fs.exists(path) else []
        files += [[p, (info := fs.info(p)).get("size"), str(info.get("mtime", info.get("LastModified", "")))] for p in found]
    return hashlib.sha256(json.dumps([settings, files], sort_keys=True, default=str).encode()).hexdigest()[:16]
