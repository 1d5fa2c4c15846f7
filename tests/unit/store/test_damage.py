"""A stage that is read is the one that was written: whatever happens to one of its files is noticed, with the
file and the way out in one line.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spr.errors import DamagedRunError, DataError
from spr.store.executor import Stage, run_stage
from spr.store.identity import Origin
from spr.store.progress import Progress
from spr.store.run import Run
from spr.store.runtime import RuntimeConfig
from spr.types import Dropped, ImageRecord, SeenImage, ShardResult

WHERE = ("scores",)


def _make() -> Any:
    def work(items: list[int]) -> ShardResult[ImageRecord]:
        return ShardResult(
            [ImageRecord(f"image {i}", "p", i, i) for i in items if i % 3],
            [Dropped(str(i), "three") for i in items if i % 3 == 0],
            images=[SeenImage(f"image {i}", i, "d") for i in items],
        )

    return work


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished stage of four shards, in four rows each."""
    folder = tmp_path_factory.mktemp("whole")
    stage = Stage(Origin("score", {"a": 1}, {"b": "2"}), WHERE, ImageRecord, _make)
    run_stage(Run(str(folder)), stage, list(range(24)), RuntimeConfig(1, 1, 6), Progress())
    return folder


def _read(folder: Path) -> list[Any]:
    """All that later stages read of it."""
    run = Run(str(folder))
    return [
        run.read_stage(ImageRecord, *WHERE),
        list(run.dropped(*WHERE)),
        list(run.seen_images(*WHERE)),
        run.finished(*WHERE),
    ]


FILES = sorted(
    [f"{inner}part-0000{n}.parquet" for inner in ("", "dropped/", "images/") for n in range(4)]
    + ["_stage.json"]
)


@given(
    st.sampled_from(FILES),
    st.sampled_from(["flip", "cut", "empty", "gone", "swap"]),
    st.integers(0, 1 << 30),
    st.integers(0, 7),
)
@settings(max_examples=300, deadline=None, derandomize=True)
def test_any_damage_is_noticed(whole: Path, file: str, kind: str, place: int, bit: int) -> None:
    """Of 300 bits that were flipped once, 43 were read as other records. A flip of white space in
    `_stage.json` may be harmless; then the rows are what they were.
    """
    copy = whole.parent / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(whole, copy)
    path = copy / WHERE[0] / file
    data = bytearray(path.read_bytes())
    match kind:
        case "flip":
            data[place % len(data)] ^= 1 << bit
            path.write_bytes(data)
        case "cut":
            path.write_bytes(data[: place % len(data)])
        case "empty":
            path.write_bytes(b"")
        case "gone":
            path.unlink()
        case "swap":
            other = FILES[(FILES.index(file) + 1 + place % (len(FILES) - 1)) % len(FILES)]
            path.write_bytes((copy / WHERE[0] / other).read_bytes())
    found: list[Any] | None = None
    error: Exception | None = None
    try:
        found = _read(copy)
    except (DataError, DamagedRunError) as e:
        error = e
    if isinstance(error, DataError):
        assert (file, kind) == ("_stage.json", "gone"), error
    elif error is None:
        assert (file, kind, found) == ("_stage.json", "flip", _read(whole))
    else:
        assert path.name in str(error)
        assert "--overwrite score" in str(error)
        assert "\n" not in str(error)


def test_a_shard_more_is_noticed(whole: Path, tmp_path: Path) -> None:
    """A copy beside the shards (another run's, a sync tool's) would be read as further rows."""
    shutil.copytree(whole, tmp_path / "copy")
    folder = tmp_path / "copy" / WHERE[0]
    shutil.copy(folder / "part-00000.parquet", folder / "part-00004.parquet")
    with pytest.raises(DamagedRunError, match=r"part-00004\.parquet: is no shard .*--overwrite score"):
        _read(tmp_path / "copy")
