"""`spr index --check`: open every image of the index, compare it with its annotation, and say what was found.

In: a run whose index is built. Out: a summary for people, also written to index/check/summary.txt;
index/check holds a row per usable image and, in dropped/, one per image that cannot be used, with its reason.
The images are decoded in several processes; a check that is stopped goes on where it was.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from spr.data.config import DataConfig
from spr.data.images import open_store
from spr.data.index import open_index
from spr.errors import DataError
from spr.run.wiring import Config
from spr.store.executor import Stage, run_stage
from spr.store.folders import DROPPED, INDEX, STAGE_FILE
from spr.store.identity import Origin
from spr.store.progress import Progress, counted
from spr.store.run import Run
from spr.types import Dropped, ImageRecord, ShardResult

_EXAMPLES = 2  # shown per reason


@dataclass(frozen=True, slots=True)
class Checked:
    """What the check found: a summary for people, and how many images cannot be used."""

    text: str
    set_aside: int


def check_run(config: Config, progress: Progress) -> Checked:
    """Check the images that `data.where` lets pass. Raises DataError when none can be used."""
    run, folder = Run(config.run), (INDEX, "check")
    index = open_index(run.path(INDEX))
    images = index.images(config.data.where)
    if run.exists(*folder, STAGE_FILE):  # finished before; files may have changed since
        run.remove(*folder)
    runtime = config.runtime
    if runtime.workers == 1 and len(images) > runtime.shard_size:
        runtime = replace(runtime, workers=os.cpu_count() or 1)
    settings = {"data": {"where": config.data.where, "accept": config.data.accept}}
    origin = Origin("check", settings, {"index": run.finished(INDEX).digest})
    stage = Stage(origin, folder, ImageRecord, partial(_work, config.data), name=lambda image: image.image_id)
    summary = run_stage(run, stage, images, runtime, progress)
    text = _summary(config.data, run, index.rejected(), summary.rows, summary.dropped, _examples(run, folder))
    run.write_bytes(text.encode(), *folder, "summary.txt")
    if summary.rows == 0:
        reasons = counted(summary.dropped) or "none passes data.where"
        raise DataError(f"{config.data.images}: found no usable image, expected some ({reasons})")
    return Checked(text, sum(summary.dropped.values()))


def _work(data: DataConfig) -> Callable[[Sequence[ImageRecord]], ShardResult[ImageRecord]]:
    store = open_store(data.images)

    def work(images: Sequence[ImageRecord]) -> ShardResult[ImageRecord]:
        problems = [store.problem(i.path, i.width, i.height, data.accept) for i in images]
        good = [i for i, p in zip(images, problems, strict=True) if p is None]
        bad = [
            Dropped(i.image_id, p.reason, p.detail)
            for i, p in zip(images, problems, strict=True)
            if p is not None
        ]
        return ShardResult(good, bad)

    return work


def _examples(run: Run, folder: tuple[str, ...]) -> dict[str, list[Dropped]]:
    """The first few images of each reason."""
    found: dict[str, list[Dropped]] = {}
    for row in run.dropped(*folder):
        if len(found.setdefault(row.reason, [])) < _EXAMPLES:
            found[row.reason].append(row)
    return found


def _summary(
    data: DataConfig,
    run: Run,
    at_index: Mapping[str, int],
    usable: int,
    bad: Mapping[str, int],
    examples: Mapping[str, Sequence[Dropped]],
) -> str:
    total = usable + sum(bad.values())
    lines = [
        f"Images: {data.images}",
        f"  checked   {total:>10,}{f'   (where {data.where})' if data.where else ''}",
    ]
    lines += [f"  usable    {usable:>10,}", f"  set aside {total - usable:>10,}"]
    for reason, count in _most_first(bad):
        lines.append(f"    {reason:<26}{count:>10,}")
        lines += [f"      {d.item_id}: {d.detail}" for d in examples.get(reason, ())]
    lines += [
        "",
        f"Annotations: {', '.join(data.sources)}",
        f"  set aside {sum(at_index.values()):>10,}   (when the index was built)",
    ]
    lines += [f"    {reason:<26}{count:>10,}" for reason, count in _most_first(at_index)]
    lines += [
        "",
        f"Each item with its reason: {run.path(INDEX, 'check', DROPPED)} and "
        f"{run.path(INDEX, 'rejected.parquet')}",
        "",
    ]
    return "\n".join(lines)


def _most_first(counts: Mapping[str, int]) -> list[tuple[str, Any]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))
