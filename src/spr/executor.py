"""Run a stage: cut its items into shards, do the missing ones here or in worker processes, and write its summary.

A shard's rows are a pure function of (stage configuration, items of the shard), so resuming is "do what has no file", and one process or many
give the same rows. Each worker builds its models once. `threads` of the numerical libraries are fixed per worker, because another count of
threads rounds differently.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass, field
from typing import Any, Generic, TypeAlias, TypeVar

from spr.artifacts import Run, shard_name
from spr.errors import StaleRunError
from spr.types import Dropped, Findings, StageSummary

In = TypeVar("In")
Out = TypeVar("Out")
ShardResult: TypeAlias = tuple[list[Out], list[Dropped]]
Work: TypeAlias = Callable[[Sequence[In]], ShardResult[Out]]

_PACKAGES = ("numpy", "pyarrow", "torch", "transformers", "peft", "trl", "accelerate")


@dataclass(frozen=True, slots=True)
class RuntimeConfig:
    """How the work is spread. None of it changes a row, except `shard_size` under `batching: throughput`."""

    workers: int = 1  # processes per stage
    threads: int = 1  # threads of the numerical libraries per worker
    shard_size: int = 256  # items per shard: what a kill can lose (design: ours)


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


class Progress:
    """Where a stage reports how far it is. The base class says nothing; the command line draws bars."""

    def start(self, what: str, total: int, done: int = 0) -> None:
        """A piece of work of `total` items begins, of which `done` were done before."""

    def advance(self, count: int) -> None:
        """`count` more items are done."""

    def end(self, message: str = "") -> None:
        """The piece of work is finished."""

    def warn(self, message: str) -> None:
        """Something that a person should know, in one sentence."""


class Named(Progress):
    """Passes progress on under another name."""

    def __init__(self, inner: Progress, name: str) -> None:
        self._inner, self._name = inner, name

    def start(self, what: str, total: int, done: int = 0) -> None:
        """The same work, called by the other name."""
        self._inner.start(self._name, total, done)

    def advance(self, count: int) -> None:
        """As the inner one."""
        self._inner.advance(count)

    def end(self, message: str = "") -> None:
        """As the inner one."""
        self._inner.end(message)

    def warn(self, message: str) -> None:
        """The same, under the name of the work."""
        self._inner.warn(f"{self._name}: {message}")


def digest_of(config: Mapping[str, Any]) -> str:
    """SHA-256 (first 16 hex digits) of a configuration, independent of the order of keys."""
    return hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode()).hexdigest()[:16]


def changed_fields(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Dotted names of the fields whose values differ."""
    names: list[str] = []
    for key in sorted({*old, *new}):
        a, b = old.get(key), new.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            names += changed_fields(a, b, f"{prefix}{key}.")
        elif a != b:
            names.append(f"{prefix}{key}")
    return names


def claim(run: Run, name: str, folder: tuple[str, ...], config: Mapping[str, Any]) -> str:
    """Write the stage's `_config.json`, or refuse when it was started with another one. Returns the digest."""
    config = json.loads(json.dumps(config, default=str))
    before = run.read_json(*folder, "_config.json")
    if before is None:
        run.write_json(config, *folder, "_config.json")
    elif before != config:
        fields = ", ".join(changed_fields(before, config))
        raise StaleRunError(f"{run.path(*folder)}: made with another configuration (changed: {fields}); use --overwrite {name} to redo it")
    return digest_of(config)


def versions() -> dict[str, str]:
    """Versions of what the numbers may depend on (installed packages only; nothing is imported)."""
    found = {"python": sys.version.split()[0]}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def finish(run: Run, stage: Stage[Any, Any], digest: str, shards: int, seconds: float) -> StageSummary:
    """Count the rows and the dropped items of all shards and write `_stage.json`."""
    rows = sum(len(run.read_rows(stage.row, *stage.folder, shard_name(n))) for n in range(shards))
    dropped: Counter[str] = Counter()
    for n in range(shards):
        dropped.update(d.reason for d in run.read_rows(Dropped, *stage.folder, "dropped", shard_name(n)))
    config = json.loads(json.dumps({**stage.config, **stage.notes}, default=str))
    found = stage.look(run.iter_stage(stage.row, *stage.folder)) if stage.look is not None else Findings({})
    reasons = dict(sorted(dropped.items()))
    summary = StageSummary(stage.name, digest, config, rows, reasons, shards, round(seconds, 1), versions(), dict(found.figures), found.warnings)
    run.write_json(asdict(summary), *stage.folder, "_stage.json")
    return summary


_worker_work: Work[Any, Any] | None = None


def set_threads(threads: int) -> None:
    """Fix the number of threads of the numerical libraries in this process."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(threads)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)


def _start_worker(make_work: Callable[[], Work[Any, Any]], threads: int) -> None:
    global _worker_work
    set_threads(threads)
    _worker_work = make_work()
    set_threads(threads)


def _in_worker(items: Sequence[Any]) -> ShardResult[Any]:
    assert _worker_work is not None
    return _worker_work(items)


def run_stage(run: Run, stage: Stage[In, Out], items: Sequence[In], runtime: RuntimeConfig, progress: Progress) -> StageSummary:
    """Do what is missing of a stage. Raises StaleRunError when it was begun with another configuration."""
    digest = claim(run, stage.name, stage.folder, {**stage.config, "shard_size": runtime.shard_size})
    done = run.summary(*stage.folder)
    if done is not None:
        return done
    begin = time.monotonic()
    size = runtime.shard_size
    shards = [items[i : i + size] for i in range(0, len(items), size)]
    finished = {n for n in range(len(shards)) if run.exists(*stage.folder, shard_name(n))}
    missing = [n for n in range(len(shards)) if n not in finished]
    progress.start(stage.name, len(items), sum(len(shards[n]) for n in finished))

    def write(number: int, result: ShardResult[Out]) -> None:
        run.write_shard(number, result[0], stage.row, result[1], *stage.folder)
        progress.advance(len(shards[number]))

    if missing and runtime.workers <= 1:
        set_threads(runtime.threads)
        work = stage.make_work()
        set_threads(runtime.threads)
        for number in missing:
            write(number, work(shards[number]))
    elif missing:
        _run_in_processes(stage, shards, missing, runtime, write)
    summary = finish(run, stage, digest, len(shards), time.monotonic() - begin)
    figures = "".join(f", {name.replace('_', ' ')} {value:.3f}" for name, value in summary.figures.items())
    progress.end(f"{summary.rows} rows, {sum(summary.dropped.values())} dropped{figures}")
    for warning in summary.warnings:
        progress.warn(f"{stage.name}: {warning}")
    return summary


def _run_in_processes(
    stage: Stage[In, Out],
    shards: Sequence[Sequence[In]],
    missing: Sequence[int],
    runtime: RuntimeConfig,
    write: Callable[[int, ShardResult[Out]], None],
) -> None:
    """Shards in spawned processes, each written by the parent as soon as it is ready; the first failure stops the stage."""
    context = multiprocessing.get_context("spawn")
    workers = min(runtime.workers, len(missing))
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker, initargs=(stage.make_work, runtime.threads)) as pool:
        waiting: dict[Future[ShardResult[Out]], int] = {pool.submit(_in_worker, list(shards[n])): n for n in missing}
        try:
            while waiting:
                ready, _ = wait(waiting, return_when=FIRST_COMPLETED)
                for future in ready:
                    write(waiting.pop(future), future.result())
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
