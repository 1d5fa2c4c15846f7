"""Annotations in the form people have them -> one index that DuckDB can query (stage `index`).

In: a `DataConfig`. Out: a folder with images.parquet, annotations.parquet, categories.parquet and
rejected.parquet (what was set aside, and why). An image's id is its POSIX path below the image root; an
annotation's id is its ordinal among all annotations of its image in source order (also those set aside), as
text. Boxes are xyxy float pixels of the stored image, exactly as the source says them: nothing is clipped or
rounded. Reading is streamed and sorting goes through files, so that memory does not grow with the boxes
(images cost about 100 bytes each).
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import fsspec

from spr.data.config import DataConfig
from spr.data.finish import Counts, finish
from spr.data.images import open_store
from spr.data.query import POINTER, TABLES, Index, open_index
from spr.data.read import read_all
from spr.data.spool import Spool
from spr.errors import DataError

__all__ = ["Index", "IndexSummary", "build_index", "open_index"]
IndexSummary = Counts


def build_index(config: DataConfig, out_path: str, progress: Callable[[int], object] = int) -> IndexSummary:
    """Read the annotations and write the index into `out_path` (or into the shared cache, with a pointer in
    `out_path`).

    `progress` is told how many more boxes were read. Raises DataError when a file is missing or nothing
    usable is left.
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
        files += [
            [p, (info := fs.info(p)).get("size"), str(info.get("mtime", info.get("LastModified", "")))]
            for p in found
        ]
    return hashlib.sha256(json.dumps([settings, files], sort_keys=True, default=str).encode()).hexdigest()[
        :16
    ]
