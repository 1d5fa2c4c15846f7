"""Run a stage: cut its items into shards, do the missing ones here or in worker processes, and write its
summary.

A shard's rows are a pure function of (stage configuration, items of the shard), so resuming is "do what has
no file", and one process or many give the same rows.
An item is kept (a row), dropped (with its reason), or to be tried again: what may come back is neither, its
shard is not written, and the stage ends unfinished.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Generic, TypeVar

from spr.errors import UnfinishedError
from spr.store.folders import CONFIG_FILE, STAGE_FILE, TIMES_FILE
from spr.store.identity import Origin, check_origin, digest_of, hold_origin, versions
from spr.store.lease import sole_writer
from spr.store.progress import Progress, counted
from spr.store.run import Run, shard_name
from spr.store.workers import RuntimeConfig, Work, Workers
from spr.types import Dropped, Findings, ShardResult, StageFile, StageSummary

In = TypeVar("In")
Out = TypeVar("Out")


@dataclass(frozen=True, slots=True)
class Stage(Generic[In, Out]):
    """What is to be done. `make_work` is called once per worker process and must be picklable."""

    origin: Origin  # everything its rows depend on; compared when the stage is resumed
    folder: tuple[str, ...]  # where its shards go, inside the run
    row: type[Out]
    make_work: Callable[[], Work[In, Out]]
    notes: Mapping[str, Any] = field(default_factory=dict)  # for people; not compared
    look: Callable[[Iterable[Out]], Findings] | None = None  # at all rows, once the stage is finished
    name: Callable[[In], str] = str  # of an item, for messages


def summary_of(
    origin: Origin, files: Sequence[StageFile], rows: int, dropped: Mapping[str, int], **more: Any
) -> StageSummary:
    """The summary of a stage with these files."""
    plain = origin.plain()
    digest = digest_of({**plain, "shards": [dataclasses.asdict(file) for file in files]})
    return StageSummary(
        origin.stage,
        digest,
        plain["config"],
        plain["inputs"],
        tuple(files),
        rows,
        dropped,
        versions(),
        **more,
    )


def finish(run: Run, stage: Stage[Any, Any], shards: int) -> StageSummary:
    """Count the rows and the dropped items of all shards and write `_stage.json`."""
    files, dropped = run.list_shards(shards, *stage.folder)
    rows = sum(file.rows or 0 for file in files if file.name.startswith("part-"))
    found = Findings({})
    if stage.look is not None:
        found = stage.look(chain.from_iterable(run.shards_as_written(stage.row, shards, *stage.folder)))
    summary = summary_of(
        stage.origin,
        files,
        rows,
        dropped,
        notes=dict(stage.notes),
        figures=dict(found.figures),
        warnings=tuple(found.warnings),
    )
    run.write_summary(summary, {}, *stage.folder)
    return summary


def write_times(run: Run, begin: float, *folder: str, **more: float) -> None:
    """Keep how long a stage took, and further figures that two equal runs do not share."""
    run.write_json({"seconds": round(time.monotonic() - begin, 1), **more}, *folder, TIMES_FILE)


def once(
    run: Run, folder: tuple[str, ...], origin: Origin, make: Callable[[], StageSummary]
) -> tuple[StageSummary, bool]:
    """The summary of a stage, and whether it was made now: by `make`, unless it is finished, and with nobody
    else in its folder.

    Raises StaleRunError when it was begun with another configuration or other inputs, BusyError when somebody
    else works on it; neither writes anything.
    """
    check_origin(run, folder, origin)
    if not run.exists(*folder, STAGE_FILE):
        with sole_writer(run, *folder):
            if not run.exists(*folder, STAGE_FILE):
                return make(), True
        check_origin(run, folder, origin)  # finished by somebody else in the meantime
    return run.finished(*folder), False


def run_stage(
    run: Run,
    stage: Stage[In, Out],
    items: Sequence[In],
    runtime: RuntimeConfig,
    progress: Progress,
    workers: Workers | None = None,
) -> StageSummary:
    """Do what is missing of a stage, by `workers` or by its own. Raises what `once` raises, and
    UnfinishedError when something has to be tried again.
    """
    summary, made = once(
        run,
        stage.folder,
        stage.origin,
        lambda: _do_missing(run, stage, items, runtime, progress, workers),
    )
    if not made:
        return summary
    progress.end(f"{summary.rows} rows, {sum(summary.dropped.values())} dropped")
    if summary.dropped:
        progress.tell(f"{stage.origin.stage}: dropped: {counted(summary.dropped)}")
    if summary.figures:
        progress.tell(
            f"{stage.origin.stage}: "
            + ", ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in summary.figures.items())
        )
    for warning in summary.warnings:
        progress.tell(f"{stage.origin.stage}: warning: {warning}")
    return summary


def _do_missing(
    run: Run,
    stage: Stage[In, Out],
    items: Sequence[In],
    runtime: RuntimeConfig,
    progress: Progress,
    workers: Workers | None,
) -> StageSummary:
    begin, size = time.monotonic(), runtime.shard_size
    shards = [items[i : i + size] for i in range(0, len(items), size)]
    missing = {n: shard for n, shard in enumerate(shards) if not run.exists(*stage.folder, shard_name(n))}
    progress.start(stage.origin.stage, len(items), len(items) - sum(len(shard) for shard in missing.values()))

    def hold() -> None:
        hold_origin(run, stage.folder, stage.origin, size)
        run.begin()

    if run.exists(*stage.folder, CONFIG_FILE):
        hold()

    again: list[Dropped] = []
    asked = 0

    def write(number: int, result: ShardResult[Out]) -> None:
        nonlocal asked
        asked += len(result.rows) + len(result.dropped) + len(result.again)
        if result.again:
            again.extend(result.again)
            return
        if not run.exists(*stage.folder, CONFIG_FILE):
            hold()
        run.write_shard(number, result.rows, stage.row, result.dropped, result.images, *stage.folder)
        progress.advance(len(shards[number]))

    if missing:
        with contextlib.nullcontext(workers) if workers is not None else Workers(runtime) as crew:
            crew.work(stage.make_work, missing, write, stage.name)
    if again:
        progress.end()
        reasons = Counter(f"{d.reason} ({d.detail})" for d in again)
        raise UnfinishedError(
            f"{run.path(*stage.folder)}: {len(again)} of {asked} unanswered ({counted(reasons)}); the same "
            "command asks them again, model.unanswered=drop goes on without them"
        )
    hold()
    write_times(run, begin, *stage.folder)
    return finish(run, stage, len(shards))
