"""Sharding, resuming and refusing: the same rows for any number of workers, and nothing done twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from spr.errors import StaleRunError, UnfinishedError
from spr.store import executor
from spr.store.executor import Stage, run_stage
from spr.store.identity import Origin, changed_fields, digest_of
from spr.store.progress import Progress
from spr.store.run import Run, shard_name
from spr.store.runtime import RuntimeConfig, own_seat
from spr.store.workers import Workers
from spr.types import Dropped, Findings, ImageRecord, ShardResult, StageSummary


def make_work(log: str | None) -> Callable[[Sequence[int]], ShardResult[ImageRecord]]:
    """A stage that keeps even numbers; it appends every shard it works on to `log`, so that tests see what
    ran.
    """

    def work(items: Sequence[int]) -> ShardResult[ImageRecord]:
        if log is not None:
            with Path(log).open("a") as f:
                f.write(f"{items[0]}\n")
        rows = [ImageRecord(str(i), "p", i, i) for i in items if i % 2 == 0]
        return ShardResult(rows, [Dropped(str(i), "odd") for i in items if i % 2])

    return work


def stage(log: str | None = None, config: dict[str, object] | None = None) -> Stage[int, ImageRecord]:
    origin = Origin("regions", config or {"a": {"b": 1}}, {})
    return Stage(origin, ("regions",), ImageRecord, partial(make_work, log))


def test_rows_do_not_depend_on_workers_or_shards(tmp_path: Path) -> None:
    """One or two processes write equal bytes; other shard sizes give equal rows."""
    items = list(range(23))
    runs = {}
    for name, runtime in {
        "one": RuntimeConfig(1, 1, 7),
        "two": RuntimeConfig(2, 1, 7),
        "single": RuntimeConfig(1, 1, 1),
        "all": RuntimeConfig(1, 1, 256),
    }.items():
        runs[name] = Run(str(tmp_path / name))
        summary = run_stage(runs[name], stage(), items, runtime, Progress())
        assert (summary.rows, summary.dropped) == (12, {"odd": 11})
    names = runs["one"].shard_names("regions")
    assert len(names) == 4
    assert [runs["one"].read_bytes("regions", n) for n in names] == [
        runs["two"].read_bytes("regions", n) for n in names
    ]
    rows = {name: run.read_stage(ImageRecord, "regions") for name, run in runs.items()}
    assert rows["single"] == rows["one"] == rows["all"]


def test_resume_does_only_what_is_missing(tmp_path: Path) -> None:
    log = tmp_path / "log"
    run = Run(str(tmp_path / "run"))
    runtime = RuntimeConfig(1, 1, 5)
    run_stage(run, stage(str(log)), list(range(20)), runtime, Progress())
    run.remove("regions", "_stage.json")
    run.remove("regions", shard_name(2))
    log.unlink()
    run_stage(run, stage(str(log)), list(range(20)), runtime, Progress())
    assert log.read_text() == "10\n"
    run_stage(run, stage(str(log)), list(range(20)), runtime, Progress())
    assert log.read_text() == "10\n"


def test_of_one_launch_rank_0_works_and_the_others_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`accelerate launch -m spr run` with eight ranks did every stage eight times, in one folder."""
    run, log, looks = Run(str(tmp_path / "run")), tmp_path / "log", list[float]()

    def as_rank(rank: str) -> StageSummary:
        monkeypatch.setenv("RANK", rank)
        return run_stage(run, stage(str(log)), list(range(20)), RuntimeConfig(1, 1, 10), Progress())

    def meanwhile(seconds: float) -> None:
        looks.append(seconds)
        as_rank("0")

    monkeypatch.setattr(executor, "time", SimpleNamespace(sleep=meanwhile, monotonic=time.monotonic))
    waited = as_rank("1")
    assert looks == [executor.LOOKS_EVERY]
    assert log.read_text() == "0\n10\n"
    assert waited == as_rank("0")


def test_another_configuration_is_refused_by_field(tmp_path: Path) -> None:
    """Also when the first run was stopped in the middle: rows of two configurations never mix."""
    run = Run(str(tmp_path))
    run_stage(run, stage(), [0, 1], RuntimeConfig(), Progress())
    run.remove("regions", "_stage.json")
    with pytest.raises(StaleRunError, match=r"changed: a\.b.*--overwrite regions"):
        run_stage(run, stage(config={"a": {"b": 2}}), [0, 1], RuntimeConfig(), Progress())


def test_a_failing_worker_stops_the_stage_but_loses_nothing(tmp_path: Path) -> None:
    """An exception reaches the caller; finished shards stay."""
    run = Run(str(tmp_path))
    with pytest.raises(TypeError):
        run_stage(run, stage(), [0, 2, "x"], RuntimeConfig(1, 1, 2), Progress())
    assert run.shard_names("regions") == [shard_name(0)]


def test_digest_ignores_key_order() -> None:
    assert digest_of({"a": 1, "b": 2}) == digest_of({"b": 2, "a": 1})
    assert changed_fields({"a": {"x": 1, "y": 2}, "b": 3}, {"a": {"x": 1, "y": 5}, "c": 3}) == [
        "a.y",
        "b",
        "c",
    ]


def test_a_look_at_all_rows_is_kept_and_warned_of(tmp_path: Path) -> None:
    """Figures stand in _stage.json, also when the rows were made earlier; warnings reach the listener
    once.
    """
    said: list[str] = []

    class Listener(Progress):
        def end(self, message: str = "") -> None:
            said.append(message)

        def tell(self, message: str) -> None:
            said.append(message)

    run = Run(str(tmp_path))
    looking = replace(
        stage(), look=lambda rows: Findings({"mean_width": sum(r.width for r in rows) / 3}, ("small",))
    )
    run_stage(run, looking, [0, 1, 2, 3, 4], RuntimeConfig(1, 1, 2), Listener())
    run_stage(run, looking, [0, 1, 2, 3, 4], RuntimeConfig(1, 1, 2), Listener())
    assert said == [
        "3 rows, 2 dropped",
        "regions: dropped: odd: 2",
        "regions: mean width 2.000",
        "regions: warning: small",
    ]
    summary = run.summary("regions")
    assert summary is not None
    assert (summary.figures, summary.warnings) == ({"mean_width": 2.0}, ("small",))


def counted_work(log: str, name: str) -> Callable[[Sequence[int]], ShardResult[ImageRecord]]:
    """A worker that notes when it is built."""
    with Path(log).open("a") as f:
        f.write(f"{name} {os.getpid()}\n")
    return make_work(None)


@pytest.mark.parametrize("processes", [1, 2])
def test_workers_build_once_what_several_stages_share(tmp_path: Path, processes: int) -> None:
    """A model that answers many benchmarks is loaded once per process, and never beside another one."""
    run, log = Run(str(tmp_path / "run")), str(tmp_path / "log")
    runtime = RuntimeConfig(processes, 1, 2)
    with Workers(runtime) as workers:
        for model in ("a", "b"):
            make = partial(counted_work, log, model)
            for benchmark in ("x", "y"):
                shared = replace(stage(), folder=(benchmark, model), make_work=make)
                assert run_stage(run, shared, list(range(8)), runtime, Progress(), workers).rows == 4
    built = Path(log).read_text().splitlines()
    assert len(built) == len(set(built)) <= 2 * processes
    assert len({line.split()[1] for line in built}) <= processes


def outage(log: str) -> Callable[[Sequence[int]], ShardResult[ImageRecord]]:
    """A stage whose items 3 and 8 get no answer the first time."""

    def work(items: Sequence[int]) -> ShardResult[ImageRecord]:
        with Path(log).open("a") as f:
            f.write(f"{items[0]}\n")
        first = Path(log).read_text().split().count(str(items[0])) == 1
        again = [Dropped(str(i), "endpoint", "timeout") for i in items if i in (3, 8) and first]
        rows = [ImageRecord(str(i), "p", i, i) for i in items]
        return ShardResult(rows[len(again) :], again=again)

    return work


def test_what_may_come_back_leaves_the_stage_unfinished(tmp_path: Path) -> None:
    """No row and no drop: the shard has no file, the others have; the same command does only what is
    missing.
    """
    run, log = Run(str(tmp_path / "run")), tmp_path / "log"
    flaky = replace(stage(), make_work=partial(outage, str(log)))
    with pytest.raises(UnfinishedError) as caught:
        run_stage(run, flaky, list(range(12)), RuntimeConfig(1, 1, 3), Progress())
    assert "2 of 12 unanswered (endpoint (timeout): 2); the same command asks them again" in str(caught.value)
    assert run.shard_names("regions") == [shard_name(0), shard_name(3)]
    assert run.summary("regions") is None
    summary = run_stage(run, flaky, list(range(12)), RuntimeConfig(1, 1, 3), Progress())
    assert summary.rows == 12
    assert log.read_text().split() == ["0", "3", "6", "9", "3", "6"]


def killed_at(log: str, item: int, times: int) -> Callable[[Sequence[int]], ShardResult[ImageRecord]]:
    """Work whose process is killed at an item, the first few times."""
    do = make_work(None)

    def work(items: Sequence[int]) -> ShardResult[ImageRecord]:
        if item in items and len(list(Path(log).iterdir())) < times:
            (Path(log) / str(os.getpid())).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return do(items)

    return work


@pytest.mark.parametrize("times", [2, 99])
def test_a_killed_worker_is_replaced_and_its_shard_tried_again(
    tmp_path: Path, times: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Memory runs out for one shard: it is tried three times; the others are finished either way. The line
    names shard and item. It was a traceback of 56 lines.
    """
    run, log, items = Run(str(tmp_path / "run")), tmp_path / "log", list(range(20))
    log.mkdir()
    killed = replace(stage(), make_work=partial(killed_at, str(log), 13, times), name=lambda i: f"<{i}>")
    runtime = RuntimeConfig(2, 1, 4)
    if times == 99:
        with pytest.raises(UnfinishedError) as caught:
            run_stage(run, killed, items, runtime, Progress())
        assert str(caught.value) == (
            "shard 3: its worker was killed 3 times (signal 9; out of memory?), item <13> does it; lower "
            "runtime.workers or runtime.shard_size; the same command goes on"
        )
        assert run.shard_names("regions") == [shard_name(n) for n in (0, 1, 2, 4)]
        run_stage(run, stage(), items, runtime, Progress())
    else:
        run_stage(run, killed, items, runtime, Progress())
        assert len(caplog.messages) == 2
        assert caplog.messages[0] == "a worker was killed (signal 9) in shard 3: tried again (2 of 3)"
    whole = Run(str(tmp_path / "whole"))
    run_stage(whole, stage(), items, RuntimeConfig(1, 1, 4), Progress())
    assert run.summary("regions") == whole.summary("regions")


def test_what_a_worker_raises_comes_with_its_trace(tmp_path: Path) -> None:
    """The first exception ends the work, in a process as here; nobody waits for the others."""
    run = Run(str(tmp_path))
    with pytest.raises(TypeError) as caught:
        run_stage(run, stage(), [0, 2, "x", 4], RuntimeConfig(2, 1, 1), Progress())
    assert "in work" in "".join(caught.value.__notes__)


KILLED = """
import sys, time
from functools import partial
from spr.store.run import Run
from spr.store.executor import run_stage
from spr.store.progress import Progress
from spr.store.runtime import RuntimeConfig
from tests.unit.store.test_executor import sleeping_work, stage
from dataclasses import replace

if __name__ == "__main__":
    asleep = replace(stage(), make_work=partial(sleeping_work, sys.argv[2]))
    run_stage(Run(sys.argv[1]), asleep, [0, 1], RuntimeConfig(2, 1, 1), Progress())
"""


def sleeping_work(log: str) -> Callable[[Sequence[int]], ShardResult[ImageRecord]]:
    """A worker that says its process id and never ends."""

    def work(items: Sequence[int]) -> ShardResult[ImageRecord]:
        (Path(log) / str(os.getpid())).touch()
        time.sleep(600)
        return ShardResult([])

    return work


def test_workers_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    """kill -9 of the run must not leave processes that hold a model."""
    script, log = tmp_path / "killed.py", tmp_path / "log"
    script.write_text(KILLED)
    log.mkdir()
    root = str(Path(__file__).parents[3])
    parent = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path / "run"), str(log)], env={**os.environ, "PYTHONPATH": root}
    )
    while len(list(log.iterdir())) < 2:
        assert parent.poll() is None
        time.sleep(0.02)
    parent.kill()
    parent.wait()
    for pid in (int(p.name) for p in log.iterdir()):
        for _ in range(1000):
            if not _runs(pid):
                break
            time.sleep(0.02)
        assert not _runs(pid)


def _runs(pid: int) -> bool:
    """Whether a process is there and not a zombie that waits for its (dead) parent."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")
    return not (status.exists() and status.read_text().rsplit(")", 1)[-1].split()[0] == "Z")


FOUR = [f"cuda:{n}" for n in range(4)]


def at_its_seat(meet: str) -> Callable[[Sequence[int]], ShardResult[Dropped]]:
    """Work that says its process's device, of four that are visible (a fake: this machine has none), once
    all four processes are at work.
    """

    def work(items: Sequence[int]) -> ShardResult[Dropped]:
        (Path(meet) / str(items[0])).touch()
        while len(list(Path(meet).iterdir())) < 4:
            time.sleep(0.01)
        return ShardResult([Dropped(str(items[0]), str(own_seat().device(FOUR)))])

    return work


@pytest.mark.parametrize(
    ("only", "expected"),
    [("auto", FOUR), (("cuda:3", "cuda:1"), ["cuda:1", "cuda:1", "cuda:3", "cuda:3"])],
)
def test_each_worker_takes_its_own_device(
    tmp_path: Path, only: str | tuple[str, ...], expected: list[str]
) -> None:
    """Eight workers put eight models on cuda:0."""
    meet = tmp_path / "meet"
    meet.mkdir()
    stage = Stage(Origin("regions", {}, {}), ("regions",), Dropped, partial(at_its_seat, str(meet)))
    run = Run(str(tmp_path / "run"))
    run_stage(run, stage, range(4), RuntimeConfig(workers=4, shard_size=1, devices=only), Progress())
    assert sorted(row.reason for row in run.read_stage(Dropped, "regions")) == expected
