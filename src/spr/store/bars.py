"""Progress as bars on a terminal."""

from __future__ import annotations

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
from typing_extensions import override

from spr.store.progress import Progress

errors = Console(stderr=True)


class BarProgress(Progress):
    """A bar per stage on stderr."""

    def __init__(self) -> None:
        columns = (
            TextColumn("{task.description:<28}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        self._columns = (*columns, TextColumn("{task.fields[note]}"))
        self._bars: Bars | None = None
        self._task: TaskID | None = None

    @override
    def start(self, what: str, total: int, done: int = 0) -> None:
        self.end()
        self._bars = Bars(*self._columns, console=errors)
        self._bars.start()
        self._task = self._bars.add_task(what, total=total or None, completed=done, note="")

    @override
    def advance(self, count: int) -> None:
        if self._bars is not None and self._task is not None:
            self._bars.advance(self._task, count)

    @override
    def end(self, message: str = "") -> None:
        if self._bars is not None and self._task is not None:
            self._bars.update(self._task, note=message)
            self._bars.stop()
        self._bars = self._task = None

    @override
    def tell(self, message: str) -> None:
        errors.print(message, markup=False, highlight=False, soft_wrap=True)
