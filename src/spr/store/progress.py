"""Where work reports how far it is. The base class says nothing; `spr.store.bars` draws bars on a
terminal.
"""

from __future__ import annotations

from collections.abc import Mapping

from typing_extensions import override

SHOWN = 8  # ours: kinds of reasons in a line


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


NO_PROGRESS = Progress()


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


def counted(reasons: Mapping[str, int]) -> str:
    """Reasons with their counts in one line, the most frequent first; of many kinds the first SHOWN."""
    kinds = sorted(reasons.items(), key=lambda kind: (-kind[1], kind[0]))
    more = [f"{len(kinds) - SHOWN} more kinds"] if len(kinds) > SHOWN else []
    return ", ".join([*(f"{reason}: {n}" for reason, n in kinds[:SHOWN]), *more])


def clock(seconds: float) -> str:
    """Hours, minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"


def one_line(text: str) -> str:
    """The text in one line, each control character as an escape: a terminal would obey it."""
    joined = " ".join(line.strip() for line in text.splitlines() if line.strip())
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in joined)
