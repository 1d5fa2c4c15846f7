"""A digest is of the content, and a file is read once for each of its states."""

from __future__ import annotations

import os
from pathlib import Path

import fsspec
import pytest

from spr.store import digests
from spr.store.digests import digest, file_digest, files_digest


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPR_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that are really read."""
    found: list[str] = []
    read = digests._read
    monkeypatch.setattr(digests, "_read", lambda fs, path: found.append(Path(path).name) or read(fs, path))
    return found


def test_a_settled_file_is_read_once(
    tmp_path: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """16 GB of weights are read in the first command, not in each. A file that has just been written is not
    trusted yet: it could change again within the resolution of its times.
    """
    path = tmp_path / "weights"
    path.write_bytes(b"1")
    assert [file_digest(str(path)) for _ in range(2)] == [digest(b"1")] * 2
    assert reads == ["weights"] * 2
    monkeypatch.setattr(digests, "SETTLED", 0.0)
    assert [file_digest(str(path)) for _ in range(3)] == [digest(b"1")] * 3
    assert reads == ["weights"] * 3


def test_a_change_is_seen_even_when_size_and_time_are_put_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`cp -p`, `touch -r`, rsync: the time of the change itself cannot be set."""
    monkeypatch.setattr(digests, "SETTLED", 0.0)
    path = tmp_path / "weights"
    path.write_bytes(b"1")
    before = path.stat()
    assert file_digest(str(path)) == digest(b"1")
    path.write_bytes(b"2")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file_digest(str(path)) == digest(b"2")


def test_a_folder_is_its_names_and_contents_wherever_it_lies(tmp_path: Path) -> None:
    fs = fsspec.filesystem("file")
    found = set()
    for name in ("here", "there"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "a").write_bytes(b"1")
        (folder / "b").write_bytes(b"2")
        found.add(files_digest(fs, str(folder), ["a", "b"]))
    assert len(found) == 1
    (tmp_path / "there" / "b").write_bytes(b"3")
    assert files_digest(fs, str(tmp_path / "there"), ["a", "b"]) not in found
    assert files_digest(fs, str(tmp_path / "here"), ["a"]) not in found


def test_files_of_a_store_have_digests_too() -> None:
    """Memory has no tag for a state of a file, so it is read each time."""
    with fsspec.open("memory://digests/x", "wb") as f:
        f.write(b"1")
    assert file_digest("memory://digests/x") == digest(b"1")
    with fsspec.open("memory://digests/x", "wb") as f:
        f.write(b"2")
    assert file_digest("memory://digests/x") == digest(b"2")


def test_without_a_cache_it_is_only_slower(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"1")
    monkeypatch.setenv("SPR_CACHE", str(tmp_path / "file" / "no folder"))
    assert file_digest(str(tmp_path / "file")) == digest(b"1")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "digests.sqlite").write_bytes(b"no database" * 1000)
    monkeypatch.setenv("SPR_CACHE", str(tmp_path / "broken"))
    assert file_digest(str(tmp_path / "file")) == digest(b"1")
