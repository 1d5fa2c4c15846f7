"""Annotations in the form people have them -> one index that DuckDB can query (stage `index`).

In: a `DataConfig`. Out: a folder with images.parquet, annotations.parquet, categories.parquet and
rejected.parquet (what was set aside, and why). An image's id is its POSIX path below the image root; an
annotation's id is its ordinal among all annotations of its image in source order (also those set aside), as
text. Boxes are xyxy float pixels of the stored image, exactly as the source says them: nothing is clipped or
rounded. Reading is streamed and sorting goes through files, so that memory does not grow with the boxes
(images cost about 100 bytes each).
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import fsspec
from fsspec.implementations.local import LocalFileSystem

from spr.data.config import DataConfig
from spr.data.finish import Counts, finish
from spr.data.images import open_store
from spr.data.query import POINTER, Index, open_index, place_of
from spr.data.read import read_all
from spr.data.spool import Spool
from spr.data.where import TABLES
from spr.errors import DataError
from spr.store.digests import file_digest
from spr.store.files import BUILDING, move_whole
from spr.store.lease import sole_writer
from spr.store.run import Run
from spr.types import StageFile

__all__ = ["Index", "IndexSummary", "build_index", "open_index"]
IndexSummary = Counts
COUNTS = "counts.json"  # of a finished index in a shared cache
WAIT = 3600.0  # ours: seconds to wait for another run that builds the same index in a shared cache


def build_index(
    config: DataConfig, out_path: str, progress: Callable[[int], object] = int, key: str = "index"
) -> IndexSummary:
    """Read the annotations and write the index into the folder `out_path`; or, with `data.cache`, into the
    folder `key` there, with a pointer in `out_path`: `key` names what the index is made from.

    `progress` is told how many more boxes were read. Raises DataError when a file is missing or nothing
    usable is left.
    """
    if config.cache is None:
        return _build(config, out_path, progress)
    place = Run(config.cache).path(key)
    cache = Run(place)
    with sole_writer(cache, patience=WAIT):
        found = cache.read_json(COUNTS)
        summary = _build(config, place, progress) if found is None else IndexSummary(**found)
        cache.keep_json(asdict(summary), COUNTS)
    Run(out_path).write_json({"location": place}, POINTER)
    return summary


def index_files(path: str) -> tuple[StageFile, ...]:
    """The tables of a finished index with their checksums, wherever they lie."""
    folder = place_of(path)
    return tuple(
        StageFile(f"{table}.parquet", None, file_digest(f"{folder}/{table}.parquet")) for table in TABLES
    )


def _build(config: DataConfig, out_path: str, progress: Callable[[int], object]) -> IndexSummary:
    store = open_store(config.images)
    fs, base = fsspec.core.url_to_fs(out_path)
    fs.makedirs(base, exist_ok=True)
    local = isinstance(fs, LocalFileSystem)
    with tempfile.TemporaryDirectory(prefix=BUILDING, dir=base if local else None) as work:
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
            file = f"{table}.parquet"
            if local:
                move_whole(out / file, Path(base) / file)
            else:
                fs.put_file(str(out / file), f"{base}/{file}")
    return summary


def _nothing_left(config: DataConfig, summary: IndexSummary, broken: str) -> str:
    reasons = ", ".join(f"{reason}: {n}" for reason, n in summary.rejected.items()) or "the files hold none"
    found = f"{summary.images} usable images and {summary.annotations} usable boxes"
    return f"{', '.join(config.sources)}: found {found}, expected some ({broken or reasons})"
