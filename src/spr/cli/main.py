"""The front door: what becomes of a command. Nothing else decides about errors, signals and exit codes.

    0           done
    1           trouble outside (a server, a disk, another writer), or a fault of spr itself
    2           a mistake of the user's
    3           an examination found something wrong
    128 + n     stopped by signal n: 130 by Ctrl-C, 143 by a scheduler

An error is one line on stderr; `--debug` shows the trace before it.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import NoReturn

from typer.exceptions import TyperException
from typer.main import get_command

from spr.cli.app import FOUND_WRONG, app, progress
from spr.errors import EXTRAS, FoundWrongError, SprError, UserError, missing_extra
from spr.store.bars import LogLines, say
from spr.store.progress import one_line

DEBUG = "--debug"
WIDE = 1000  # ours: characters of the one line; an error may quote a whole file
GO_ON = "the same command goes on"
SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
# what the system says when a disk, a quota or a file is full; some libraries pass on its words only
NO_ROOM = ("No space left on device", "Disk quota exceeded", "File too large")


def run_cli(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line. Raises SystemExit with the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    words = [word for word in given if word != DEBUG]
    received: list[int] = []
    with _signals(received), _warnings():
        try:
            code = get_command(app).main(words or ["--help"], "spr", standalone_mode=False)
            failure = None
        except (Exception, KeyboardInterrupt) as e:
            failure = e
        progress.end()
        if received:
            code, line = 128 + received[0], f"stopped by {signal.Signals(received[0]).name}; {GO_ON}"
        elif failure is not None:
            code, line = verdict(failure)
        else:
            raise SystemExit(code if isinstance(code, int) else 0)
        if failure is not None and DEBUG in given:
            traceback.print_exception(failure)
        say(f"spr: {line}", "red")
        raise SystemExit(code)


def verdict(e: BaseException) -> tuple[int, str]:
    """The exit code of an error, and the one line about it."""
    code, line = _verdict(e)
    return code, line if len(line) <= WIDE else f"{line[: WIDE // 2]} ... {line[-WIDE // 2 :]}"


def _verdict(e: BaseException) -> tuple[int, str]:
    said = one_line(str(e)) or type(e).__name__
    if isinstance(e, SprError):
        if isinstance(e, FoundWrongError):
            return FOUND_WRONG, said
        return 2 if isinstance(e, UserError) else 1, said
    if isinstance(e, TyperException):
        context = getattr(e, "ctx", None)
        return 2, f"{one_line(e.format_message())} ({context.command_path if context else 'spr'} --help)"
    if isinstance(e, ImportError):
        extra = EXTRAS.get((e.name or "").partition(".")[0])
        return 2, str(missing_extra(f"this command ({e.name})", extra)) if extra else said
    if any(words in said for words in NO_ROOM):
        return 1, f"{_of_the_system(e) or said}; once there is room, {GO_ON}"
    if isinstance(e, MemoryError):
        return 1, f"out of memory; {GO_ON}"
    if (line := _of_the_system(e)) is not None:
        return 1, line
    return 1, f"{type(e).__name__}: {said}; a fault of spr itself, {DEBUG} shows where"


def _of_the_system(e: BaseException) -> str | None:
    """What the operating system said, with the file first; None for another error."""
    if not isinstance(e, OSError):
        return None
    said = e.strerror or str(e) or type(e).__name__
    return one_line(f"{e.filename}: {said}" if e.filename else said)


@contextlib.contextmanager
def _signals(received: list[int]) -> Iterator[None]:
    """Ctrl-C, a scheduler and a closed terminal all stop as Ctrl-C does, and are noted in `received`. What
    the process was started to ignore (nohup) stays ignored.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        received.append(number)
        raise KeyboardInterrupt

    ours = threading.current_thread() is threading.main_thread()
    before = {s: signal.getsignal(s) for s in SIGNALS} if ours else {}
    heard = {s: handler for s, handler in before.items() if handler not in (signal.SIG_IGN, None)}
    for s in heard:
        signal.signal(s, stop)
    try:
        yield
    finally:
        for s, handler in heard.items():
            signal.signal(s, handler)


@contextlib.contextmanager
def _warnings() -> Iterator[None]:
    """Warnings of spr's own modules are lines on stderr."""
    log, lines = logging.getLogger("spr"), LogLines(logging.WARNING)
    log.addHandler(lines)
    try:
        yield
    finally:
        log.removeHandler(lines)


def leave(code: int) -> NoReturn:
    """End the process: what is registered for its end is done, but nothing is taken apart. A thread that some
    library (DuckDB, Arrow, torch) still runs would abort it there ("terminate called …").
    """
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):  # a closed pipe, a full disk
            code = code or 1
    os._exit(code)
