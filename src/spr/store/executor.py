"""Run a stage: cut its items into shards, do the missing ones here or in worker processes, and write its
summary.

A shard's rows are a pure function of (stage configuration, items of the shard), so resuming is "do what has
no file", and one process or many give the same rows.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Generic, TypeVar

from spr.store.folders import DROPPED, STAGE_FILE
from spr.store.identity import claim, versions
from spr.store.progress import Progress
from spr.store.run import Run, shard_name
from spr.store.workers import RuntimeConfig, ShardResult, Work, Workers
from spr.types import Dropped, Findings, StageSummary

In = TypeVar("In")
Out = TypeVar("Out")


@dataclass(frozen=True, slots=True)
class Stage(Generic[In, Out]):
    """What is to be done. `make_work` is called once per worker process and must be picklable."""

    name: str  # the verb
    folder: tuple[str, ...]  # where its shards go, inside the run
    config: Mapping[str, Any]  # everything its rows depend on; compared when the stage is resumed
    row: type[Out]
    make_work: Callable[[], Work[In, Out]]
    notes: Mapping[str, Any] = field(default_factory=dict)  # for people; not compared
    look: Callable[[Iterable[Out]], Findings] | None = None  # at all rows, once the stage is finished


def finish(run: Run, stage: Stage[Any, Any], digest: str, shards: int, seconds: float) -> StageSummary:
    """Count the rows and the dropped items of all shards and write `_stage.json`."""
    rows = sum(run.count(*stage.folder, shard_name(n)) for n in range(shards))
    dropped: Counter[str] = Counter()
    for n in range(shards):
        dropped.update(d.reason for d in run.read_rows(Dropped, *stage.folder, DROPPED, shard_name(n)))
    config = json.loads(json.dumps({**stage.config, **stage.notes}, default=str))
    found = stage.look(run.iter_stage(stage.row, *stage.folder)) if stage.look is not None else Findings({})
    reasons = dict(sorted(dropped.items()))
    summary = StageSummary(
        stage.name,
        digest,
        config,
        rows,
        reasons,
        shards,
        round(seconds, 1),
        versions(),
        dict(found.figures),
        found.warnings,
    )
    run.write_json(asdict(summary), *stage.folder, STAGE_FILE)
    return summary


def run_stage(
    run: Run,
    stage: Stage[In, Out],
    items: Sequence[In],
    runtime: RuntimeConfig,
    progress: Progress,
    workers: Workers | None = None,
) -> StageSummary:
    """Do what is missing of a stage, by `workers` or by its own. Raises StaleRunError when it was begun with
    another configuration.
    """
    digest = claim(run, stage.name, stage.folder, {**stage.config, "shard_size": runtime.shard_size})
    done = run.summary(*stage.folder)
    if done is not None:
        return done
    begin = time.monotonic()
    size = runtime.shard_size
    shards = [items[i : i + size] for i in range(0, len(items), size)]
    missing = {n: shard for n, shard in enumerate(shards) if not run.exists(*stage.folder, shard_name(n))}
    progress.start(stage.name, len(items), len(items) - sum(len(shard) for shard in missing.values()))

    def write(number: int, result: ShardResult[Out]) -> None:
        run.write_shard(number, result[0], stage.row, result[1], *stage.folder)
        progress.advance(len(shards[number]))

    if missing:
        with contextlib.nullcontext(workers) if workers is not None else Workers(runtime) as crew:
            crew.work(stage.make_work, missing, write)
    summary = finish(run, stage, digest, len(shards), time.monotonic() - begin)
    progress.end(f"{summary.rows} rows, {sum(summary.dropped.values())} dropped")
    if summary.figures:
        progress.tell(
            f"{stage.name}: "
            + ", ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in summary.figures.items())
        )
    for warning in summary.warnings:
        progress.tell(f"{stage.name}: warning: {warning}")
    return summary
