"""One writer per folder: the second one hears who the first is, and a dead one stands in nobody's way."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from spr.errors import BusyError, DataError
from spr.store import lease
from spr.store.lease import check_idle, sole_writer
from spr.store.run import Run

HOLD = """
import sys, time
from spr.store.lease import sole_writer
from spr.store.run import Run
with sole_writer(Run(sys.argv[1]), "scores"):
    print("there", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def roots(tmp_path: Path) -> dict[str, Run]:
    Run("memory://lease").remove()
    return {"local": Run(str(tmp_path / "run")), "url": Run("memory://lease/run")}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "SETTLE", 0.01)


@pytest.mark.parametrize("kind", ["local", "url"])
def test_a_second_writer_hears_who_is_there(roots: dict[str, Run], kind: str) -> None:
    run = roots[kind]
    with sole_writer(run, "scores"):
        with (
            pytest.raises(BusyError, match=rf"process {os.getpid()} on {socket.gethostname()} is working"),
            sole_writer(run, "scores"),
        ):
            pass
        with pytest.raises(BusyError):
            check_idle(run)
        with sole_writer(run, "pairs"):
            pass  # another stage is free
        assert run.shard_names("scores") == []  # readers do not wait
    with sole_writer(run, "scores"):
        pass
    check_idle(run)


@pytest.mark.parametrize("kind", ["local", "url"])
def test_nothing_is_left_behind(roots: dict[str, Run], kind: str) -> None:
    """Not even the folder, when nothing was written: a typo in a path must not change a run."""
    run = roots[kind]
    with sole_writer(run, "scores"):
        pass
    fs, path = run.inner()
    assert not fs.exists(path) or fs.find(path) == []
    if kind == "local":
        assert not Path(path).exists()


def test_what_a_killed_writer_left_is_cleaned(tmp_path: Path) -> None:
    folder = tmp_path / "scores"
    (folder / "dropped").mkdir(parents=True)
    (folder / ".building-x").mkdir()
    (folder / ".building-x" / "spool").write_bytes(b"half")
    for name in ("part-00000.parquet.1234abcd.tmp", "dropped/part-00000.parquet.77.tmp"):
        (folder / name).write_bytes(b"half")
    (folder / "part-00000.parquet").write_bytes(b"whole")
    with sole_writer(Run(str(tmp_path)), "scores"):
        found = sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())
    assert found == [".lock", "part-00000.parquet"]


@pytest.mark.parametrize(("kind", "lock"), [("local", lease.LOCK), ("url", lease.LEASE)])
def test_what_is_left_inside_is_cleaned_where_nobody_is_at_work(
    roots: dict[str, Run], kind: str, lock: str
) -> None:
    """A writer that was killed after it had finished its folder is followed by nobody there: its lock and its
    temporary files stayed for good.
    """
    run = roots[kind]
    left = {f"evaluation/gone/{lock}", "evaluation/gone/metrics.json.1234.tmp"}
    kept = {"evaluation/busy/metrics.json.77.tmp", "evaluation/busy/dropped/part-00000.parquet.1.tmp"}
    for name in left | kept:
        run.write_bytes(b"x", *name.split("/"))
    with sole_writer(run, "evaluation", "busy"):
        for name in kept:  # written while it is at work
            run.write_bytes(b"x", *name.split("/"))
        with sole_writer(run):
            fs, root = run.inner()
            found = {str(file).removeprefix(f"{root}/") for file in fs.find(root)}
    assert found == {lock, f"evaluation/busy/{lock}", *kept}


def test_a_killed_writer_is_in_nobodys_way(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    run = Run(str(tmp_path))
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "there\n"
        with pytest.raises(BusyError, match=f"process {process.pid} "), sole_writer(run, "scores"):
            pass
        process.kill()
    with sole_writer(run, "scores", patience=5.0):
        pass


def test_a_lease_that_ran_out_or_whose_process_is_gone_may_be_taken(roots: dict[str, Run]) -> None:
    """On another host only the time tells."""
    run, mine = roots["url"], {"host": socket.gethostname(), "process": os.getpid(), "token": "x"}
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True)
    for held, taken in [
        ({**mine, "until": time.time() + 60}, True),
        ({**mine, "until": time.time() - 1}, False),
        ({**mine, "process": int(gone.stdout), "until": time.time() + 60}, False),
        ({**mine, "host": "elsewhere", "process": int(gone.stdout), "until": time.time() + 60}, True),
    ]:
        run.write_bytes(json.dumps(held).encode(), "scores", lease.LEASE)
        if taken:
            with pytest.raises(BusyError), sole_writer(run, "scores"):
                pass
        else:
            with sole_writer(run, "scores"):
                pass


def test_a_lease_is_renewed_while_the_work_goes_on(
    roots: dict[str, Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "EXPIRES", 0.2)
    run = roots["url"]
    with sole_writer(run, "scores"):
        time.sleep(0.5)
        with pytest.raises(BusyError), sole_writer(run, "scores"):
            pass


def test_ranks_of_one_launch_are_one_writer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(str(tmp_path))
    with sole_writer(run, "adapter", "spr"):
        monkeypatch.setenv("RANK", "1")
        with sole_writer(run, "adapter", "spr"):
            pass


@pytest.mark.parametrize("where", ["", "memory://"])
def test_a_worker_that_sees_another_folder_is_told(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node with a disk of its own under that name said that a file of an earlier stage is missing."""
    monkeypatch.setattr(lease, "SETTLE", 0.0)
    run, other = Run(f"{where}{tmp_path}/run"), Run(f"{where}{tmp_path}/other")
    with sole_writer(run, "regions"):
        by = lease.holder(run, "regions")
        lease.check_held(run, by, "regions")
        with pytest.raises(DataError, match=r"is not the folder that process \d+ on .* works in"):
            lease.check_held(other, by, "regions")
