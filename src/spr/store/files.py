"""Local files that are there whole or not at all: written under a temporary name, flushed to the disk,
renamed. What a kill leaves of them is cleaned by the next writer of the folder.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from spr.errors import DataError

ENDING = ".tmp"  # of a temporary name
BUILDING = ".building-"  # begins the name of a temporary folder


@contextlib.contextmanager
def whole(path: str | Path) -> Iterator[Path]:
    """A temporary path beside `path`, for a file or a folder. When the block ends, what stands there is
    flushed and takes the name; after an error nothing is left of it.
    """
    path = Path(path)
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}{ENDING}")
    try:
        yield temporary
        for file in [p for p in temporary.rglob("*") if p.is_file()] if temporary.is_dir() else [temporary]:
            _flush(file)
        os.replace(temporary, path)
    except BaseException:
        remove(temporary)
        raise
    _flush(path.parent)


def write_whole(path: str | Path, data: bytes | str) -> None:
    """Write a file whole or not at all; text is UTF-8. A write that falls short (a full disk, a quota) is an
    OSError.
    """
    with whole(path) as temporary, temporary.open("wb") as file:
        file.write(data.encode() if isinstance(data, str) else data)


def move_whole(source: Path, path: Path) -> None:
    """Give a finished file of the same disk its final name, flushed."""
    _flush(source)
    os.replace(source, path)
    _flush(path.parent)


def remove(path: Path) -> None:
    """Delete a file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def check_empty(folder: str | Path) -> None:
    """Raise DataError unless a folder is new or empty."""
    path = Path(folder)
    if path.exists() and not path.is_dir():
        raise DataError(f"{path}: found a file, expected a new or an empty folder")
    if path.is_dir() and any(path.iterdir()):
        raise DataError(f"{path}: found files, expected a new or an empty folder")


def cache_folder() -> Path:
    """Where files of this user are kept between runs: $SPR_CACHE, or $XDG_CACHE_HOME/spr, or ~/.cache/spr."""
    folder = os.environ.get("SPR_CACHE")
    return (
        Path(folder) if folder else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "spr"
    )


def _flush(path: Path) -> None:
    """Wait until the disk has a file, or the names in a folder."""
    if os.name != "posix" and path.is_dir():
        return  # cannot be opened there
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
