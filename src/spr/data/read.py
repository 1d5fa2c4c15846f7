"""Which reader reads which format. A reader pours images and boxes into a spool; its docstring states the box
convention of its format.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from spr.data.coco import read_coco
from spr.data.config import DataConfig
from spr.data.files import Source, category_names, category_table, open_source
from spr.data.hf import read_hf
from spr.data.images import ImageStore
from spr.data.open_images import read_open_images
from spr.data.spool import Spool
from spr.data.visual_genome import read_visual_genome
from spr.data.voc import read_voc
from spr.data.yolo import read_yolo
from spr.errors import DataError
from spr.store.digests import file_digest, files_digest

# What is read of a folder of annotations, by ending. What tools leave beside it (YOLO's list of classes,
# caches of the `datasets` package) is no annotation.
ENDINGS: Mapping[str, tuple[str, ...]] = {
    "voc": (".xml",),
    "yolo": (".txt",),
    "hf": (".parquet", ".arrow", "metadata.jsonl"),
}


def input_digests(config: DataConfig) -> dict[str, str]:
    """Digests of what the annotation files and the list of categories say. Raises DataError when one is not
    there.
    """
    sources = [open_source(name, config.format) for name in config.sources]
    found = {}
    for number, source in enumerate(sources):
        files = source.files(*ENDINGS.get(config.format, ("",)))
        kept = [f for f in files if not re.match(r"(classes\.txt|cache-.*)$", f.rpartition("/")[2])]
        name = "annotations" if len(sources) == 1 else f"annotations.{number}"
        found[name] = files_digest(source.fs, source.path, kept)
    if config.categories:
        found["categories"] = file_digest(config.categories)
    return found


def read_all(config: DataConfig, store: ImageStore, spool: Spool, progress: Callable[[int], object]) -> None:
    """Pour every annotation file of the configuration into the spool. `progress` is told how many more boxes
    were read.
    """
    sources = [open_source(name, config.format) for name in config.sources]
    if config.format in ("coco", "open_images", "visual_genome"):
        for source in sources:
            if source.is_folder():
                raise DataError(
                    f"data.annotations: {source.name}: found a folder, expected a file in {config.format} "
                    "form"
                )
    if config.format == "visual_genome":
        read_visual_genome(sources, spool, store, progress)
        return
    for number, source in enumerate(sources):
        spool.file = number
        _read_one(config, source, store, spool, progress)


def _read_one(
    config: DataConfig, source: Source, store: ImageStore, spool: Spool, progress: Callable[[int], object]
) -> None:
    match config.format:
        case "coco":
            read_coco(source, spool, store, config.strip_folders, progress)
        case "open_images":
            read_open_images(
                source,
                category_table(config.categories) if config.categories else None,
                spool,
                store,
                progress,
            )
        case "voc":
            read_voc(source, spool, progress)
        case "yolo":
            if config.categories is None:
                raise DataError(
                    "data.categories: found nothing, expected the names of YOLO's classes (classes.txt, or "
                    "data.yaml with `names:`)"
                )
            read_yolo(source, category_names(config.categories), spool, store, progress)
        case "hf":
            read_hf(
                source,
                config.hf,
                category_names(config.categories) if config.categories else (),
                spool,
                store,
                progress,
            )
        case other:
            raise DataError(f"data.format: found {other!r}")
