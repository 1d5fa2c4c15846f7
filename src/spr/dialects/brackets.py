"""Plain-text notations: the box stands in brackets behind its phrase, and nothing marks where the phrase
begins.

Ferret `a dog [1, 2, 3, 4] [5, 6, 7, 8]` · Shikra `a dog[0.1,0.2,0.3,0.4;0.5,0.6,0.7,0.8]` · LLaVA-1.5 `[0.12,
0.34, 0.56, 0.78]` · CogVLM `a dog[[086,540,400,760]]`. Also the helpers that every grammar uses: what a
number is, and which words before a box are its phrase.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass

from spr.dialects.layout import Container, Layout, RawBox, RawMention, Written, with_blank
from spr.errors import DialectError
from spr.types import Span

N = r"-?[0-9]+(?:\.[0-9]+)?"  # ASCII digits only: no vocabulary has coordinates in other ones
NUMBER = re.compile(N)
LONGEST = 17  # longer runs of digits are not coordinates of anything
_JUNK = re.compile(r"[^0-9\s.,;\-]")
_SEPARATORS = " \t\n,;"
_BOUNDARY = re.compile(r"[\n.,;:!?]")
_LEADING = re.compile(r"(?:(?:and|with|there is|there are)\s+)+", re.IGNORECASE)
_SEMICOLON = re.compile(";")
_STOP = re.compile(r"[\[\]\n]")


def numbers_in(text: str, start: int, end: int) -> list[Span] | None:
    """Spans of the numbers in text[start:end]; None when something else than numbers and separators stands
    there.
    """
    if _JUNK.search(text, start, end):
        return None
    spans = [m.span() for m in NUMBER.finditer(text, start, end)]
    last = start
    for k, (s, e) in enumerate(spans):
        if text[last:s].strip(_SEPARATORS) or e - s > LONGEST or (k and s == last):
            return None
        last = e
    return None if text[last:end].strip(_SEPARATORS) else spans


def is_note(text: str, numbers: Sequence[Span]) -> bool:
    """Whether numbers in brackets are few, small and whole, as those of notes are: "see [2, 3]"."""
    return len(numbers) < 4 and all(end - start <= 2 and "." not in text[start:end] for start, end in numbers)


def guess_phrase(text: str, start: int, end: int, layout: Layout) -> tuple[str | None, int]:
    """The text before a box since the last sign, without leading "and", "with", "there is", and where it
    begins. Noted as a guess.
    """
    begin = start
    layout.steps += end - start
    for sign in _BOUNDARY.finditer(text, start, end):
        begin = sign.end()
    while begin < end and text[begin].isspace():
        begin += 1
    leading = _LEADING.match(text, begin, end)
    begin = leading.end() if leading else begin
    phrase = text[begin:end].strip()
    if not any(map(str.isalnum, phrase)):
        return None, end
    layout.problem("phrase_guessed", begin, end)
    return phrase, begin


@dataclass(frozen=True)
class BracketGrammar:
    """`depth` brackets around the numbers; `separator` between numbers; `join` between boxes (";" inside the
    bracket, " " between brackets).
    """

    depth: int
    separator: str
    join: str
    digits: int = 0
    glue: str = " "  # between phrase and bracket when written

    @property
    def marks(self) -> frozenset[str]:
        """It has no tags."""
        return frozenset("[")

    @property
    def token_pattern(self) -> re.Pattern[str]:
        """The numbers of one box, between brackets or semicolons."""
        return re.compile(rf"(?<=[\[;])\s*{N}(?:\s*,\s*{N}){{3}}\s*(?=[\];])")

    def scan(self, text: str) -> Layout:
        """One pass over brackets; adjacent brackets with only blanks between them belong to one mention."""
        layout = Layout(steps=len(text))
        at, last_end = 0, 0
        phrase: str | None = None
        begin, first, group_end, boxes = 0, 0, -1, list[RawBox]()

        def flush() -> None:
            if boxes:
                container = Container(with_blank(text, first, group_end), tuple(boxes))
                layout.mentions.append(RawMention(phrase, (container,), (min(begin, first), group_end)))

        while (opened := text.find("[", at)) >= 0:
            found, span, at = self._bracket(text, opened, layout)
            if span is None:
                continue
            layout.markup.append(span)
            if boxes and not text[group_end : span[0]].strip(" \t"):
                boxes += found
                group_end = span[1] if found else group_end
            elif found:
                flush()
                phrase, begin = guess_phrase(text, last_end, span[0], layout)
                first, group_end, boxes = span[0], span[1], list(found)
            last_end = span[1]
        flush()
        return layout

    def _bracket(self, text: str, opened: int, layout: Layout) -> tuple[list[RawBox], Span | None, int]:
        """The boxes of the bracket that opens at `opened`, its span (None: not a box at all), and where to go
        on.
        """
        inner = opened + 1
        while text[inner : inner + 1] == "[":
            inner += 1
        stop = _STOP.search(text, inner)
        close = stop.start() if stop else len(text)
        layout.steps += 5 * (close - opened)  # the stop, junk, digits, numbers and what is between them
        if stop is None or stop.group() != "]":
            if not _JUNK.search(text, inner, close) and (stop is None or NUMBER.search(text, inner, close)):
                layout.problem("tag_mismatch" if stop else "truncated", opened, close)
                layout.markup.append((opened, close))
            return [], None, close
        end, depth = close + 1, inner - opened
        while end - close < depth and text[end : end + 1] == "]":
            end += 1
        if NUMBER.search(text, inner, close) is None:
            return [], None, end
        boxes, whole = self._boxes(text, (opened, end), (inner, close), layout)
        if whole and end - close < depth:
            layout.problem("truncated" if end == len(text) else "tag_mismatch", opened, end)
        return boxes, (opened, end), end

    def _boxes(self, text: str, outer: Span, inner: Span, layout: Layout) -> tuple[list[RawBox], bool]:
        """The boxes between semicolons, and whether each had its four numbers."""
        edges = [inner[0], *(m.end() for m in _SEMICOLON.finditer(text, *inner)), inner[1] + 1]
        boxes, whole = [], True
        for start, after in itertools.pairwise(edges):
            end = after - 1
            spans = numbers_in(text, start, end)
            if spans is None:
                layout.problem("not_a_number", start, end)
            elif len(spans) != 4:
                whole = False
                layout.problem("wrong_arity", start, end)
            else:
                boxes.append(RawBox(tuple(spans), outer if len(edges) == 2 else (start, end)))
        return boxes, whole

    def box_text(self, numbers: Sequence[str]) -> str:
        """`[1, 2, 3, 4]` with this grammar's depth and separator."""
        return "[" * self.depth + self.separator.join(numbers) + "]" * self.depth

    def compose(self, parts: Sequence[Written]) -> str:
        """Phrases followed by their boxes."""
        return "".join(part if isinstance(part, str) else self._mention(*part) for part in parts)

    def _mention(self, phrase: str | None, boxes: Sequence[Sequence[str]]) -> str:
        if phrase is not None and ("[" in phrase or "]" in phrase):
            raise DialectError(
                f"found a bracket in the phrase {phrase!r}, expected none: brackets hold boxes in this "
                "notation"
            )
        if self.join == ";" and boxes:
            text = self.box_text([";".join(self.separator.join(box) for box in boxes)])
        else:
            text = self.join.join(self.box_text(box) for box in boxes)
        return (phrase or "") + (self.glue if phrase and text else "") + text
