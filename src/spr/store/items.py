"""The items of a stage, cut into batches that can travel: what travels are names, and a worker reads the rows
in the run folder.

    Listed      items that the caller has: names of images, questions
    Table       rows of a finished stage, by position
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import accumulate
from typing import Generic, Protocol, TypeAlias, TypeVar, runtime_checkable

import pyarrow as pa

from spr.store.folders import CONFIG_FILE, IMAGES
from spr.store.run import Run
from spr.types import SeenImage, StageFile

T = TypeVar("T")
Item = TypeVar("Item", covariant=True)
Batch: TypeAlias = Callable[[], Sequence[T]]  # picklable; called where the items are worked on


@runtime_checkable
class Items(Protocol[Item]):
    """Items in a fixed order."""

    def __len__(self) -> int: ...

    def batch(self, start: int, stop: int) -> Batch[Item]:
        """The items from `start` up to `stop`."""


@dataclass(frozen=True, slots=True)
class Listed(Generic[T]):
    """Items that are here, and travel."""

    items: Sequence[T]

    def __len__(self) -> int:
        return len(self.items)

    def batch(self, start: int, stop: int) -> Batch[T]:
        """The items from `start` up to `stop`."""
        return carried(self.items[start:stop])


def carried(items: Sequence[T]) -> Batch[T]:
    """These items, which travel."""
    return partial(_these, items)


def _these(items: Sequence[T]) -> Sequence[T]:
    return items


@dataclass(frozen=True, slots=True)
class OnDemand(Mapping[int, T]):
    """A mapping whose values are made when they are asked for: a stage of a million images has thousands of
    shards, and a few at work.
    """

    numbers: Sequence[int]
    make: Callable[[int], T]

    def __getitem__(self, number: int) -> T:
        return self.make(number)

    def __iter__(self) -> Iterator[int]:
        return iter(self.numbers)

    def __len__(self) -> int:
        return len(self.numbers)


@dataclass(frozen=True, slots=True)
class Rows(Generic[T]):
    """Some rows of a finished stage: the names of their files, with checksums."""

    run: Run
    row: type[T]
    folder: tuple[str, ...]
    parts: tuple[StageFile, ...]
    images: tuple[StageFile, ...]  # those that the same shards were the first to open
    skip: int = 0  # rows of the first part
    count: int | None = None  # none: all that follow

    def read(self) -> list[T]:
        """The rows. Raises DamagedRunError for a file that is not the one that was written."""
        rows = [row for part in self.parts for row in self.run.read_listed(self.row, part, *self.folder)]
        return rows[self.skip : None if self.count is None else self.skip + self.count]

    def seen(self) -> dict[str, str]:
        """The digests of the images that these rows' shards were the first to open."""
        files = (self.run.read_listed(SeenImage, file, *self.folder) for file in self.images)
        return {seen.image: seen.digest for rows in files for seen in rows}


class Table(Generic[T]):
    """All rows of a finished stage. Raises DataError, DamagedRunError when it is not finished, or one of its
    files is damaged: that is known before anybody works.
    """

    def __init__(self, run: Run, row: type[T], *folder: str) -> None:
        self._run, self._row, self._folder = run, row, folder
        files = run.finished(*folder).shards
        self._images = {file.name: file for file in files if file.name.startswith(f"{IMAGES}/")}
        self._parts = [file for file in files if file.name.startswith("part-")]
        for file in (*self._parts, *self._images.values()):
            run.listed(file, *folder)
        self._ends = list(accumulate(file.rows or 0 for file in self._parts))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def columns(self, name: str) -> Iterator[pa.ChunkedArray]:
        """A column, file by file; of files that have rows."""
        return (self._run.column_of(name, part, *self._folder) for part in self._parts if part.rows)

    def rows(self, start: int, stop: int) -> Rows[T]:
        """The rows from `start` up to `stop`."""
        first = bisect.bisect_right(self._ends, start)
        last = bisect.bisect_left(self._ends, stop)
        before = self._ends[first - 1] if first else 0
        return self._of(first, last, start - before, stop - start)

    def made_of(self, start: int, stop: int) -> Rows[T]:
        """All rows of the shards that were made of the items from `start` up to `stop` of the stage."""
        return self._of(start // self._shard_size, (stop - 1) // self._shard_size)

    @cached_property
    def _shard_size(self) -> int:
        return int(self._run.read_json(*self._folder, CONFIG_FILE)["shard_size"])

    def _of(self, first: int, last: int, skip: int = 0, count: int | None = None) -> Rows[T]:
        parts = tuple(self._parts[first : last + 1])
        images = (self._images.get(f"{IMAGES}/{part.name}") for part in parts)
        found = tuple(file for file in images if file is not None)
        return Rows(self._run, self._row, self._folder, parts, found, skip, count)
