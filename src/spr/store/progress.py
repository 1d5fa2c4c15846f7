"""Where work reports how far it is. The base class says nothing; `spr.store.bars` draws bars on a
terminal.
"""

from __future__ import annotations

from typing_extensions import override


class Progress:
    """Where a stage reports how far it is. The base class says nothing; the command line draws bars."""

    def start(self, what: str, total: int, done: int = 0) -> None:
        """A piece of work of `total` items begins, of which `done` were done before."""

    def advance(self, count: int) -> None:
        """`count` more items are done."""

    def end(self, message: str = "") -> None:
        """The piece of work is finished."""

    def tell(self, message: str) -> None:
        """A line for people: figures of a stage, a warning."""


class Named(Progress):
    """Reports to `inner`, and calls the work by another name."""

    def __init__(self, inner: Progress, name: str) -> None:
        self._inner, self._name = inner, name

    @override
    def start(self, what: str, total: int, done: int = 0) -> None:
        self._inner.start(self._name, total, done)

    @override
    def advance(self, count: int) -> None:
        self._inner.advance(count)

    @override
    def end(self, message: str = "") -> None:
        self._inner.end(message)

    @override
    def tell(self, message: str) -> None:
        self._inner.tell(f"{self._name}: {message}")


class Within(Named):
    """Reports to `inner`, with the name of the whole before each piece of work."""

    @override
    def start(self, what: str, total: int, done: int = 0) -> None:
        self._inner.start(f"{self._name}: {what}", total, done)
