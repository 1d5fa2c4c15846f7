"""A stream of prompts through one batch (`batching: throughput`): rows leave it when their answers have
ended, and new ones take their place.

How many prompts run at once follows from the memory that is free and from what a token of the cache takes;
where memory does not suffice after all, half as many go on, and more again once that went well. New rows go
in when they are at least a quarter of those inside: each time the whole cache is laid out anew.
Prompts of a picture go in together and share their start; pictures of about the same length are read at once.
"""

from __future__ import annotations

import logging
import math
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from spr.models.cache import bytes_per_token
from spr.models.decode import Batch, Decoder, Task, Tokens, samples_of
from spr.models.memory import available_bytes, memory_errors
from spr.store.ahead import Ahead
from spr.types import Sampling

log = logging.getLogger(__name__)
ANSWERS = 256  # ours: at most so many at once; more is no faster
SHARE = 0.4  # ours: of the free memory for the cache; the rest is for what a step needs besides
READ = 8192  # ours: tokens that are read at once
UNEVEN = 1.25  # ours: how much longer the longest of them may be than the shortest
PATIENCE = 4  # ours: after so many times as many prompts as are let in, twice as many are


class Flow:
    """Answers of one decoder. What it learns about memory it keeps."""

    def __init__(self, decoder: Decoder) -> None:
        self.decoder = decoder
        self.most = ANSWERS  # prompts at once
        self._token_bytes: float | None = None
        self._calm, self._patience, self._grown = 0, PATIENCE, False

    def answers(
        self, source: Ahead[Any, list[Task]], sampling: Sampling
    ) -> Iterator[tuple[Task, list[Tokens] | MemoryError]]:
        """Each task with its different answers, or why it has none, as they end."""
        batch: Batch | None = None
        waiting: deque[Task] = deque()
        inside: dict[int, Task] = {}
        written: dict[int, dict[int, Tokens]] = {}
        n = samples_of(sampling)
        while True:
            new: list[Task] = []
            if batch is None or not batch.unseen:
                new = self._newcomers(source, waiting, inside, n, batch)
                if batch is None and not new:
                    return
                inside.update((task.name, task) for task in new)
            try:
                with memory_errors():
                    batch = self._filled(batch, new, sampling)
                    found = self.decoder.step(batch, sampling)
                    if not batch.going_on:
                        batch = None
            except MemoryError as e:
                tasks = list(inside.values())
                batch, inside = None, {}
                for task in tasks:
                    written.pop(task.name, None)
                if len(tasks) == 1:
                    yield tasks[0], e
                else:
                    waiting.extendleft(reversed(tasks))
                    self._let_in_fewer(len(tasks) // 2)
                continue
            for (name, sample), tokens in found.items():
                answers = written.setdefault(name, {})
                answers[sample] = tokens
                if len(answers) == n:
                    del written[name]
                    self._went_well()
                    yield inside.pop(name), [answers[k] for k in range(n)]

    # --- who goes in ------------------------------------------------------------------------------

    def _newcomers(
        self,
        source: Ahead[Any, list[Task]],
        waiting: deque[Task],
        inside: Mapping[int, Task],
        n: int,
        batch: Batch | None,
    ) -> list[Task]:
        """Those that go in now; `waiting` are ready ones that do not. None go in where none are left."""
        allowed = self._allowed([*inside.values(), *waiting], n, batch)
        while len(waiting) + len(inside) < allowed and (source.ready or not (waiting or inside)):
            if (more := next(source, None)) is None:
                break
            waiting.extend(more)
            allowed = self._allowed([*inside.values(), *waiting], n, batch)
        room = min(allowed - len(inside), len(waiting))
        if batch is None:
            if self._token_bytes is None:  # the prompts of one picture say what a token takes
                room = min(room, sum(t.row.picture is waiting[0].row.picture for t in waiting))
        elif room < max(1, len(inside) // 4) or not self.decoder.joins:
            return []
        return [waiting.popleft() for _ in range(room)]

    def _filled(self, batch: Batch | None, new: Sequence[Task], sampling: Sampling) -> Batch:
        """The batch with new tasks, and without rows that have ended when half of them have."""
        if batch is not None and not new:
            self.decoder.drop_ended(batch)
            return batch
        self.decoder.encoder.encode([t.row.picture for t in new if t.row.picture is not None])
        parts = parts_of(new) if self.decoder.joins else [list(new)]
        batches = [self.decoder.prefill(part, sampling) for part in parts]
        for task in new:
            if task.row.picture is not None:
                task.row.picture.features = None  # read, and not asked for again
        if self._token_bytes is None:
            self._token_bytes = bytes_per_token(batches[0].cache)
        return self.decoder.join([*([batch] if batch is not None else []), *batches])

    # --- how many ---------------------------------------------------------------------------------

    def _allowed(self, tasks: Sequence[Task], n: int, batch: Batch | None) -> int:
        """How many prompts may be inside; at least one."""
        most = min(self.most, max(1, ANSWERS // n))
        if self._token_bytes is None or not tasks:
            return most
        pictures = Counter(id(task.row.picture) for task in tasks)

        def tokens(task: Task) -> float:
            """Columns that a prompt needs, with its part of the picture."""
            image = task.row.picture.tokens if self.decoder.shares and task.row.picture is not None else 0
            own = len(task.row.ids) - image + task.limit
            return n * own + image / pictures[id(task.row.picture)]

        held = batch.tokens * self._token_bytes if batch is not None else 0
        free = SHARE * (available_bytes(self.decoder.model.device) + held)
        return max(1, min(most, int(free / (self._token_bytes * max(map(tokens, tasks))))))

    def _let_in_fewer(self, most: int) -> None:
        if self._grown:  # too soon
            self._patience *= 2
        self.most, self._calm, self._grown = most, 0, False
        log.warning("a batch did not fit into memory: going on with %d prompts at once", most)

    def _went_well(self) -> None:
        self._calm += 1
        if self.most < ANSWERS and self._calm >= self._patience * self.most:
            self.most, self._calm, self._grown = min(2 * self.most, ANSWERS), 0, True
            log.info("going on with %d prompts at once again", self.most)


def parts_of(tasks: Sequence[Task]) -> list[list[Task]]:
    """Tasks that are read together: whole pictures, of about the same length, within READ tokens."""
    pictures: dict[int, list[Task]] = {}
    for task in tasks:
        pictures.setdefault(id(task.row.picture), []).append(task)

    def length(group: Sequence[Task]) -> int:
        return max(len(task.row.ids) for task in group)

    found: list[list[Task]] = []
    shortest, groups = math.inf, 0
    for group in sorted(pictures.values(), key=length):
        if length(group) > UNEVEN * shortest or (groups + 1) * length(group) > READ or not found:
            found.append([])
            shortest, groups = length(group), 0
        found[-1] += group
        groups += 1
    return found
