"""`spr run` by several processes of one launch, as torchrun and `accelerate launch` start them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from spr.store.folders import ADAPTER
from spr.store.run import Run
from tests.e2e.tools import STEPS, changed, shards_of
from tests.unit.training.test_processes import world as ranks


@pytest.mark.slow
def test_a_launch_makes_one_run(finished: tuple[Run, Path], tmp_path: Path) -> None:
    """Rank 0 does what is not training, once; all train; the shards are those of one process, byte for byte,
    and the losses its losses. Two rounds: the second one describes after a training.
    """
    run, config = finished
    other = tmp_path / "run"
    words = ["run", str(config), *changed(f"run={other}", "train.rounds=2")]
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "spr", *words],
            env={**os.environ, **environment, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for environment in ranks()
    ]
    said = [process.communicate(timeout=500)[1] for process in started]
    assert [process.returncode for process in started] == [0, 0], said
    assert shards_of(Run(str(other))) == shards_of(run, STEPS)
    for name in ("spr", "spr_paper"):
        ours, theirs = (
            [json.loads(line)["loss"] for line in r.read_bytes(ADAPTER, name, "history.jsonl").splitlines()]
            for r in (Run(str(other)), run)
        )
        assert ours == pytest.approx(theirs, abs=1e-4)
    assert "train" not in said[1]  # rank 1 says nothing that rank 0 says
    assert (other / "report.html").exists()
