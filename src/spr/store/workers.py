"""Where tasks are worked on: this process, or spawned ones. Each builds its models once.

A worker that is killed (memory, most often) is replaced and its task tried again, up to TRIES times; the
others go on, and what they finish is kept.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import pickle
import signal
import threading
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, Generic, Protocol, Self, TypeAlias, TypeVar, cast

from spr.errors import UnfinishedError
from spr.ports import AskedTogether
from spr.store.ahead import Ahead
from spr.store.runtime import RuntimeConfig, Seat, set_threads, take_seat

log = logging.getLogger(__name__)
T = TypeVar("T")
R = TypeVar("R")
TRIES = 3  # ours: how often a task is tried whose worker is killed
PATIENCE = 10.0  # ours: seconds that a worker gets to end by itself

Task: TypeAlias = Callable[[T], R]  # what is done with what a worker has built; picklable, as its result is


@dataclass(frozen=True, slots=True)
class Job(Generic[T, R]):
    """Tasks that share what a worker builds."""

    make: Callable[[], T]  # once per worker; picklable. Jobs with the same one share what it builds
    tasks: Mapping[int, Task[T, R]]
    done: Callable[[int, R], None]  # called here, with each result as soon as it is there
    # the parts of a task by name, each alone: asked for when the whole loses its worker each time
    parts: Callable[[int], Iterable[tuple[str, Task[T, Any]]]] = lambda number: ()


class Crew(Protocol):
    """Those who work: local processes, or actors of a cluster. They live until the end of a `with` block."""

    def __enter__(self) -> Self: ...

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None: ...

    def work(self, job: Job[Any, Any]) -> None:
        """Do all tasks; the first exception ends the work. Raises UnfinishedError, after all others are done,
        for tasks whose worker was lost each time.
        """


@dataclass(frozen=True, slots=True)
class Overlapping(Generic[T, R]):
    """What a worker builds for tasks that mostly wait for others: it may do two at once, so that the next one
    begins where the last answers of this one are waited for. `stop` ends what other threads do with it.
    """

    do: Callable[[T], R]
    stop: Callable[[], None]

    def __call__(self, items: T) -> R:
        """Do one."""
        return self.do(items)


def overlapping(do: Callable[[T], R], asked: object) -> Callable[[T], R]:
    """`do`, which asks `asked`: so that two can be done at once, where two may ask it."""
    return Overlapping(do, asked.stop) if isinstance(asked, AskedTogether) else do


def nothing() -> None:
    """What a worker builds for tasks that load their own models."""


class Bench:
    """What a worker has built, at its seat and with its threads."""

    def __init__(self, threads: int, seat: Seat) -> None:
        self._threads, self._seat = threads, seat
        self._built: tuple[object, Any] | None = None

    def built(self, key: object, make: Callable[[], T]) -> T:
        """What `make` builds; the same for the same key, and nothing beside it."""
        if self._built is None or self._built[0] != key:
            self._built = None  # two models at once may not fit
            take_seat(self._seat)
            set_threads(self._threads)
            self._built = key, make()
            set_threads(self._threads)
        found: T = self._built[1]
        return found

    def clear(self) -> None:
        """It is not needed any more."""
        self._built = None

    def answer(self, pickled: bytes, task: Task[Any, R]) -> R | Exception:
        """The result of a task with what the pickled `make` builds, or the exception with its trace: whoever
        asked raises it.
        """
        try:
            return task(self.built(pickled, lambda: pickle.loads(pickled)()))
        except Exception as e:
            e.add_note(traceback.format_exc())
            return e


def about_lost(lost: Mapping[int, str], job: Job[Any, Any], kills: Callable[[Task[Any, Any]], bool]) -> str:
    """One line about shards whose worker was lost each time. `kills`: whether a part alone does it."""
    number, how = next(iter(lost.items()))
    parts, culprit = 0, ""
    for name, part in job.parts(number):
        parts += 1
        if kills(part):
            culprit = f"item {name} does it"
            break
    culprit = culprit or f"none of its {parts} items does it alone"
    others = f" (and {len(lost) - 1} more shards)" if len(lost) > 1 else ""
    return (
        f"shard {number}{others}: its worker was killed {TRIES} times ({how}; out of memory?), {culprit}"
        "; lower runtime.workers or runtime.shard_size; the same command goes on"
    )


class Tally:
    """How often each task has lost its worker, and what is to become of it."""

    def __init__(self) -> None:
        self._times = Counter[int]()
        self.lost: dict[int, str] = {}

    def again(self, number: int, how: str) -> bool:
        """Whether a task whose worker was lost (`how`) is tried again; which is said."""
        self._times[number] += 1
        times = self._times[number]
        if times >= TRIES:
            self.lost[number] = how
            return False
        log.warning(
            "a worker was killed (%s) in shard %d: tried again (%d of %d)", how, number, times + 1, TRIES
        )
        return True


# --- a worker process -----------------------------------------------------------------------------


def _serve(pipe: Connection, threads: int, seat: Seat) -> None:
    """Answer each (pickled make, task) with a result or an exception, until the pipe is closed.

    Ends when the parent is killed: nobody else would end it, and a model stayed in memory.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, who ends its workers
    set_threads(threads)  # before a task brings a library along
    bench = Bench(threads, seat)
    while True:
        try:
            pickled, task = pipe.recv()
        except EOFError:
            return
        pipe.send(bench.answer(pickled, task))


class _Worker:
    """A spawned process, and the pipe to it."""

    def __init__(self, threads: int, seat: Seat) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.seat = seat
        self.process = context.Process(target=_serve, args=(theirs, threads, seat), daemon=True)
        self.process.start()
        theirs.close()

    def ask(self, pickled: bytes, task: Task[Any, Any]) -> None:
        """Hand out a task. A worker that is gone is noticed by `answer`."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.pipe.send((pickled, task))

    def answer(self) -> tuple[Any] | None:
        """What came of the task; None when the worker was killed. Raises what the work raised."""
        try:
            answer = self.pipe.recv()
        except (EOFError, ConnectionResetError):
            return None
        if isinstance(answer, BaseException):
            raise answer
        return (answer,)

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
    """The crew of this machine: this process, or spawned ones."""

    def __init__(self, runtime: RuntimeConfig) -> None:
        self._runtime = runtime
        self._crew: list[_Worker] = []
        self._own = Bench(runtime.threads, Seat.of(runtime))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        self._own.clear()
        for worker in self._crew:
            worker.end(at_once=kind is not None)
        self._crew = []

    def work(self, job: Job[Any, Any]) -> None:
        """Do all tasks. Raises UnfinishedError for those whose worker was killed each time, with the part
        that does it by its name.
        """
        if self._runtime.workers > 1:
            self._in_processes(job)
            return
        built = self._own.built(job.make, job.make)
        if isinstance(built, Overlapping):
            self._two_at_once(job, built)
            return
        for number, task in job.tasks.items():
            job.done(number, task(built))

    def _two_at_once(self, job: Job[Any, Any], built: Overlapping[Any, Any]) -> None:
        def do(task: tuple[int, Task[Any, Any]]) -> tuple[int, Any]:
            return task[0], task[1](built)

        with Ahead(do, job.tasks.items(), threads=2) as results:
            try:
                for number, result in results:
                    job.done(number, result)
            except BaseException:
                built.stop()
                raise

    def _in_processes(self, job: Job[Any, Any]) -> None:
        pickled, tasks = pickle.dumps(job.make), job.tasks
        waiting, tally = deque(tasks), Tally()
        for number in range(len(self._crew), min(self._runtime.workers, len(tasks))):
            self._crew.append(_Worker(self._runtime.threads, Seat.of(self._runtime, number)))
        free, busy = list(self._crew), dict[Connection, tuple[_Worker, int]]()
        while waiting or busy:
            while free and waiting:
                worker, number = free.pop(), waiting.popleft()
                worker.ask(pickled, tasks[number])
                busy[worker.pipe] = worker, number
            for pipe in wait(list(busy)):
                worker, number = busy.pop(cast(Connection, pipe))
                result = worker.answer()
                if result is not None:
                    free.append(worker)
                    job.done(number, result[0])
                    continue
                if tally.again(number, worker.how_it_ended()):
                    waiting.append(number)
                free.append(self._replaced(worker))
        if tally.lost:
            raise UnfinishedError(about_lost(tally.lost, job, lambda part: self._kills(pickled, part)))

    def _kills(self, pickled: bytes, part: Task[Any, Any]) -> bool:
        self._crew[0].ask(pickled, part)
        with contextlib.suppress(Exception):  # what else it says alone is no news
            return self._crew[0].answer() is None
        return False

    def _replaced(self, worker: _Worker) -> _Worker:
        worker.end(at_once=True)
        new = _Worker(self._runtime.threads, worker.seat)
        self._crew[self._crew.index(worker)] = new
        return new
