"""The stages and an evaluation on a Ray cluster: the files of a local run, also when a worker is killed and a
node goes away meanwhile.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from spr.store.run import Run
from tests.e2e.tools import STEPS, shards_of
from tests.support.cluster import two_nodes

PATIENCE = 240.0
LOST = "warning: a worker was killed ("  # its process, or its node


def on_ray(words: list[str], address: str, log: Path, disturb: Callable[[], bool] | None = None) -> None:
    """`spr …` on a cluster; disturbed, as soon as that can be done, until it says so."""
    with (
        log.open("w") as lines,
        subprocess.Popen(
            [sys.executable, "-m", "spr", *words, "--executor", "ray"],
            env={**os.environ, "RAY_ADDRESS": address},
            stdout=lines,
            stderr=subprocess.STDOUT,
        ) as process,
    ):
        begin = last = time.monotonic()
        while process.poll() is None:
            now = time.monotonic()
            assert now < begin + PATIENCE, log.read_text()
            if disturb is not None and LOST not in log.read_text() and now > last + 3 and disturb():
                last = now
            time.sleep(0.02)
    assert process.returncode == 0, log.read_text()
    assert (LOST in log.read_text()) == (disturb is not None), log.read_text()


@pytest.mark.slow
def test_a_cluster_that_loses_a_worker_and_a_node_writes_the_files_of_a_local_run(
    finished: tuple[Run, Path], tmp_path: Path
) -> None:
    """A worker is killed before it has described, a node goes before it has scored: each costs its shards'
    time. What is left of the cluster evaluates.
    """
    whole, config = finished
    run, log = Run(str(tmp_path / "run")), tmp_path / "log"
    places = ["--set", f"run={run.root}", "--set", "runtime.workers=2"]

    def kill() -> bool:
        busy = cluster.at_work(cluster.head)
        for process in busy:
            process.kill()
        return bool(busy)

    def remove() -> bool:
        busy = bool(cluster.at_work(cluster.other))
        if busy:
            cluster.remove_other()
        return busy

    with two_nodes(tmp_path / "cluster.log") as cluster:
        on_ray(["run", str(config), *places, "--until", "describe"], cluster.address, log, kill)
        on_ray(["run", str(config), *places, "--until", "pair"], cluster.address, log, remove)
        on_ray(["evaluate", str(config), *places, "--models", "base"], cluster.address, log)
    folders = (*STEPS, "evaluation/test/base")
    assert shards_of(run, folders) == shards_of(whole, folders)
    assert len(shards_of(run, folders)) >= 10
