"""What a grammar finds in a text, before numbers become pixels: where every number, box, container and phrase
stands.

In: nothing. Out: records with str spans. A layout is derived again from `GroundedText.text` whenever it is
needed, so grounded texts stay plain data.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass, field
from typing import TypeAlias

from spr.types import Problem, ProblemKind, Span

# of a text to write: words, or a phrase with the numbers of its boxes
Written: TypeAlias = str | tuple[str | None, Sequence[Sequence[str]]]


@dataclass(frozen=True, slots=True)
class RawBox:
    """Four numbers as written (or two cell ids in Kosmos-2), in the order of the notation. `group` spans them
    with their own brackets.
    """

    numbers: tuple[Span, ...]
    group: Span


@dataclass(frozen=True, slots=True)
class Container:
    """Markup that holds one or more boxes; `cut` is what goes when none of them stays."""

    cut: Span
    boxes: tuple[RawBox, ...]

    def cuts(self, removed: Set[int]) -> list[Span]:
        """What goes when some of the boxes (by index) are removed: each with the separator towards the
        nearest box that stays.
        """
        if len(removed) == len(self.boxes):
            return [self.cut]
        first_kept = min(k for k in range(len(self.boxes)) if k not in removed)
        spans = []
        for k in sorted(removed):
            if k > first_kept:
                spans.append((self.boxes[k - 1].group[1], self.boxes[k].group[1]))
            else:
                spans.append((self.boxes[k].group[0], self.boxes[k + 1].group[0]))
        return spans


@dataclass(frozen=True, slots=True)
class RawMention:
    """A phrase with its boxes, or said to be absent (no containers). `keep`: what stays of the whole span
    when no box does (an attribute).
    """

    phrase: str | None
    containers: tuple[Container, ...]
    span: Span
    keep: Span | None = None

    @property
    def boxes(self) -> list[RawBox]:
        """The boxes of all containers, in order."""
        return [box for container in self.containers for box in container.boxes]

    def cuts(self, removed: Set[int]) -> list[Span]:
        """What goes when some of the boxes (by index in the mention) are removed."""
        if self.keep is not None and len(removed) == len(self.boxes):
            return [(self.span[0], self.keep[0]), (self.keep[1], self.span[1])]
        spans, first = [], 0
        for container in self.containers:
            gone = {k - first for k in removed if first <= k < first + len(container.boxes)}
            spans += container.cuts(gone) if gone else []
            first += len(container.boxes)
        return spans


@dataclass(slots=True)
class Layout:
    """All mentions in order, problems of form, and `markup`: spans that do not belong to the plain text.

    `steps` counts the characters that the scanners looked at, so that a test can hold the parser to linear
    work.
    """

    mentions: list[RawMention] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    markup: list[Span] = field(default_factory=list)
    # markup that becomes other text in `plain` (JSON: the labels)
    replaced: list[tuple[Span, str]] = field(default_factory=list)
    steps: int = 0

    def problem(self, kind: ProblemKind, start: int, end: int) -> None:
        """Note a problem at text[start:end]."""
        self.problems.append(Problem(kind, (start, end)))

    def truncated(self, start: int, end: int) -> None:
        """The text breaks off inside the markup that begins at `start`."""
        self.problem("truncated", start, end)
        self.markup.append((start, end))

    def numbers(self) -> list[Span]:
        """Spans of all numbers of all readable boxes, in order."""
        return [number for mention in self.mentions for box in mention.boxes for number in box.numbers]


_BLANK_OR_SIGN = frozenset(" \t\n.,;:!?)")


def with_blank(text: str, start: int, end: int) -> Span:
    """The span with one adjacent blank, where leaving it would double a blank or put one before a sign."""
    before, after = text[start - 1 : start] if start else "", text[end : end + 1]
    if before == " " and (not after or after in _BLANK_OR_SIGN):
        return start - 1, end
    if before in ("", "\n") and after == " ":
        return start, end + 1
    return start, end


def blanked(text: str, spans: Sequence[Span]) -> str:
    """The text with some spans replaced by line ends of the same length, so that positions stay."""
    pieces, last = [], 0
    for start, end in spans:
        pieces += [text[last:start], "\n" * (end - start)]
        last = end
    return "".join([*pieces, text[last:]])
