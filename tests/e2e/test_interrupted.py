"""Killed at any write, or without room for one: in every stage, and in the end every file is that of a run
that nobody disturbed. (`make kill-test` kills at random moments, with two workers, rounds and an ablation.)
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import os
import resource
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from spr.store.folders import FOLDERS, STAGES
from spr.store.run import Run
from tests.e2e.tools import code_of, differences
from tests.support.children import in_child

# --- killed ---------------------------------------------------------------------------------------


def written(event: str, arguments: tuple[Any, ...]) -> str:
    """The path that an event of the interpreter is going to write to, or nothing."""
    if event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR):
        return str(arguments[0])
    return str(arguments[1]) if event == "os.rename" else ""


def killed_at(place: str, number: int, words: Sequence[str]) -> int:
    """`spr …`, killed right before write number `number` below a place."""
    left = number

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left
        if written(event, arguments).startswith(place):
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    return code_of(*words)


def test_a_kill_at_any_write_of_any_stage_changes_nothing(finished: tuple[Run, Path], tmp_path: Path) -> None:
    """Every stage is killed before its first write, then a few writes later, and so on until it gets
    through.
    """
    run, config = finished
    other = tmp_path / Path(run.root).name  # which is the title of the report
    for stage in STAGES:
        number = 0
        words = ("run", str(config), "--set", f"run={other}", "--until", stage)
        while code := in_child(killed_at, str(other / FOLDERS[stage]), number, words)[0]:
            assert code == -signal.SIGKILL
            number = 12 * number + 2
        assert number > 0, f"{stage} writes nothing"
    assert differences(other, Path(run.root)) == []


# --- no room --------------------------------------------------------------------------------------


def no_room(code: int, said: str) -> bool:
    """Whether a command found no room, which is one line and exit code 1; else it got through."""
    assert code in (0, 1), said
    last = said.splitlines()[-1]
    assert "Traceback" not in said
    if code:
        assert last.startswith("spr: ")
        assert last.endswith("; once there is room, the same command goes on"), said
    return code == 1


def limited(size: int, words: Sequence[str]) -> int:
    """`spr …` that may write no file larger than `size` bytes, as `ulimit -f` and some quotas do it."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    return code_of(*words)


@pytest.mark.slow
def test_a_limit_of_files_in_any_stage_is_one_line(finished: tuple[Run, Path], tmp_path: Path) -> None:
    """An index lost 40 of 91 boxes, and said nothing."""
    run, config = finished
    other = tmp_path / Path(run.root).name
    for stage in STAGES:
        words = ("run", str(config), "--set", f"run={other}", "--until", stage)
        full = [no_room(*in_child(limited, size, words)) for size in (0, 2000)]
        assert full[0], stage
        code, said = in_child(code_of, *words)
        assert code == 0, said
    assert differences(other, Path(run.root)) == []


PRIVATE, REMOUNT = 0x44000, 0x20  # MS_REC | MS_PRIVATE, MS_REMOUNT of mount(2)
NEW_USER, NEW_MOUNTS = 0x10000000, 0x20000  # CLONE_NEWUSER, CLONE_NEWNS of unshare(2)
NOT_ALLOWED = 77


def mount(kind: str, folder: Path | str, flags: int, options: str) -> bool:
    """mount(2): whether it worked."""
    arguments = (kind.encode(), str(folder).encode(), kind.encode(), flags, options.encode())
    return ctypes.CDLL(None).mount(*arguments) == 0


def small_disk(folder: Path) -> bool:
    """Put a disk of its own at a folder, which nobody else sees. False where the system forbids it."""
    user, unshare = os.getuid(), ctypes.CDLL(None).unshare
    if unshare(NEW_MOUNTS) != 0:  # as root; else as the root of a name space of its own
        if unshare(NEW_MOUNTS | NEW_USER) != 0:
            return False
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
    return mount("none", "/", PRIVATE, "") and mount("tmpfs", folder, 0, "size=1g")


def leave_room(folder: Path, room: int) -> None:
    """Change the size of the disk at a folder so that `room` more bytes fit on it."""
    found = os.statvfs(folder)
    used = (found.f_blocks - found.f_bfree) * found.f_frsize
    assert mount("tmpfs", folder, REMOUNT, f"size={max(used + room, found.f_frsize)}")


def on_a_small_disk(config: str, whole: Path, folder: Path) -> int:
    """All stages, each on a disk that is nearly full, then large enough."""
    if not small_disk(folder):
        return NOT_ALLOWED
    for stage in STAGES:
        words = ("run", config, "--set", f"run={folder / whole.name}", "--until", stage)
        leave_room(folder, 4096)
        with contextlib.redirect_stderr(io.StringIO()) as said:
            code = code_of(*words)
        assert no_room(code, said.getvalue()), stage
        leave_room(folder, 1 << 30)
        assert code_of(*words) == 0
    assert differences(folder / whole.name, whole) == []
    return 0


@pytest.mark.skipif(sys.platform != "linux", reason="a disk of its own for one process")
def test_a_full_disk_in_any_stage_is_one_line(finished: tuple[Run, Path], tmp_path: Path) -> None:
    code, said = in_child(on_a_small_disk, str(finished[1]), Path(finished[0].root), tmp_path)
    if code == NOT_ALLOWED:
        pytest.skip("this system lets nobody mount a disk")
    assert code == 0, said
