"""The published file forms by name: a plain mapping."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import TypeAlias

from spr.errors import ConfigError, DataError, is_text, shown, unknown_name
from spr.evaluation.config import BenchmarkConfig
from spr.evaluation.items import Item
from spr.evaluation.readers import (
    coco,
    flickr30k,
    hf,
    jsonl,
    many,
    mdetr,
    questions,
    refer,
    regions_json,
    visual_genome,
)
from spr.evaluation.readers.base import Source

Reader: TypeAlias = Callable[[Source], Iterator[Item]]
FORMATS: Mapping[str, Reader] = {
    "mdetr": mdetr.read,
    "refer": refer.read,
    "qwen_jsonl": jsonl.read_qwen,
    "shikra_jsonl": jsonl.read_shikra,
    "hf_refcoco": hf.read_hf_refcoco,
    "lmms_refcoco": hf.read_lmms_refcoco,
    "ref_l4": hf.read_ref_l4,
    "refcoco_m": hf.read_refcoco_m,
    "flickr30k": flickr30k.read_entities,
    "flickr30k_mdetr": flickr30k.read_mdetr,
    "humanref": many.read_humanref,
    "grefcoco": many.read_grefcoco,
    "visual_genome": visual_genome.read,
    "regions_json": regions_json.read,
    "coco": coco.read,
    "pope": questions.read_pope,
    "ferret_lvis": questions.read_ferret_lvis,
}


def read_benchmark(
    config: BenchmarkConfig, size_of: Callable[[str], tuple[int, int]] | None = None
) -> tuple[list[Item], list[str]]:
    """(items in order of files, notes). Raises ConfigError or DataError, one line each."""
    where = f"evaluate.benchmarks[{config.name}]"
    if config.format not in FORMATS:
        raise ConfigError(f"{where}.format: " + unknown_name("format", config.format, FORMATS))
    if bool(config.path) == bool(config.paths):
        raise ConfigError(
            f"{where}: found {'both' if config.path else 'neither'} path and paths, expected one of them"
        )
    if config.limit is not None and config.limit < 1:
        raise ConfigError(f"{where}.limit: found {config.limit}, expected at least 1")
    items: list[Item] = []
    notes: list[str] = []
    for split, path in (dict(config.paths) or {config.split: config.path}).items():
        source = Source(
            path, config.images, split, config.reader, config.protocol, config.check_images, size_of, notes
        )
        found = FORMATS[config.format](source)
        items += islice(found, None if config.limit is None else config.limit - len(items))
    if not items:
        raise DataError(
            f"{', '.join(config.paths.values()) or config.path}: found no item for {config.protocol!r}, "
            "expected at least one"
        )
    _check_texts(items, where)
    _check_ids(items, where)
    return items, notes


def _check_texts(items: list[Item], where: str) -> None:
    """Raise DataError for a text that cannot be written down again."""
    for item in items:
        texts = (item.item_id, item.split, item.image, item.expression, item.group, *item.truth)
        odd = next((text for text in (*texts, *item.gt_phrases) if not is_text(text)), None)
        if odd is not None:
            raise DataError(f"{where}: item {shown(item.item_id)}: found the text {odd!a}, expected UTF-8")


def _check_ids(items: list[Item], where: str) -> None:
    seen: set[tuple[str, str]] = set()
    for item in items:
        if (item.split, item.item_id) in seen:
            raise DataError(
                f"{where}: found item {item.item_id!r} of split {item.split!r} twice, expected unique ids"
            )
        seen.add((item.split, item.item_id))
