"""Records survive the trip to Parquet and back, whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from spr.errors import DataError
from spr.store.executor import Stage, Work, finish
from spr.store.identity import Origin
from spr.store.run import Run
from spr.types import Dropped, Prediction, Region, RegionObject, Score, ScoredCandidate, SeenImage

SCORE = Score(0.5, 0.25, 0.2, 0.3, 1.0)
RECORDS = [
    ScoredCandidate(
        "a#0/0",
        "a#0",
        0,
        "ü [1, 2]",
        SCORE,
        1,
        "x",
        Score(None, None, None, None, None, "no_reference"),
        0,
        ((0.1, 1.0, 2.0, 3.0),),
        1,
        ("reversed",),
    ),
    ScoredCandidate("a#0/1", "a#0", 1, "", SCORE, 0, "", SCORE, 0, (), 0),
]
REGION = Region(
    "a#0",
    "a",
    "a.png",
    10,
    20,
    0,
    (0.0, 0.0, 1.0, 1.0),
    "7",
    (RegionObject("7", "cat", (0.0, 0.0, 1.0, 1.0)),),
)


def no_work() -> Work[Any, Any]:
    raise AssertionError("nothing is missing")


def test_nested_records_round_trip(tmp_path: Path) -> None:
    """None, nested records, tuples of tuples and non-ASCII text come back equal."""
    run = Run(str(tmp_path / "run"))
    run.write_shard(0, RECORDS, ScoredCandidate, [Dropped("b", "why")], [], "scores")
    run.write_shard(1, [], ScoredCandidate, [], [], "scores")
    finish(run, Stage(Origin("score", {}, {}), ("scores",), ScoredCandidate, no_work), 2)
    assert run.read_stage(ScoredCandidate, "scores") == RECORDS
    assert list(run.dropped("scores")) == [Dropped("b", "why")]
    assert run.read_rows(Dropped, "scores", "dropped", "part-00000.parquet") == [Dropped("b", "why", "")]
    run.write_rows([REGION], Region, "r.parquet")
    assert run.read_rows(Region, "r.parquet") == [REGION]


def test_a_missing_box_is_null_not_zero(tmp_path: Path) -> None:
    """An unparsed answer must never look like a box at the origin."""
    run = Run(str(tmp_path))
    row = Prediction("i", "rec", "test", "a.png", "cat", (0.0, 0.0, 1.0, 1.0), "no idea", None, None)
    run.write_rows([row], Prediction, "p.parquet")
    assert run.read_rows(Prediction, "p.parquet") == [row]


def test_equal_rows_are_equal_bytes(tmp_path: Path) -> None:
    run = Run(str(tmp_path))
    run.write_rows(RECORDS, ScoredCandidate, "a.parquet")
    run.write_rows(RECORDS, ScoredCandidate, "b.parquet")
    assert run.read_bytes("a.parquet") == run.read_bytes("b.parquet")


def test_no_half_files(tmp_path: Path) -> None:
    """Nothing but the finished file is left after a write."""
    run = Run(str(tmp_path / "run"))
    run.write_json({"b": 1, "a": 2}, "x", "y.json")
    assert [p.name for p in (tmp_path / "run" / "x").iterdir()] == ["y.json"]
    assert run.read_json("x", "y.json") == {"a": 2, "b": 1}
    assert run.read_json("x", "none.json") is None


def test_missing_columns_name_the_file(tmp_path: Path) -> None:
    run = Run(str(tmp_path))
    run.write_rows([Dropped("a", "b")], Dropped, "p.parquet")
    with pytest.raises(DataError, match=r"p\.parquet: columns .* are missing"):
        run.read_rows(Region, "p.parquet")


def test_remote_paths_go_through_fsspec() -> None:
    """The same calls work on any fsspec file system."""
    run = Run("memory://spr-test/run")
    run.write_shard(0, [REGION], Region, [], [SeenImage("a.png", 7, "d")], "regions")
    finish(run, Stage(Origin("regions", {}, {}), ("regions",), Region, no_work), 1)
    assert list(run.seen_images("regions")) == [SeenImage("a.png", 7, "d")]
    assert run.shard_names("regions") == ["part-00000.parquet"]
    assert run.read_stage(Region, "regions") == [REGION]
    run.remove("regions")
    assert run.shard_names("regions") == []
