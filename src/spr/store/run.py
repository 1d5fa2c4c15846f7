"""A run folder: bytes, JSON and shards of records under any fsspec path, written so that a killed run loses
at most the shard it was on.

A stage's folder:

    part-00000.parquet …            rows of shard 0 …
    dropped/part-00000.parquet …    what shard 0 left out, with reasons
    _config.json                    what the stage was started with (refuses to go on with something else)
    _stage.json                     written last: counts, seconds, versions

Every file is written under a temporary name and renamed. A shard is finished when its `part` file exists: the
dropped rows are written first.
"""

from __future__ import annotations

import io
import json
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import fsspec
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from spr.errors import DataError
from spr.store.files import write_whole
from spr.store.folders import DROPPED, STAGE_FILE
from spr.store.tables import from_table, parquet_bytes
from spr.types import Dropped, StageSummary

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Run:
    """A run folder at an fsspec path."""

    root: str

    def path(self, *parts: str) -> str:
        """The path of something inside the run."""
        return "/".join([self.root.rstrip("/"), *parts])

    def _fs(self) -> tuple[Any, str]:
        fs, root = fsspec.core.url_to_fs(self.root)
        return fs, str(root)

    def _inner(self, *parts: str) -> tuple[Any, str]:
        fs, root = self._fs()
        return fs, "/".join([root.rstrip("/"), *parts])

    def exists(self, *parts: str) -> bool:
        """Whether there is such a file or folder."""
        fs, path = self._inner(*parts)
        return bool(fs.exists(path))

    def write_bytes(self, data: bytes, *parts: str) -> None:
        """Write a file whole or not at all: under a temporary name, then renamed."""
        fs, path = self._inner(*parts)
        fs.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
        if isinstance(fs, LocalFileSystem):
            write_whole(path, data)
            return
        temporary = f"{path}.{uuid.uuid4().hex[:8]}.tmp"
        with fs.open(temporary, "wb") as f:
            f.write(data)
        fs.mv(temporary, path)

    def keep_bytes(self, data: bytes, *parts: str) -> None:
        """Write a file unless it holds these bytes already: a finished run stays as it is."""
        if not self.exists(*parts) or self.read_bytes(*parts) != data:
            self.write_bytes(data, *parts)

    def read_bytes(self, *parts: str) -> bytes:
        """The bytes of a file of the run."""
        fs, path = self._inner(*parts)
        return bytes(fs.cat_file(path))

    def write_json(self, value: object, *parts: str) -> None:
        """Write JSON with sorted keys, so that equal values are equal bytes."""
        self.write_bytes(
            (json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode(), *parts
        )

    def read_json(self, *parts: str) -> Any:
        """The JSON of a file of the run, or None when it does not exist."""
        return json.loads(self.read_bytes(*parts)) if self.exists(*parts) else None

    def remove(self, *parts: str) -> None:
        """Delete a file or folder of the run, if it is there."""
        fs, path = self._inner(*parts)
        if fs.exists(path):
            fs.rm(path, recursive=True)

    def write_rows(self, rows: Sequence[Any], cls: type, *parts: str) -> None:
        """Write records as one Parquet file."""
        self.write_bytes(parquet_bytes(rows, cls), *parts)

    def read_rows(self, cls: type[T], *parts: str) -> list[T]:
        """The records of one Parquet file."""
        try:
            return from_table(pq.read_table(io.BytesIO(self.read_bytes(*parts))), cls)
        except DataError as e:
            raise DataError(f"{self.path(*parts)}: {e}") from e

    def count(self, *parts: str) -> int:
        """Rows of a Parquet file, without reading them."""
        return int(pq.read_metadata(io.BytesIO(self.read_bytes(*parts))).num_rows)

    def columns(self, *parts: str) -> list[str]:
        """Names of the columns of a Parquet file."""
        return list(pq.read_schema(io.BytesIO(self.read_bytes(*parts))).names)

    def shard_names(self, *folder: str) -> list[str]:
        """The finished shards of a stage, in order ("part-00000.parquet" …)."""
        fs, path = self._inner(*folder)
        if not fs.exists(path):
            return []
        names = [str(p).rsplit("/", 1)[-1] for p in fs.ls(path, detail=False)]
        return sorted(n for n in names if n.startswith("part-") and n.endswith(".parquet"))

    def folders(self, *folder: str) -> list[str]:
        """Names of the folders inside a folder of the run, sorted; none when it does not exist."""
        fs, path = self._inner(*folder)
        if not fs.exists(path):
            return []
        return sorted(
            str(p["name"]).rstrip("/").rsplit("/", 1)[-1]
            for p in fs.ls(path, detail=True)
            if p["type"] == "directory"
        )

    def read_stage(self, cls: type[T], *folder: str) -> list[T]:
        """All rows of a stage, in order of shards."""
        return list(self.iter_stage(cls, *folder))

    def iter_stage(self, cls: type[T], *folder: str) -> Iterator[T]:
        """The rows of a stage, one shard in memory at a time."""
        for name in self.shard_names(*folder):
            yield from self.read_rows(cls, *folder, name)

    def write_shard(
        self, number: int, rows: Sequence[Any], cls: type, dropped: Iterable[Dropped], *folder: str
    ) -> None:
        """Write a finished shard: what was dropped first, then the rows, whose presence says that the shard
        is finished.
        """
        name = shard_name(number)
        self.write_rows(list(dropped), Dropped, *folder, DROPPED, name)
        self.write_rows(rows, cls, *folder, name)

    def summary(self, *folder: str) -> StageSummary | None:
        """The `_stage.json` of a finished stage, or None while it is not finished."""
        value = self.read_json(*folder, STAGE_FILE)
        return StageSummary(**value) if value is not None else None


@dataclass(frozen=True, slots=True)
class SharingRun(Run):
    """A run some of whose folders stand in other runs, where they are read and written. Keys of `owners` are
    the parts of a folder's path.
    """

    owners: Mapping[tuple[str, ...], Run]

    def owner(self, *folder: str) -> Run:
        """The run in which a folder stands."""
        found = (self.owners[folder[:n]] for n in range(len(folder), 0, -1) if folder[:n] in self.owners)
        return next(found, Run(self.root))

    def path(self, *parts: str) -> str:
        """The path of something inside the run."""
        return (
            Run.path(self, *parts) if (owner := self.owner(*parts)).root == self.root else owner.path(*parts)
        )

    def _inner(self, *parts: str) -> tuple[Any, str]:
        return (
            Run._inner(self, *parts)
            if (owner := self.owner(*parts)).root == self.root
            else owner._inner(*parts)
        )

    def folders(self, *folder: str) -> list[str]:
        """Names of the folders inside a folder, those that stand elsewhere too."""
        n = len(folder)
        elsewhere = [
            key[n] for key in self.owners if len(key) > n and key[:n] == folder and self.exists(*key[: n + 1])
        ]
        return sorted({*Run.folders(self, *folder), *elsewhere})


def shard_name(number: int) -> str:
    """File name of shard `number`."""
    return f"part-{number:05d}.parquet"
