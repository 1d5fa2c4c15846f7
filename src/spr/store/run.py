"""A run folder: bytes, JSON and shards of records under any fsspec path, written so that a killed run loses
at most the shard it was on.

A stage's folder:

    part-00000.parquet …            rows of shard 0 …
    dropped/part-00000.parquet …    what shard 0 left out, with reasons
    images/part-00000.parquet …     images that shard 0 was the first to open, with digests of their bytes
    _config.json                    what the stage is made from (refuses to go on with something else)
    _stage.json                     written last: its files with their checksums, counts, reasons, versions
    _times.json                     how long it took: nothing else differs between two equal runs

Every file is written under a temporary name, flushed and renamed. A shard is finished when its `part` file
exists: what belongs to it is written first. A stage that is read is checked against its `_stage.json`: every
file is there, none is more, each has its checksum.
"""

from __future__ import annotations

import dataclasses
import io
import json
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from spr.errors import DamagedRunError, DataError
from spr.store.digests import digest
from spr.store.files import write_whole
from spr.store.folders import DROPPED, FOLDERS, IMAGES, STAGE_FILE
from spr.store.tables import from_table, parquet_bytes
from spr.types import Dropped, SeenImage, StageFile, StageSummary

T = TypeVar("T")
SEAL = "seal"  # of _stage.json: the digest of all its other fields
VERBS = {folder: verb for verb, folder in FOLDERS.items()}


@dataclass(frozen=True, slots=True)
class Run:
    """A run folder at an fsspec path. `about`: files that describe it, written when it is begun."""

    root: str
    about: Mapping[str, bytes] = field(default_factory=dict, compare=False, repr=False)

    # --- paths and bytes --------------------------------------------------------------------------

    def path(self, *parts: str) -> str:
        """The path of something inside the run."""
        return "/".join([self.root.rstrip("/"), *parts])

    def inner(self, *parts: str) -> tuple[Any, str]:
        """The file system of something inside the run, and its path there."""
        fs, root = fsspec.core.url_to_fs(self.root)
        return fs, "/".join([str(root).rstrip("/"), *parts])

    def begin(self) -> None:
        """Write the files that describe the run, unless they are there as they should be."""
        for name, content in self.about.items():
            self.keep_bytes(content, name)

    def exists(self, *parts: str) -> bool:
        """Whether there is such a file or folder."""
        fs, path = self.inner(*parts)
        return bool(fs.exists(path))

    def write_bytes(self, data: bytes, *parts: str) -> None:
        """Write a file whole or not at all."""
        fs, path = self.inner(*parts)
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
        """The bytes of a file of the run. Raises DamagedRunError when it is not there."""
        fs, path = self.inner(*parts)
        try:
            return bytes(fs.cat_file(path))
        except FileNotFoundError:
            raise self.damaged("is missing", *parts) from None

    def write_json(self, value: object, *parts: str) -> None:
        """Write JSON with sorted keys, so that equal values are equal bytes."""
        self.write_bytes(
            (json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode(), *parts
        )

    def keep_json(self, value: object, *parts: str) -> None:
        """Write a JSON file unless it says the same already."""
        if self.read_json(*parts) != json.loads(json.dumps(value)):
            self.write_json(value, *parts)

    def read_json(self, *parts: str) -> Any:
        """The JSON of a file of the run, or None when it does not exist. Raises DamagedRunError."""
        if not self.exists(*parts):
            return None
        try:
            return json.loads(self.read_bytes(*parts))
        except ValueError:
            raise self.damaged("is no JSON", *parts) from None

    def remove(self, *parts: str) -> None:
        """Delete a file or folder of the run, if it is there."""
        fs, path = self.inner(*parts)
        if fs.exists(path):
            fs.rm(path, recursive=True)

    def folders(self, *folder: str) -> list[str]:
        """Names of the folders inside a folder of the run, sorted; none when it does not exist."""
        fs, path = self.inner(*folder)
        if not fs.exists(path):
            return []
        return sorted(
            str(p["name"]).rstrip("/").rsplit("/", 1)[-1]
            for p in fs.ls(path, detail=True)
            if p["type"] == "directory"
        )

    # --- rows -------------------------------------------------------------------------------------

    def write_rows(self, rows: Sequence[Any], cls: type, *parts: str) -> None:
        """Write records as one Parquet file."""
        self.write_bytes(parquet_bytes(rows, cls), *parts)

    def read_rows(self, cls: type[T], *parts: str) -> list[T]:
        """The records of one Parquet file. Raises DamagedRunError for one that cannot be read, DataError for
        one with other columns.
        """
        return self._rows(cls, self.read_bytes(*parts), *parts)

    def _rows(self, cls: type[T], data: bytes, *parts: str) -> list[T]:
        try:
            table = pq.read_table(io.BytesIO(data), page_checksum_verification=True)
        except (pa.ArrowException, OSError) as e:
            raise self.damaged(f"cannot be read as Parquet ({str(e).splitlines()[0]})", *parts) from None
        try:
            return from_table(table, cls)
        except DataError as e:
            raise DataError(f"{self.path(*parts)}: {e}") from e

    def columns(self, *parts: str) -> list[str]:
        """Names of the columns of a Parquet file."""
        try:
            return list(pq.read_schema(io.BytesIO(self.read_bytes(*parts))).names)
        except (pa.ArrowException, OSError) as e:
            raise self.damaged(f"cannot be read as Parquet ({str(e).splitlines()[0]})", *parts) from None

    # --- stages -----------------------------------------------------------------------------------

    def shard_names(self, *folder: str) -> list[str]:
        """The finished shards of a stage, in order ("part-00000.parquet" …)."""
        fs, path = self.inner(*folder)
        if not fs.exists(path):
            return []
        names = [str(p).rsplit("/", 1)[-1] for p in fs.ls(path, detail=False)]
        return sorted(n for n in names if n.startswith("part-") and n.endswith(".parquet"))

    def write_shard(
        self,
        number: int,
        rows: Sequence[Any],
        cls: type,
        dropped: Sequence[Dropped],
        images: Sequence[SeenImage],
        *folder: str,
    ) -> None:
        """Write a finished shard; the rows last, whose presence says that the shard is finished."""
        name = shard_name(number)
        if images:
            self.write_rows(images, SeenImage, *folder, IMAGES, name)
        self.write_rows(dropped, Dropped, *folder, DROPPED, name)
        self.write_rows(rows, cls, *folder, name)

    def shards_as_written(self, cls: type[T], count: int, *folder: str) -> Iterator[list[T]]:
        """The rows of each of the first `count` shards of a stage that is not finished yet."""
        for number in range(count):
            yield self.read_rows(cls, *folder, shard_name(number))

    def list_shards(self, count: int, *folder: str) -> tuple[tuple[StageFile, ...], Mapping[str, int]]:
        """The files of the first `count` shards with rows and checksums, and what was dropped, by reason."""
        files: list[StageFile] = []
        reasons: Counter[str] = Counter()
        for number in range(count):
            for inner in ((), (DROPPED,), (IMAGES,)):
                where = (*inner, shard_name(number))
                if inner == (IMAGES,) and not self.exists(*folder, *where):
                    continue
                data = self.read_bytes(*folder, *where)
                if inner == (DROPPED,):
                    reasons.update(d.reason for d in self._rows(Dropped, data, *folder, *where))
                rows = pq.read_metadata(io.BytesIO(data)).num_rows
                files.append(StageFile("/".join(where), int(rows), digest(data)))
        return tuple(files), dict(sorted(reasons.items()))

    def write_summary(self, summary: StageSummary, more: Mapping[str, object], *folder: str) -> None:
        """Write `_stage.json`: the stage is finished. `more`: further fields for people."""
        value = json.loads(json.dumps({**dataclasses.asdict(summary), **more}))
        self.write_json({**value, SEAL: _seal(value)}, *folder, STAGE_FILE)

    def summary(self, *folder: str) -> StageSummary | None:
        """The `_stage.json` of a finished stage, or None while it is not finished. Raises DamagedRunError."""
        value = self.read_json(*folder, STAGE_FILE)
        if value is None:
            return None
        names = [f.name for f in dataclasses.fields(StageSummary)]
        if not isinstance(value, dict) or any(name not in value for name in (*names, SEAL)):
            raise self.damaged("was not written by this version of spr", *folder, STAGE_FILE)
        if value.pop(SEAL) != _seal(value):
            raise self.damaged("was changed after it was written", *folder, STAGE_FILE)
        kept = {name: value[name] for name in names}
        shards = tuple(StageFile(**shard) for shard in value["shards"])
        return StageSummary(**{**kept, "shards": shards, "warnings": tuple(value["warnings"])})

    def finished(self, *folder: str) -> StageSummary:
        """The summary of a stage that is going to be read. Raises DataError when it is not finished,
        DamagedRunError when a shard is missing or there is one more.
        """
        summary = self.summary(*folder)
        if summary is None:
            verb = VERBS.get(folder[0], folder[0])
            raise DataError(
                f"{self.path(*folder)}: stage {verb!r} is not finished; run `spr {verb}` first, or `spr run`"
            )
        listed = {file.name for file in summary.shards}
        parts = {name for name in listed if name.startswith("part-")}
        if parts:
            found = set(self.shard_names(*folder))
            for name in sorted(parts ^ found):
                said = "is missing" if name in parts else "is no shard of the finished stage"
                raise self.damaged(said, *folder, name)
        return summary

    def read_stage(self, cls: type[T], *folder: str) -> list[T]:
        """All rows of a finished stage, in order of shards. Raises DataError, DamagedRunError."""
        return list(self.iter_stage(cls, *folder))

    def iter_stage(self, cls: type[T], *folder: str) -> Iterator[T]:
        """The rows of a finished stage, one shard in memory at a time. Raises DataError, DamagedRunError."""
        return self._iter_files(cls, "", *folder)

    def dropped(self, *folder: str) -> Iterator[Dropped]:
        """What a finished stage left out. Raises DataError, DamagedRunError."""
        return self._iter_files(Dropped, f"{DROPPED}/", *folder)

    def seen_images(self, *folder: str) -> Iterator[SeenImage]:
        """The images that a finished stage was the first to open. Raises DataError, DamagedRunError."""
        return self._iter_files(SeenImage, f"{IMAGES}/", *folder)

    def image_digests(self, *folders: tuple[str, ...]) -> dict[str, str]:
        """The digests of all images that these finished stages opened."""
        return {seen.image: seen.digest for folder in folders for seen in self.seen_images(*folder)}

    def _iter_files(self, cls: type[T], prefix: str, *folder: str) -> Iterator[T]:
        for file in self.finished(*folder).shards:
            if file.name.startswith(f"{prefix}part-"):
                yield from self.read_listed(cls, file, *folder)

    def read_listed(self, cls: type[T], file: StageFile, *folder: str) -> list[T]:
        """The records of a file that stands in a stage's summary. Raises DataError, DamagedRunError."""
        return self._rows(cls, self.listed(file, *folder), *folder, file.name)

    def column_of(self, name: str, file: StageFile, *folder: str) -> pa.ChunkedArray:
        """One column of a file that stands in a stage's summary. Raises DamagedRunError."""
        return pq.read_table(io.BytesIO(self.listed(file, *folder)), columns=[name])[name]

    def listed(self, file: StageFile, *folder: str) -> bytes:
        """The bytes of a file that stands in a stage's summary. Raises DamagedRunError for other ones."""
        data = self.read_bytes(*folder, *file.name.split("/"))
        if digest(data) != file.sha256:
            raise self.damaged("is not the file that the stage wrote", *folder, file.name)
        return data

    def damaged(self, what: str, *parts: str) -> DamagedRunError:
        """The one line about a file of the run that is not as its stage wrote it."""
        verb = _verb(parts)
        mend = f"; use --overwrite {verb} to make it again" if verb else ""
        return DamagedRunError(f"{self.path(*parts)}: {what}{mend}")

    def nothing_left(self, what: str, why: str, *folder: str) -> DataError:
        """The one line about a finished stage in which no row is of use to what comes after it."""
        return DataError(
            f"{self.path(*folder)}: no {what} is left ({why}); once that is mended, --overwrite "
            f"{_verb(folder)} makes it again"
        )


def _verb(parts: Sequence[str]) -> str | None:
    """The stage in whose folder a path is."""
    return next((VERBS[part] for part in reversed(parts) if part in VERBS), None)


def _seal(value: Mapping[str, Any]) -> str:
    return digest(json.dumps(value, sort_keys=True).encode())


@dataclass(frozen=True, slots=True)
class SharingRun(Run):
    """A run some of whose folders stand in other runs, where they are read and written. Keys of `owners` are
    the parts of a folder's path.
    """

    owners: Mapping[tuple[str, ...], Run] = field(default_factory=dict)

    def owner(self, *folder: str) -> Run:
        """The run in which a folder stands."""
        found = (self.owners[folder[:n]] for n in range(len(folder), 0, -1) if folder[:n] in self.owners)
        return next(found, Run(self.root))

    def path(self, *parts: str) -> str:
        """The path of something inside the run."""
        return (
            Run.path(self, *parts) if (owner := self.owner(*parts)).root == self.root else owner.path(*parts)
        )

    def inner(self, *parts: str) -> tuple[Any, str]:
        """The file system of something inside the run, and its path there."""
        return (
            Run.inner(self, *parts)
            if (owner := self.owner(*parts)).root == self.root
            else owner.inner(*parts)
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
