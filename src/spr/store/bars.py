"""Progress for people, on stderr: bars on a terminal, plain lines in a log."""

from __future__ import annotations

import logging
import time

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars
from rich.table import Column
from typing_extensions import override

from spr.store.lease import first_rank
from spr.store.progress import Progress, clock, one_line

errors = Console(stderr=True)
OFTEN = 30.0  # ours: seconds between two lines of a log


def say(message: str, style: str = "") -> None:
    """One line on stderr, above the bars: no markup, no emoji, no sign that a terminal would obey."""
    errors.print(one_line(message), style=style, markup=False, emoji=False, highlight=False, soft_wrap=True)


class LogLines(logging.Handler):
    """Warnings of the modules as lines above the bars."""

    @override
    def emit(self, record: logging.LogRecord) -> None:
        say(f"{record.levelname.lower()}: {record.getMessage()}")


class _Shown(Progress):
    @override
    def tell(self, message: str) -> None:
        say(message)


class BarProgress(_Shown):
    """A bar per piece of work. What came of it stands in a line of its own below."""

    def __init__(self) -> None:
        self._columns = (
            TextColumn("{task.description}", table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        self._bars: Bars | None = None
        self._task: TaskID | None = None
        self._what = ""

    @override
    def start(self, what: str, total: int, done: int = 0) -> None:
        self.end()
        self._bars, self._what = Bars(*self._columns, console=errors, expand=True), what
        self._bars.start()
        self._task = self._bars.add_task(one_line(what), total=total or None, completed=done)

    @override
    def advance(self, count: int) -> None:
        if self._bars is not None and self._task is not None:
            self._bars.advance(self._task, count)

    @override
    def end(self, message: str = "") -> None:
        if self._bars is not None:
            self._bars.stop()
            if message:
                self.tell(f"{self._what}: {message}")
        self._bars = self._task = None


class LineProgress(_Shown):
    """A line when a piece of work begins, one every OFTEN seconds, and one at its end."""

    def __init__(self) -> None:
        self._what, self._total, self._done = "", 0, 0
        self._first = 0
        self._begin = self._told = 0.0

    @override
    def start(self, what: str, total: int, done: int = 0) -> None:
        self.end()
        self._what, self._total, self._done, self._first = what, total, done, done
        self._begin = self._told = time.monotonic()
        if total > done:
            self.tell(f"{what}: {total - done:,} to do" + (f", {done:,} done before" if done else ""))

    @override
    def advance(self, count: int) -> None:
        self._done += count
        now = time.monotonic()
        if self._what and now - self._told >= OFTEN:
            self._told = now
            self.tell(f"{self._what}: {self._so_far()}, {clock(now - self._begin)}{self._left(now)}")

    def _so_far(self) -> str:
        if not self._total:
            return f"{self._done:,}"
        return f"{self._done:,} of {self._total:,} ({100 * self._done // self._total} %)"

    def _left(self, now: float) -> str:
        new = self._done - self._first
        if not self._total or not new:
            return ""
        return f", about {clock((now - self._begin) * (self._total - self._done) / new)} left"

    @override
    def end(self, message: str = "") -> None:
        if self._what and message:
            self.tell(f"{self._what}: {message} ({clock(time.monotonic() - self._begin)})")
        self._what = ""


def progress_shown() -> Progress:
    """Bars where stderr is a terminal, else lines; of the processes of one launch only rank 0 reports."""
    if not first_rank():
        return Progress()
    return BarProgress() if errors.is_terminal else LineProgress()
