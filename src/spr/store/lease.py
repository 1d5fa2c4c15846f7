"""One writer per folder of a run: who is there first works, who comes second hears who that is.

On a local disk it is a lock on a file, which ends with the process that holds it. Where a run lies on a URL
(and on Windows) it is a lease: a file with host, process and an expiry, renewed while the work goes on; one
that has run out, or whose process on this host is gone, may be taken over. Processes of one launch (torchrun,
accelerate) are one writer: rank 0 asks, the others follow it. Readers never ask.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fsspec.implementations.local import LocalFileSystem

from spr.errors import BusyError, DataError
from spr.store.files import BUILDING, ENDING, remove
from spr.store.run import Run

if sys.platform != "win32":
    import fcntl

LOCK = ".lock"
LEASE = ".lease.json"
BRIEFLY = 60.0  # ours: seconds that a short write waits for another one
EXPIRES = 120.0  # ours: seconds after which a lease that nobody renews is anybody's
LOOKS = 3  # ours: how often it is looked who holds a folder
SETTLE = 0.5  # ours: seconds in which two who come at once see each other's lease


def first_rank() -> bool:
    """Whether this process speaks for its launch: rank 0, or one that was started alone."""
    return os.environ.get("RANK", "0") == "0"


@contextlib.contextmanager
def sole_writer(run: Run, *folder: str, patience: float = 0.0) -> Iterator[None]:
    """Nobody else writes into the folder while the block runs. What killed writers left there, and in the
    folders inside it in which nobody is at work, is cleaned.

    Raises BusyError when somebody else is there, after waiting `patience` seconds.
    """
    if not first_rank():
        yield
        return
    fs, path = run.inner(*folder)
    if isinstance(fs, LocalFileSystem) and sys.platform != "win32":
        with _made(Path(path)), _lock(Path(path), patience):
            _clean(path)
            yield
    else:
        fs.makedirs(path, exist_ok=True)
        with _lease(fs, path, patience):
            _clean_url(fs, path)
            yield


def holder(run: Run, *folder: str) -> dict[str, Any]:
    """Who holds the folder; nothing where nobody does."""
    fs, path = run.inner(*folder)
    return _read(fs, f"{path}/{LOCK}") or _read(fs, f"{path}/{LEASE}")


def check_held(run: Run, by: Mapping[str, Any], *folder: str) -> None:
    """Raise DataError where the folder that is seen here is not held by that process (`holder`): it is
    another machine's, or somebody else has taken it over.
    """
    for _ in range(LOOKS):
        found = holder(run, *folder)
        if all(found.get(key) == by.get(key) for key in ("host", "process")):
            return
        time.sleep(SETTLE)  # a lease may just be renewed
    raise DataError(
        f"{run.path(*folder)}: on {socket.gethostname()} this is not the folder that process "
        f"{by.get('process')} on {by.get('host')} works in; expected a disk that all machines share, "
        "or a URL"
    )


def check_idle(run: Run, *folder: str) -> None:
    """Raise BusyError when somebody writes into the folder, or into one inside it."""
    fs, path = run.inner(*folder)
    for found in fs.find(path) if fs.exists(path) else []:
        inner, _, name = str(found).rpartition("/")
        if name in (LOCK, LEASE):
            with sole_writer(Run(fs.unstrip_protocol(inner))):
                pass


def _clean(folder: str) -> None:
    """Delete temporary files, and locks that nobody holds. Where somebody is at work nothing is touched."""
    for place, inside, files in os.walk(folder):
        held = LOCK in files and place != folder  # perhaps by nobody any more
        try:
            with _lock(Path(place), patience=0.0) if held else contextlib.nullcontext():
                for name in (*inside, *files):
                    if name.endswith(ENDING) or name.startswith(BUILDING):
                        remove(Path(place, name))
        except BusyError:
            inside.clear()  # nothing below it either


def _clean_url(fs: Any, folder: str) -> None:
    """The same on a URL: temporary files, and leases that nobody holds."""
    files = [str(file).rpartition("/")[::2] for file in fs.find(folder)]
    leases = [place for place, name in files if name == LEASE and place != folder]
    busy = [place for place in leases if _taken(_read(fs, f"{place}/{LEASE}"))]
    for place, name in files:
        left = name.endswith(ENDING) or (name == LEASE and place in leases)
        if left and not any(f"{place}/".startswith(f"{other}/") for other in busy):
            with contextlib.suppress(FileNotFoundError):  # it has its final name by now
                fs.rm_file(f"{place}/{name}")


@contextlib.contextmanager
def _made(folder: Path) -> Iterator[None]:
    """The folder is there while the block runs; one that was made for it and holds nothing goes again."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # something stands there now
            for path in missing:
                path.rmdir()


def _who() -> dict[str, Any]:
    return {"host": socket.gethostname(), "process": os.getpid()}


def _busy(path: str, who: dict[str, Any]) -> BusyError:
    name = f"process {who.get('process', '?')} on {who.get('host', '?')}"
    return BusyError(f"{path}: {name} is working there; wait until it is done, or stop it")


@contextlib.contextmanager
def _lock(folder: Path, patience: float) -> Iterator[None]:
    assert sys.platform != "win32"
    end = time.monotonic() + patience
    path = folder / LOCK
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            who = _read_json(os.pread(handle, 4096, 0))
            os.close(handle)
            if time.monotonic() >= end:
                raise _busy(str(folder), who) from None
            time.sleep(0.05)
            continue
        with contextlib.suppress(FileNotFoundError):
            if os.fstat(handle).st_ino == os.stat(path).st_ino:
                break  # ours, and still under its name: the one before may have deleted it
        os.close(handle)
    try:
        os.truncate(handle, 0)
        os.pwrite(handle, json.dumps(_who()).encode(), 0)
        os.fsync(handle)  # other machines read it while it is open
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(handle)


@contextlib.contextmanager
def _lease(fs: Any, folder: str, patience: float) -> Iterator[None]:
    path, token = f"{folder}/{LEASE}", uuid.uuid4().hex
    end = time.monotonic() + patience

    def write() -> None:
        fs.pipe_file(path, json.dumps({**_who(), "token": token, "until": time.time() + EXPIRES}).encode())

    while True:
        found = _read(fs, path)
        if not _taken(found):
            write()
            time.sleep(SETTLE)
            found = _read(fs, path)
            if found.get("token") == token:
                break
        if time.monotonic() >= end:
            raise _busy(folder, found)
        time.sleep(0.2)
    stop = threading.Event()

    def renew() -> None:
        while not stop.wait(EXPIRES / 4):
            write()

    thread = threading.Thread(target=renew, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        if _read(fs, path).get("token") == token:
            fs.rm_file(path)


def _read(fs: Any, path: str) -> dict[str, Any]:
    """A lease; an empty one where there is none."""
    try:
        return _read_json(fs.cat_file(path))
    except FileNotFoundError:
        return {}


def _taken(lease: dict[str, Any]) -> bool:
    """Whether somebody holds this lease."""
    if not lease or lease.get("until", 0.0) < time.time():
        return False
    return lease.get("host") != socket.gethostname() or _alive(int(lease.get("process", 0)))


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _read_json(data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
