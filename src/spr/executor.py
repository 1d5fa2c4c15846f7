"""Run a stage: cut its items into shards, do the missing ones here or in worker processes, and write its summary.

A shard's rows are a pure function of (stage configuration, items of the shard), so resuming is "do what has no file", and one process or many
give the same rows. Each worker builds its models once. `threads` of the numerical libraries are fixed per worker, because another count of
threads rounds differently.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import multiprocessing
import os
import pickle
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass, field
from typing import Any, Generic, Self, TypeAlias, TypeVar

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

    def tell(self, message: str) -> None:
        """A line for people: figures of a stage, a warning."""


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

    def tell(self, message: str) -> None:
        """The same, under the name of the work."""
        self._inner.tell(f"{self._name}: {message}")


class Within(Named):
    """Passes progress on with the name of what it is part of before each piece of work."""

    def start(self, what: str, total: int, done: int = 0) -> None:
        """The same work, with the name before it."""
        self._inner.start(f"{self._name}: {what}", total, done)


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
    rows = sum(run.count(*stage.folder, shard_name(n)) for n in range(shards))
    dropped: Counter[str] = Counter()
    for n in range(shards):
        dropped.update(d.reason for d in run.read_rows(Dropped, *stage.folder, "dropped", shard_name(n)))
    config = json.loads(json.dumps({**stage.config, **stage.notes}, default=str))
    found = stage.look(run.iter_stage(stage.row, *stage.folder)) if stage.look is not None else Findings({})
    reasons = dict(sorted(dropped.items()))
    summary = StageSummary(stage.name, digest, config, rows, reasons, shards, round(seconds, 1), versions(), dict(found.figures), found.warnings)
    run.write_json(asdict(summary), *stage.folder, "_stage.json")
    return summary


def set_threads(threads: int) -> None:
    """Fix the number of threads of the numerical libraries in this process."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(threads)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)


_built: tuple[bytes, Work[Any, Any]] | None = None  # what this worker process works with


def _start_worker(threads: int) -> None:
    """Fix the threads, and end this process when its parent is killed: nobody else would, and a model stayed in memory."""
    set_threads(threads)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _in_worker(pickled: bytes, threads: int, items: Sequence[Any]) -> ShardResult[Any]:
    """Work on a shard; what does the work is built only when it is not what this process used last."""
    global _built
    if _built is None or _built[0] != pickled:
        _built = None  # two models at once may not fit
        _built = pickled, pickle.loads(pickled)()
        set_threads(threads)
    return _built[1](items)


class Workers:
    """Where shards are worked on: this process, or spawned ones that live until the end of the `with` block.

    Stages that pass the same `make_work` one after the other share what it builds.
    """

    def __init__(self, runtime: RuntimeConfig) -> None:
        self._runtime = runtime
        self._pool: ProcessPoolExecutor | None = None
        self._own: tuple[object, Work[Any, Any]] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        self._own = None
        if self._pool is not None:
            self._pool.shutdown(wait=kind is None, cancel_futures=True)

    def work(
        self,
        make_work: Callable[[], Work[In, Out]],
        shards: Mapping[int, Sequence[In]],
        write: Callable[[int, ShardResult[Out]], None],
    ) -> None:
        """Every shard's result goes to `write` as soon as it is ready; the first failure ends the work."""
        if self._runtime.workers > 1:
            self._in_processes(make_work, shards, write)
            return
        if self._own is None or self._own[0] is not make_work:
            self._own = None
            set_threads(self._runtime.threads)
            self._own = make_work, make_work()
            set_threads(self._runtime.threads)
        for number, items in shards.items():
            write(number, self._own[1](items))

    def _in_processes(
        self,
        make_work: Callable[[], Work[In, Out]],
        shards: Mapping[int, Sequence[In]],
        write: Callable[[int, ShardResult[Out]], None],
    ) -> None:
        threads = self._runtime.threads
        if self._pool is None:
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(self._runtime.workers, mp_context=context, initializer=_start_worker, initargs=(threads,))
        pickled = pickle.dumps(make_work)
        waiting: dict[Future[ShardResult[Out]], int] = {
            self._pool.submit(_in_worker, pickled, threads, list(items)): number for number, items in shards.items()
        }
        while waiting:
            ready, _ = wait(waiting, return_when=FIRST_COMPLETED)
            for future in ready:
                write(waiting.pop(future), future.result())


def run_stage(
    run: Run, stage: Stage[In, Out], items: Sequence[In], runtime: RuntimeConfig, progress: Progress, workers: Workers | None = None
) -> StageSummary:
    """Do what is missing of a stage, by `workers` or by its own. Raises StaleRunError when it was begun with another configuration."""
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
        progress.tell(f"{stage.name}: " + ", ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in summary.figures.items()))
    for warning in summary.warnings:
        progress.tell(f"{stage.name}: warning: {warning}")
    return summary
