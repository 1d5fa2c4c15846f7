"""Tasks on a Ray cluster: an actor per worker, each with its models, wherever the cluster has room.

The cluster is the one of RAY_ADDRESS, or the one that runs on this machine, or a new one of this machine
alone. Tasks and counts travel; rows are read and written in the run folder, which every node must see. An
actor that is lost, with its node or alone, costs the time of its task. Known gap: what an actor logs stays in
Ray's own files.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import socket
import time
from collections import deque
from pathlib import Path
from typing import Any, Self

from spr.errors import UnfinishedError, missing_extra
from spr.store.progress import one_line
from spr.store.runtime import RuntimeConfig, Seat, set_threads
from spr.store.workers import TRIES, Bench, Job, Tally, Task, about_lost

log = logging.getLogger(__name__)
SAID_AFTER = 15.0  # ours: seconds without a place for an actor, after which a person is told
GIVEN_UP_AFTER = 600.0  # ours: seconds without a place for any actor: an autoscaler starts a machine in less


def connect() -> Any:
    """The ray module, connected to a cluster. Raises MissingExtraError, UnfinishedError."""
    try:
        import ray
    except ImportError:
        raise missing_extra("runtime.executor: ray", "ray") from None
    if ray.is_initialized():
        return ray
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a cluster that we start reports to nobody
    named = os.environ.get("RAY_ADDRESS", "")
    address = _address(named)
    try:
        ray.init(address, log_to_driver=False, include_dashboard=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError) as e:
        raise UnfinishedError(
            f"runtime.executor: no Ray cluster at {named or 'this machine'} ({one_line(str(e))}); one that "
            "asks for a token needs RAY_AUTH_MODE=token beside RAY_ADDRESS"
        ) from None
    return ray


def _address(named: str) -> str | None:
    """What Ray connects to: RAY_ADDRESS, or None (the cluster of this machine), or "local" (a new one). Ray
    itself would wait for minutes for one that is gone. Raises UnfinishedError.
    """
    if named in ("", "auto"):
        latest = Path(os.environ.get("RAY_TMPDIR", "/tmp")) / "ray" / "ray_current_cluster"  # by `ray start`
        return None if latest.is_file() and _answers(latest.read_text().strip()) else "local"
    if named != "local" and not _answers(named):
        raise UnfinishedError(f"RAY_ADDRESS: no Ray cluster answers at {named}")
    return named


def _answers(address: str) -> bool:
    """Whether something listens there."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except (OSError, ValueError):
        return False
    return True


class _Hand:
    """The actor: a worker in the cluster."""

    def __init__(self, threads: int) -> None:
        set_threads(threads)  # before a task brings a library along
        self._bench = Bench(threads, Seat())

    def ready(self) -> None:
        """It has a place."""

    def do(self, pickled: bytes, task: Task[Any, Any]) -> Any:
        """The result of a task, or an exception."""
        return self._bench.answer(pickled, task)


class RayWorkers:
    """The crew of a Ray cluster. It works with those actors that have a place."""

    def __init__(self, runtime: RuntimeConfig) -> None:
        self._runtime = runtime
        self._free: list[Any] = []  # actors
        self._busy: dict[Any, tuple[Any, int]] = {}  # by the reference to a result: the actor, its task
        self._coming: dict[Any, Any] = {}  # actors without a place, by the reference to `ready`
        self._never_came = 0

    def __enter__(self) -> Self:
        self._ray = connect()
        gpus = self._runtime.num_gpus
        if gpus is None:
            gpus = 1.0 if self._ray.cluster_resources().get("GPU") else 0.0
        self._needs = {"CPU": float(self._runtime.threads), "GPU": gpus}
        self._actor = self._ray.remote(_Hand).options(
            num_cpus=self._runtime.threads, num_gpus=gpus, max_restarts=0, scheduling_strategy="SPREAD"
        )
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        for actor in (*self._free, *self._coming.values(), *(actor for actor, _ in self._busy.values())):
            self._dismiss(actor)
        self._free, self._busy, self._coming = [], {}, {}

    def work(self, job: Job[Any, Any]) -> None:
        """Do all tasks. Raises UnfinishedError for those whose actor was lost each time, with the part that
        does it by its name, and where no actor gets a place.
        """
        pickled, tasks = pickle.dumps(job.make), job.tasks
        waiting, tally = deque(tasks), Tally()
        begin, said = time.monotonic(), False
        while waiting or self._busy:
            self._hire(len(waiting) + len(self._busy))
            while self._free and waiting:
                actor, number = self._free.pop(), waiting.popleft()
                self._busy[actor.do.remote(pickled, tasks[number])] = actor, number
            ready, _ = self._ray.wait([*self._coming, *self._busy], timeout=SAID_AFTER)
            for ref in ready:
                if ref in self._coming:
                    self._arrived(ref)
                    continue
                actor, number = self._busy.pop(ref)
                try:
                    result = self._ray.get(ref)
                except self._ray.exceptions.RayTaskError:
                    raise  # not ours: a task that an actor cannot read
                except self._ray.exceptions.RayError as e:
                    self._dismiss(actor)
                    if tally.again(number, _how(e)):
                        waiting.append(number)
                    continue
                self._free.append(actor)
                if isinstance(result, BaseException):
                    raise result
                job.done(number, result)
            if self._free or self._busy:
                begin = time.monotonic()
            if self._coming and not ready and not said:
                log.warning("%s", self._without_place())
                said = True
            if time.monotonic() - begin > GIVEN_UP_AFTER:
                raise UnfinishedError(f"{self._without_place()}; the same command goes on")
        if tally.lost:
            raise UnfinishedError(about_lost(tally.lost, job, lambda part: self._kills(pickled, part)))

    def _hire(self, tasks: int) -> None:
        """As many actors as there are workers, or tasks."""
        here = len(self._free) + len(self._busy) + len(self._coming)
        for _ in range(here, min(self._runtime.workers, tasks)):
            actor = self._actor.remote(self._runtime.threads)
            self._coming[actor.ready.remote()] = actor

    def _arrived(self, ref: Any) -> None:
        """An actor has a place, or could not start there."""
        actor = self._coming.pop(ref)
        try:
            self._ray.get(ref)
        except self._ray.exceptions.RayError as e:
            self._dismiss(actor)
            self._never_came += 1
            if self._never_came >= TRIES:
                said = one_line(str(e).strip().splitlines()[-1])
                raise UnfinishedError(
                    f"runtime.executor: a Ray worker cannot start ({said}); every node needs the same "
                    "packages, spr among them; the same command goes on"
                ) from None
            return
        self._never_came = 0
        self._free.append(actor)

    def _without_place(self) -> str:
        found = self._ray.cluster_resources()
        needs = ", ".join(f"{count:g} {name}" for name, count in self._needs.items() if count)
        has = ", ".join(f"{found.get(name, 0):g} {name}" for name, count in self._needs.items() if count)
        return (
            f"{len(self._coming)} of {self._runtime.workers} workers have no place in the Ray cluster (each "
            f"needs {needs}; it has {has} in all)"
        )

    def _kills(self, pickled: bytes, part: Task[Any, Any]) -> bool:
        while not self._free:
            self._hire(1)
            ready, _ = self._ray.wait([*self._coming])
            self._arrived(ready[0])
        try:
            self._ray.get(self._free[0].do.remote(pickled, part))
        except self._ray.exceptions.RayError:
            return True
        return False

    def _dismiss(self, actor: Any) -> None:
        with contextlib.suppress(Exception):  # it is gone already
            self._ray.kill(actor)


def _how(e: Exception) -> str:
    """How an actor was lost, for people."""
    if "node has died" in str(e):
        return "its node died"
    return "out of memory" if type(e).__name__ == "OutOfMemoryError" else "its process died"
