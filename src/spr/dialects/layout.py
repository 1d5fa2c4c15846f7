"""What a grammar finds in a text, before numbers become pixels: where every number, box, container and phrase
stands.

In: nothing. Out: records with str spans. A layout is derived again from `GroundedText.text` whenever it is
needed, so grounded texts stay plain data.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

from spr.types import Problem, ProblemKind, Span

# of a text to write: words, or a phrase with the numbers of its boxes
Written: TypeAlias = str | tuple[str | None, Sequence[Sequence[str]]]


class RawBox(NamedTuple):
    """Four numbers as written (or two cell ids in Kosmos-2), in the order of the notation. `group` spans them
    with their own brackets.
    """

    numbers: tuple[Span, ...]
    group: Span


RawPoint: TypeAlias = tuple[Span, Span]  # the two numbers of a point, in the order of the notation


class Item(NamedTuple):
    """One of several things in a row (members of a JSON object, values of a list), which goes with a
    comma.
    """

    row: tuple[Span, ...]
    at: int


Cut: TypeAlias = Span | Item


def without(row: Sequence[Span], gone: Set[int]) -> list[Span]:
    """What goes when some things of a row (by index) do: each with the separator towards one that stays."""
    first_kept = next((k for k in range(len(row)) if k not in gone), None)
    if first_kept is None:
        return [(row[0][0], row[-1][1])]
    return [
        (row[k - 1][1], row[k][1]) if k > first_kept else (row[k][0], row[k + 1][0]) for k in sorted(gone)
    ]


def cut_spans(cuts: Iterable[Cut]) -> list[Span]:
    """The spans of everything that goes, sorted and without overlaps."""
    spans: list[Span] = []
    rows: dict[Span, tuple[tuple[Span, ...], set[int]]] = {}  # no two rows begin with the same thing
    for cut in cuts:
        if isinstance(cut, Item):
            rows.setdefault(cut.row[0], (cut.row, set()))[1].add(cut.at)
        else:
            spans.append(cut)
    return merged(spans + [span for row, gone in rows.values() for span in without(row, gone)])


def merged(spans: Iterable[Span]) -> list[Span]:
    """Sorted spans without overlaps."""
    found: list[Span] = []
    for start, end in sorted(spans):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], end))
        else:
            found.append((start, end))
    return found


class Container(NamedTuple):
    """Markup that holds one or more boxes; `cut` is what goes when none of them stays, with `more` of it
    elsewhere.
    """

    cut: Cut
    boxes: tuple[RawBox, ...]
    more: tuple[Cut, ...] = ()

    def cuts(self, removed: Set[int]) -> list[Cut]:
        """What goes when some of the boxes (by index) are removed: each with the separator towards the
        nearest box that stays.
        """
        if len(removed) == len(self.boxes):
            return [self.cut, *self.more]
        return list(without([box.group for box in self.boxes], removed))


class RawMention(NamedTuple):
    """A phrase with its boxes and points, or said to be absent (neither). `keep`: what stays of the whole
    span when no box does (an attribute). `clause`: what goes when its phrase goes too; () = the text around
    it decides.
    """

    phrase: str | None
    containers: tuple[Container, ...]
    span: Span
    keep: Span | None = None
    clause: tuple[Cut, ...] = ()
    points: tuple[RawPoint, ...] = ()

    @property
    def boxes(self) -> list[RawBox]:
        """The boxes of all containers, in order."""
        return [box for container in self.containers for box in container.boxes]

    def cuts(self, removed: Set[int]) -> list[Cut]:
        """What goes when some of the boxes (by index in the mention) are removed."""
        if self.keep is not None and len(removed) == len(self.boxes):
            return [(self.span[0], self.keep[0]), (self.keep[1], self.span[1])]
        spans, first = list[Cut](), 0
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
    # labels of things without a box that stand in markup, and where
    unboxed: list[tuple[int, str]] = field(default_factory=list)
    steps: int = 0

    def problem(self, kind: ProblemKind, start: int, end: int) -> None:
        """Note a problem at text[start:end]."""
        self.problems.append(Problem(kind, (start, end)))

    def add(self, other: Layout) -> None:
        """Everything that was found in another part of the text."""
        self.mentions += other.mentions
        self.problems += other.problems
        self.markup += other.markup
        self.replaced += other.replaced
        self.unboxed += other.unboxed
        self.steps += other.steps

    def truncated(self, start: int, end: int) -> None:
        """The text breaks off inside the markup that begins at `start`."""
        self.problem("truncated", start, end)
        self.markup.append((start, end))

    def numbers(self) -> list[Span]:
        """Spans of all numbers of all readable boxes and points, in order."""
        boxes = [number for mention in self.mentions for box in mention.boxes for number in box.numbers]
        return sorted(boxes + [n for mention in self.mentions for point in mention.points for n in point])


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
