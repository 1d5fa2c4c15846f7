"""Where shards are worked on: this process, or spawned ones. Each builds its models once.

The threads of the numerical libraries are fixed per worker, because another count of threads rounds
differently. A worker that is killed (memory, most often) is replaced and its shard tried again, up to TRIES
times; the others go on, and what they finish is kept.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import traceback
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, Self, TypeAlias, TypeVar, cast

from spr.errors import UnfinishedError
from spr.ranges import Count, check_ranges
from spr.types import ShardResult

log = logging.getLogger(__name__)
In = TypeVar("In")
Out = TypeVar("Out")
TRIES = 3  # ours: how often a shard is tried whose worker is killed
PATIENCE = 10.0  # ours: seconds that a worker gets to end by itself


Work: TypeAlias = Callable[[Sequence[In]], ShardResult[Out]]


@dataclass(frozen=True, slots=True)
class RuntimeConfig:
    """How the work is spread. None of it changes a row, except `shard_size` under `batching: throughput`."""

    workers: Count = 1  # processes per stage
    threads: Count = 1  # threads of the numerical libraries per worker
    shard_size: Count = 256  # items per shard: what a kill can lose (design: ours)

    def __post_init__(self) -> None:
        """Raise ConfigError for values that cannot be."""
        check_ranges(self, "runtime")


def set_threads(threads: int) -> None:
    """Fix the number of threads of the numerical libraries in this process."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(threads)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)


# --- a worker process -----------------------------------------------------------------------------


def _serve(pipe: Connection, threads: int) -> None:
    """Answer each (pickled make_work, items) with a result or an exception, until the pipe is closed.

    Ends when the parent is killed: nobody else would end it, and a model stayed in memory.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, who ends its workers
    set_threads(threads)
    built: tuple[bytes, Work[Any, Any]] | None = None
    while True:
        try:
            pickled, items = pipe.recv()
        except EOFError:
            return
        try:
            if built is None or built[0] != pickled:
                built = None  # two models at once may not fit
                built = pickled, pickle.loads(pickled)()
                set_threads(threads)
            answer: object = built[1](items)
        except Exception as e:
            e.add_note(traceback.format_exc())
            answer = e
        pipe.send(answer)


class _Worker:
    """A spawned process, and the pipe to it."""

    def __init__(self, threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, threads), daemon=True)
        self.process.start()
        theirs.close()

    def ask(self, pickled: bytes, items: Sequence[Any]) -> None:
        """Hand out a shard. A worker that is gone is noticed by `answer`."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.pipe.send((pickled, list(items)))

    def answer(self) -> ShardResult[Any] | None:
        """What came of the shard; None when the worker was killed. Raises what the work raised."""
        try:
            answer = self.pipe.recv()
        except (EOFError, ConnectionResetError):
            return None
        if isinstance(answer, BaseException):
            raise answer
        assert isinstance(answer, ShardResult)
        return answer

    def end(self, at_once: bool = False) -> None:
        """Let the process end, or end it."""
        self.pipe.close()
        if not at_once:
            self.process.join(PATIENCE)
        self.process.kill()
        self.process.join()

    def how_it_ended(self) -> str:
        """Why the process is gone, for people."""
        self.process.join(PATIENCE)
        code = self.process.exitcode
        return f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"


# --- all of them ----------------------------------------------------------------------------------


class Workers:
    """Where shards are worked on: this process, or spawned ones that live until the end of the `with` block.

    Stages that pass the same `make_work` one after the other share what it builds.
    """

    def __init__(self, runtime: RuntimeConfig) -> None:
        self._runtime = runtime
        self._crew: list[_Worker] = []
        self._own: tuple[object, Work[Any, Any]] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        self._own = None
        for worker in self._crew:
            worker.end(at_once=kind is not None)
        self._crew = []

    def work(
        self,
        make_work: Callable[[], Work[In, Out]],
        shards: Mapping[int, Sequence[In]],
        write: Callable[[int, ShardResult[Out]], None],
        name: Callable[[In], str] = str,
    ) -> None:
        """Every shard's result goes to `write` as soon as it is ready; the first exception ends the work.

        Raises UnfinishedError, after all other shards are done, for shards whose worker was killed each time,
        with the item that does it by its `name`.
        """
        if self._runtime.workers > 1:
            self._in_processes(make_work, shards, write, name)
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
        name: Callable[[In], str],
    ) -> None:
        pickled, waiting, killed = pickle.dumps(make_work), deque(shards), Counter[int]()
        lost: dict[int, str] = {}
        missing = min(self._runtime.workers, len(shards)) - len(self._crew)
        self._crew += [_Worker(self._runtime.threads) for _ in range(missing)]
        free, busy = list(self._crew), dict[Connection, tuple[_Worker, int]]()
        while waiting or busy:
            while free and waiting:
                worker, number = free.pop(), waiting.popleft()
                worker.ask(pickled, shards[number])
                busy[worker.pipe] = worker, number
            for pipe in wait(list(busy)):
                worker, number = busy.pop(cast(Connection, pipe))
                result = worker.answer()
                if result is not None:
                    free.append(worker)
                    write(number, result)
                    continue
                how = worker.how_it_ended()
                free.append(self._replaced(worker))
                killed[number] += 1
                if killed[number] < TRIES:
                    log.warning(
                        "a worker was killed (%s) in shard %d: tried again (%d of %d)",
                        how,
                        number,
                        killed[number] + 1,
                        TRIES,
                    )
                    waiting.append(number)
                else:
                    lost[number] = how
        if lost:
            raise UnfinishedError(self._about(lost, pickled, shards, name))

    def _replaced(self, worker: _Worker) -> _Worker:
        worker.end(at_once=True)
        self._crew[self._crew.index(worker)] = new = _Worker(self._runtime.threads)
        return new

    def _about(
        self,
        lost: Mapping[int, str],
        pickled: bytes,
        shards: Mapping[int, Sequence[In]],
        name: Callable[[In], str],
    ) -> str:
        """One line about shards whose worker was killed each time: asked item by item, which item does it."""
        number, how = next(iter(lost.items()))
        culprit = f"none of its {len(shards[number])} items does it alone"
        worker = self._crew[0]
        for item in shards[number]:
            worker.ask(pickled, [item])
            with contextlib.suppress(Exception):  # what else it says alone is no news
                if worker.answer() is None:
                    culprit = f"item {name(item)} does it"
                    break
        others = f" (and {len(lost) - 1} more shards)" if len(lost) > 1 else ""
        return (
            f"shard {number}{others}: its worker was killed {TRIES} times ({how}; out of memory?), {culprit}"
            "; lower runtime.workers or runtime.shard_size; the same command goes on"
        )
