"""What stands between an opening and a closing box tag.

bracket `[[1, 2, 3, 4], [5, 6, 7, 8]]` · paren `(1,2),(3,4)` · blank `1 2 3 4` · angle `<1><2><3><4>` (also
Kosmos-2's patch tokens). A reader gets a text and a span in it, and gives boxes and problems; a writer gets
the numbers of several boxes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

from spr.dialects.brackets import NUMBER, N, numbers_in
from spr.dialects.layout import RawBox
from spr.types import ProblemKind, Span

Found: TypeAlias = tuple[list[RawBox], list[tuple[ProblemKind, Span]]]
Reader: TypeAlias = Callable[[str, int, int], Found]
Numbers: TypeAlias = Sequence[Sequence[str]]  # of several boxes, as written
BRACKET_BOX = re.compile(rf"(?<=\[)\s*{N}(?:\s*,\s*{N}){{3}}\s*(?=\])")  # the coordinate text of one box
PAREN_BOX = re.compile(rf"\(\s*{N}\s*,\s*{N}\s*\)\s*(?:,\s*)?\(\s*{N}\s*,\s*{N}\s*\)")
BLANK_BOX, BLANK_BBOX = (
    re.compile(rf"(?<=<{tag}>)\s*{N}(?:\s+{N}){{3}}\s*(?=</{tag}>)") for tag in ("box", "bbox")
)
ANGLE_BOX = re.compile(r"<[0-9]+>(?:[ \t]*<[0-9]+>){3}")
PATCH_BOX = re.compile(r"<patch_index_[0-9]{4}>\s*<patch_index_[0-9]{4}>")
BARE_BRACKET = re.compile(r"\[[^\[\]]*\]")  # what a box looks like when its tags were stripped
BARE_PARENS = re.compile(r"\([\s0-9.,;\-]*\)\s*(?:,\s*)?\([\s0-9.,;\-]*\)")
BARE_ANGLES = re.compile(r"(?:<[0-9]{1,4}>){4}")
_BRACKETS = re.compile(r"[\[(<][^\[\]()<>]*[\])>]")
_PARENS = re.compile(r"\([^()]*\)")


def _four(text: str, start: int, end: int, group: Span, found: Found) -> None:
    """One candidate box: four numbers, or a problem."""
    spans = numbers_in(text, start, end)
    if spans is None:
        found[1].append(("not_a_number", (start, end)))
    elif len(spans) != 4:
        found[1].append(("wrong_arity", (start, end)))
    else:
        found[0].append(RawBox(tuple(spans), group))


def read_brackets(text: str, start: int, end: int) -> Found:
    """Innermost brackets of any kind, four numbers each; bare numbers count as one."""
    found: Found = ([], [])
    groups = [m.span() for m in _BRACKETS.finditer(text, start, end)]
    for s, e in groups:
        _four(text, s + 1, e - 1, (s, e), found)
    return _with_rest(text, start, end, groups, found)


def _with_rest(text: str, start: int, end: int, groups: Sequence[Span], found: Found) -> Found:
    """What was found in brackets. Numbers outside of them are of no box, where nothing else says why; without
    any brackets they are one.
    """
    if not groups:
        return read_blanks(text, start, end)
    last = start
    for s, e in () if found[1] else (*groups, (end, end)):
        if NUMBER.search(text, last, s):
            found[1].append(("not_a_number", (last, s)))
        last = e
    return found


def read_parens(text: str, start: int, end: int) -> Found:
    """Two points of two numbers make a box."""
    found: Found = ([], [])
    groups = [m.span() for m in _PARENS.finditer(text, start, end)]
    first: tuple[Span, list[Span]] | None = None  # the first of two points
    for s, e in groups:
        spans = numbers_in(text, s + 1, e - 1)
        if spans is None:
            found[1].append(("not_a_number", (s, e)))
            first = None
        elif len(spans) == 2 and first is None:
            first = ((s, e), spans)
        elif len(spans) == 2 and first is not None:
            found[0].append(RawBox((*first[1], *spans), (first[0][0], e)))
            first = None
        elif len(spans) == 4:
            found[0].append(RawBox(tuple(spans), (s, e)))
        else:
            found[1].append(("wrong_arity", (s, e)))
    if first is not None:
        found[1].append(("wrong_arity", first[0]))
    return _with_rest(text, start, end, groups, found)


def read_blanks(text: str, start: int, end: int) -> Found:
    """Four numbers with blanks or commas between them."""
    found: Found = ([], [])
    if NUMBER.search(text, start, end):
        _four(text, start, end, (start, end), found)
    return found


def token_runs(
    text: str, runs: Iterable[re.Match[str]], token: re.Pattern[str], arity: int
) -> list[tuple[Span, list[Span]]]:
    """Number tokens in a row, as (span, spans of the numbers). Rows with blanks between them are one while
    they make no more than one box.
    """
    found: list[tuple[Span, list[Span]]] = []
    for run in runs:
        numbers = [m.span(1) for m in token.finditer(text, *run.span())]
        if found and not text[found[-1][0][1] : run.start()].strip():
            (start, _), before = found[-1]
            if len(before) + len(numbers) <= arity:
                found[-1] = ((start, run.end()), before + numbers)
                continue
        found.append((run.span(), numbers))
    return found


@dataclass(frozen=True)
class AngleReader:
    """Numbers that are tokens of their own, `before` number `after`; `arity` of them make a box, `point` of
    them a point. Blanks may stand between those of a box.
    """

    before: str = "<"
    after: str = ">"
    arity: int = 4
    point: int = 0
    digits: str = "[0-9]{1,12}"

    @cached_property
    def token(self) -> re.Pattern[str]:
        """One number token."""
        return re.compile(re.escape(self.before) + f"({self.digits})" + re.escape(self.after))

    @cached_property
    def run(self) -> re.Pattern[str]:
        """Number tokens in a row."""
        token = re.escape(self.before) + self.digits + re.escape(self.after)
        return re.compile(f"(?:{token})+")

    def __call__(self, text: str, start: int, end: int) -> Found:
        """Runs of number tokens between start and end."""
        found: Found = ([], [])
        last = start
        for span, spans in token_runs(text, self.run.finditer(text, start, end), self.token, self.arity):
            if NUMBER.search(text, last, span[0]):
                found[1].append(("not_a_number", (last, span[0])))
            last = span[1]
            if len(spans) == self.arity:
                found[0].append(RawBox(tuple(spans), span))
            else:
                is_point = self.point and len(spans) == self.point
                found[1].append(("non_box_payload" if is_point else "wrong_arity", span))
        if NUMBER.search(text, last, end):
            found[1].append(("not_a_number", (last, end)))
        return found


def write_parens(boxes: Numbers) -> str:
    """`(1,2),(3,4)`."""
    return "".join(f"({b[0]},{b[1]}),({b[2]},{b[3]})" for b in boxes)


def write_lists(boxes: Numbers) -> str:
    """`[[1, 2, 3, 4], [5, 6, 7, 8]]`."""
    return "[" + ", ".join("[" + ", ".join(b) + "]" for b in boxes) + "]"


def write_angles(boxes: Numbers) -> str:
    """`<1><2><3><4>,<5><6><7><8>`."""
    return ",".join("".join(f"<{n}>" for n in b) for b in boxes)


def write_blanks(boxes: Numbers) -> str:
    """`1 2 3 4`."""
    return " ".join(" ".join(b) for b in boxes)


def write_patches(boxes: Numbers) -> str:
    """Kosmos-2's pairs of cells."""
    return "</delimiter_of_multi_objects/>".join("".join(f"<patch_index_{n}>" for n in b) for b in boxes)
