"""A stage by the actors of a Ray cluster: the files of a local run; what is lost is tried again, and named.

Two nodes, a killed worker and a removed node, with real models: `tests/e2e/test_ray.py` (slow).
"""

from __future__ import annotations

import os
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from spr.errors import UnfinishedError
from spr.store import ray_workers
from spr.store.crew import crew_of
from spr.store.executor import run_stage
from spr.store.progress import Progress
from spr.store.ray_workers import RayWorkers
from spr.store.run import Run, shard_name
from spr.store.runtime import RuntimeConfig
from tests.support.children import in_child
from tests.unit.store.test_executor import killed_at, outage, stage

ITEMS = list(range(20))
LOCAL = RuntimeConfig(shard_size=4)
RAY = RuntimeConfig(shard_size=4, workers=2, executor="ray")


def on_ray(folder: Path) -> int:
    """Everything that is tried with one cluster, which this process starts and takes along."""
    os.environ["RAY_ADDRESS"] = "local"
    whole = Run(str(folder / "whole"))
    run_stage(whole, stage(), ITEMS, LOCAL, Progress())
    names = whole.shard_names("regions")

    def same(run: Run) -> None:
        assert run.summary("regions") == whole.summary("regions")
        assert [run.read_bytes("regions", n) for n in names] == [
            whole.read_bytes("regions", n) for n in names
        ]

    plain, killed, lost, again = (Run(str(folder / name)) for name in ("plain", "killed", "lost", "again"))
    with crew_of(RAY) as crew:
        assert isinstance(crew, RayWorkers)
        run_stage(plain, stage(), ITEMS, RAY, Progress(), crew)
        same(plain)
        for times, run in ((2, killed), (99, lost)):
            log = folder / f"log{times}"
            log.mkdir()
            doomed = replace(
                stage(), make_work=partial(killed_at, str(log), 13, times), name=lambda i: f"<{i}>"
            )
            if times == 2:
                run_stage(run, doomed, ITEMS, RAY, Progress(), crew)
                same(run)
                continue
            with pytest.raises(UnfinishedError) as caught:
                run_stage(run, doomed, ITEMS, RAY, Progress(), crew)
            said = (
                "shard 3: its worker was killed 3 times (its process died; out of memory?), item <13> does it"
            )
            assert str(caught.value).startswith(said)
            assert run.shard_names("regions") == [shard_name(n) for n in (0, 1, 2, 4)]
        flaky = replace(stage(), make_work=partial(outage, str(folder / "outage")))
        with pytest.raises(UnfinishedError, match="2 of 20 unanswered"):
            run_stage(again, flaky, ITEMS, RAY, Progress(), crew)
        with pytest.raises(TypeError) as wrong:
            run_stage(Run(str(folder / "wrong")), stage(), [0, 2, "x", 4], RAY, Progress(), crew)
        assert "in work" in "".join(wrong.value.__notes__)
    ray_workers.SAID_AFTER = ray_workers.GIVEN_UP_AFTER = 0.5
    many = replace(RAY, threads=10_000)
    with pytest.raises(UnfinishedError, match=r"^2 of 2 workers have no place in the Ray cluster"):
        run_stage(Run(str(folder / "many")), stage(), ITEMS, many, Progress())
    return 0


def test_actors_do_what_processes_do(tmp_path: Path) -> None:
    code, said = in_child(on_ray, tmp_path)
    assert code == 0, said
