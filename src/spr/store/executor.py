"""Run a stage: cut its items into shards, let a crew do the missing ones, and write its summary.

A shard's rows are a pure function of (stage configuration, items of the shard), so resuming is "do what has
no file", and one process, many or a cluster give the same rows. Who works on a shard reads its items and
writes its files; what comes back are counts.
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
from functools import partial
from itertools import chain
from typing import Any, Generic, TypeAlias, TypeVar

from spr.errors import UnfinishedError
from spr.store.crew import crew_of
from spr.store.folders import CONFIG_FILE, STAGE_FILE, TIMES_FILE
from spr.store.identity import Origin, check_origin, digest_of, hold_origin, versions
from spr.store.items import Batch, Items, Listed, OnDemand
from spr.store.lease import check_held, first_rank, holder, sole_writer
from spr.store.progress import Progress, counted
from spr.store.run import Run, shard_name
from spr.store.runtime import RuntimeConfig
from spr.store.workers import Crew, Job, Task
from spr.types import Dropped, Findings, ShardResult, StageFile, StageSummary

LOOKS_EVERY = 1.0  # ours: seconds between two looks of a process that waits for rank 0

In = TypeVar("In")
Out = TypeVar("Out")
Work: TypeAlias = Callable[[Sequence[In]], ShardResult[Out]]


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
    run: Run,
    folder: tuple[str, ...],
    origin: Origin,
    make: Callable[[], StageSummary],
    together: bool = False,
) -> tuple[StageSummary, bool]:
    """The summary of a stage, and whether it was made now: by `make`, unless it is finished, and with nobody
    else in its folder. Of the processes of one launch (torchrun, accelerate) rank 0 makes it while the others
    wait, or all do (`together`).

    Raises StaleRunError when it was begun with another configuration or other inputs, BusyError when somebody
    else works on it; neither writes anything.
    """
    check_origin(run, folder, origin)
    while not (first_rank() or together or run.exists(*folder, STAGE_FILE)):
        time.sleep(LOOKS_EVERY)
    if not run.exists(*folder, STAGE_FILE):
        with sole_writer(run, *folder):
            if not run.exists(*folder, STAGE_FILE):
                return make(), True
        check_origin(run, folder, origin)  # finished by somebody else in the meantime
    return run.finished(*folder), False


def run_stage(
    run: Run,
    stage: Stage[In, Out],
    items: Items[In] | Sequence[In],
    runtime: RuntimeConfig,
    progress: Progress,
    crew: Crew | None = None,
) -> StageSummary:
    """Do what is missing of a stage, by `crew` or by one of its own. Raises what `once` raises, and
    UnfinishedError when something has to be tried again.
    """
    items = items if isinstance(items, Items) else Listed(items)
    summary, made = once(
        run,
        stage.folder,
        stage.origin,
        lambda: _do_missing(run, stage, items, runtime, progress, crew),
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


@dataclass(frozen=True, slots=True)
class Done:
    """What became of the items of a shard. One with items that are to be tried `again` has no file."""

    kept: int
    dropped: int
    again: Sequence[Dropped]


@dataclass(frozen=True, slots=True)
class Shard(Generic[In, Out]):
    """A shard to work on: it goes to a worker, which reads the items and writes the files."""

    run: Run
    folder: tuple[str, ...]
    row: type[Out]
    origin: Origin
    size: int  # of shards
    number: int
    items: Batch[In]
    holder: Mapping[str, Any]  # who holds the folder

    def __call__(self, work: Work[In, Out]) -> Done:
        """Work on it. Raises DataError where the run folder is not the one that its holder sees."""
        check_held(self.run, self.holder, *self.folder)
        result = work(self.items())
        if not result.again:
            hold(self.run, self.folder, self.origin, self.size)
            self.run.write_shard(
                self.number, result.rows, self.row, result.dropped, result.images, *self.folder
            )
        return Done(len(result.rows), len(result.dropped), result.again)


def hold(run: Run, folder: tuple[str, ...], origin: Origin, shard_size: int) -> None:
    """Say what a stage and its run are made from, unless it is said already."""
    hold_origin(run, folder, origin, shard_size)
    run.begin()


def _alone(item: In, work: Work[In, Any]) -> None:
    """Work on one item, for nothing."""
    work([item])


def _do_missing(
    run: Run,
    stage: Stage[In, Out],
    items: Items[In],
    runtime: RuntimeConfig,
    progress: Progress,
    crew: Crew | None,
) -> StageSummary:
    begin, size, total = time.monotonic(), runtime.shard_size, len(items)
    starts, finished = range(0, total, size), set(run.shard_names(*stage.folder))
    held = holder(run, *stage.folder)

    def shard(number: int) -> Shard[In, Out]:
        start = starts[number]
        batch = items.batch(start, min(start + size, total))
        return Shard(run, stage.folder, stage.row, stage.origin, size, number, batch, held)

    missing = [number for number in range(len(starts)) if shard_name(number) not in finished]
    shards = OnDemand(missing, shard)
    sizes = {number: min(size, total - starts[number]) for number in missing}
    progress.start(stage.origin.stage, total, total - sum(sizes.values()))
    if run.exists(*stage.folder, CONFIG_FILE):
        hold(run, stage.folder, stage.origin, size)
    again: list[Dropped] = []
    asked = 0

    def done(number: int, found: Done) -> None:
        nonlocal asked
        asked += found.kept + found.dropped + len(found.again)
        again.extend(found.again)
        if not found.again:
            progress.advance(sizes[number])

    def parts(number: int) -> Iterable[tuple[str, Task[Work[In, Out], None]]]:
        return ((stage.name(item), partial(_alone, item)) for item in shards[number].items())

    if missing:
        with contextlib.nullcontext(crew) if crew is not None else crew_of(runtime) as workers:
            workers.work(Job(stage.make_work, shards, done, parts))
    if again:
        progress.end()
        reasons = Counter(f"{d.reason} ({d.detail})" for d in again)
        raise UnfinishedError(
            f"{run.path(*stage.folder)}: {len(again)} of {asked} unanswered ({counted(reasons)}); the same "
            "command asks them again, model.unanswered=drop goes on without them"
        )
    hold(run, stage.folder, stage.origin, size)
    write_times(run, begin, *stage.folder)
    return finish(run, stage, len(starts))
