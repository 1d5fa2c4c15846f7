"""Where shards are worked on: this process, or spawned ones. Each builds its models once.

The threads of the numerical libraries are fixed per worker, because another count of threads rounds
differently.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any, Generic, Self, TypeAlias, TypeVar

from spr.types import Dropped, SeenImage

In = TypeVar("In")
Out = TypeVar("Out")


@dataclass(frozen=True, slots=True)
class ShardResult(Generic[Out]):
    """What came of a shard: its rows, what was left out, and the images that were opened for it."""

    rows: list[Out]
    dropped: list[Dropped] = field(default_factory=list)
    images: list[SeenImage] = field(default_factory=list)


Work: TypeAlias = Callable[[Sequence[In]], ShardResult[Out]]


@dataclass(frozen=True, slots=True)
class RuntimeConfig:
    """How the work is spread. None of it changes a row, except `shard_size` under `batching: throughput`."""

    workers: int = 1  # processes per stage
    threads: int = 1  # threads of the numerical libraries per worker
    shard_size: int = 256  # items per shard: what a kill can lose (design: ours)


def set_threads(threads: int) -> None:
    """Fix the number of threads of the numerical libraries in this process."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(threads)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)


_built: tuple[bytes, Work[Any, Any]] | None = None  # what this worker process works with


def _start_worker(threads: int) -> None:
    """Fix the threads, and end this process when its parent is killed: nobody else would, and a model stayed
    in memory.
    """
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
            self._pool = ProcessPoolExecutor(
                self._runtime.workers, mp_context=context, initializer=_start_worker, initargs=(threads,)
            )
        pickled = pickle.dumps(make_work)
        waiting: dict[Future[ShardResult[Out]], int] = {
            self._pool.submit(_in_worker, pickled, threads, list(items)): number
            for number, items in shards.items()
        }
        while waiting:
            ready, _ = wait(waiting, return_when=FIRST_COMPLETED)
            for future in ready:
                write(waiting.pop(future), future.result())
