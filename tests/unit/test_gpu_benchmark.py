"""The script for GPUs, on tiny models on the CPU: every part runs, and what is compared is equal."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from benchmarks.gpu import PARTS, Bench, main

REPO = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def figures() -> list[dict[str, Any]]:
    """What a run in its own process prints: it sets warnings and signals."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", "--cpu-smoke"],
        cwd=REPO,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_every_part_runs(figures: list[dict[str, Any]]) -> None:
    assert not [f for f in figures if {"error", "flex_error", "skipped"} & f.keys()]
    assert [figures[0]["figure"], figures[-1]["figure"]] == ["device", "end"]
    names = {f["figure"] for f in figures}
    assert names >= {"matmul", "describe", "score", "train", "train_trl", "train_plain_rows", "masks"}


def test_what_is_compared_is_equal(figures: list[dict[str, Any]]) -> None:
    compared = {f["figure"]: f["equal"] for f in figures if "equal" in f}
    assert compared == dict.fromkeys(("equal_greedy", "equal_training", "equal_scores", "masks_equal"), True)
    packed = [f["packed_difference"] for f in figures if f["figure"] == "train"]
    assert len(packed) == 2
    assert max(packed) < 1e-3
    assert all(
        f["loss_first_step_is_ln2"] for f in figures if f["figure"].startswith("train") and "rows" in f
    )


def test_what_does_not_fit_is_skipped_and_what_fails_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    bench = Bench(60.0, smoke=False)
    bench.device = "cpu"

    def fails() -> dict[str, Any]:
        raise ValueError("first line\nsecond line")

    assert not bench.attempt("long", dict, seconds=100.0)
    assert not bench.attempt("broken", fails, seconds=1.0, model="tiny")
    bench.end = bench.part_end = time.monotonic() + 1.0
    assert not bench.attempt("slow", lambda: time.sleep(30) or {}, seconds=0.5)
    long, broken, slow = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert long["skipped"].startswith("needs about 100 s")
    assert broken["model"] == "tiny"
    assert broken["error"].startswith("ValueError: first line | test_gpu_benchmark.py:")
    assert slow["error"] == "out of time"
    assert slow["at_s"] < 10


def test_an_unknown_part_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--cpu-smoke", "--parts", "train,mask"])
    assert f"found 'mask', expected some of {', '.join(PARTS)}" in capsys.readouterr().err
