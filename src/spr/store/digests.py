"""What a file holds, as a digest: the same wherever it lies and whenever it was written.

In: paths that fsspec reads. Out: SHA-256, in hex. A file is read once for each of its states: beside
its digest the cache keeps size, times and inode (a store without a file system: its own tag), and a file that
still has these is not read again.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from spr.store.files import cache_folder

SETTLED = 2.0  # ours: seconds after which a file that has the same times is the same file
_BLOCK = 1 << 20
_AT_ONCE = 8


def digest(data: bytes) -> str:
    """The digest of some bytes."""
    return hashlib.sha256(data).hexdigest()


def file_digest(path: str) -> str:
    """The digest of a file. Raises FileNotFoundError."""
    fs, inner = fsspec.core.url_to_fs(path)
    return files_digest(fs, str(inner), [""])


def files_digest(fs: Any, base: str, names: Iterable[str]) -> str:
    """The digest of some files below `base` ("" = itself), with their names. Raises FileNotFoundError."""
    chosen = sorted(names)
    paths = [f"{base.rstrip('/')}/{name}" if name else base for name in chosen]
    with _memory() as memory, ThreadPoolExecutor(_AT_ONCE) as pool:
        stamps = list(pool.map(lambda path: _stamp(fs, path), paths))
        known = memory.known(paths, stamps)
        missing = [(p, s) for p, s in zip(paths, stamps, strict=True) if p not in known]
        for (path, stamp), found in zip(missing, pool.map(lambda m: _read(fs, m[0]), missing), strict=True):
            known[path] = found
            if stamp == _stamp(fs, path):
                memory.learn(path, stamp, found)
    if chosen == [""]:
        return known[base]
    total = hashlib.sha256()
    for name, path in zip(chosen, paths, strict=True):
        total.update(f"{name}:{known[path]}\n".encode("utf-8", "surrogateescape"))
    return total.hexdigest()


def _read(fs: Any, path: str) -> str:
    total = hashlib.sha256()
    with fs.open(path, "rb") as file:
        while block := file.read(_BLOCK):
            total.update(block)
    return total.hexdigest()


def _stamp(fs: Any, path: str) -> str:
    """What tells this state of a file from any other; "" when nothing does."""
    if isinstance(fs, LocalFileSystem):
        s = os.stat(path)
        if time.time() - max(s.st_mtime, s.st_ctime) < SETTLED:
            return ""  # it could change again within the resolution of its times
        return f"{s.st_size} {s.st_mtime_ns} {s.st_ctime_ns} {s.st_ino} {s.st_dev}"
    info = fs.info(path)
    tag = info.get("ETag") or info.get("etag") or info.get("md5Hash") or info.get("LastModified")
    return f"{info.get('size')} {tag}" if tag else ""


class _Memory:
    """Digests that were computed before. Without a place to write it remembers nothing, which costs time
    alone.
    """

    def __init__(self, database: sqlite3.Connection | None) -> None:
        self._database = database

    def known(self, paths: list[str], stamps: list[str]) -> dict[str, str]:
        """The digests of those paths whose stamp is still the one that they had."""
        found: dict[str, str] = {}
        for path, stamp in zip(paths, stamps, strict=True):
            asked = "SELECT digest FROM digests WHERE path = ? AND stamp = ?"
            if stamp and (row := self._ask(asked, (path, stamp))) is not None:
                found[path] = str(row[0])
        return found

    def learn(self, path: str, stamp: str, found: str) -> None:
        """Keep a digest."""
        if stamp:
            self._ask("INSERT OR REPLACE INTO digests VALUES (?, ?, ?)", (path, stamp, found))

    def _ask(self, statement: str, values: tuple[str, ...]) -> tuple[Any, ...] | None:
        if self._database is None:
            return None
        try:
            row: tuple[Any, ...] | None = self._database.execute(statement, values).fetchone()
        except (sqlite3.Error, UnicodeError):
            return None
        return row


@contextlib.contextmanager
def _memory() -> Iterator[_Memory]:
    try:
        cache_folder().mkdir(parents=True, exist_ok=True)
        database = sqlite3.connect(cache_folder() / "digests.sqlite", timeout=5.0)
        database.execute(
            "CREATE TABLE IF NOT EXISTS digests (path TEXT PRIMARY KEY, stamp TEXT, digest TEXT)"
        )
    except (sqlite3.Error, OSError):
        yield _Memory(None)
        return
    with contextlib.closing(database):
        yield _Memory(database)
        with contextlib.suppress(sqlite3.Error):
            database.commit()
