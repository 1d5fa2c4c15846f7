"""Notations with location tokens.

PaliGemma `<loc0010><loc0020><loc0300><loc0400> cat ; <loc…> dog` (y1 x1 y2 x2, the label behind) ·
Florence-2 `a cat<loc_1><loc_2><loc_3><loc_4><loc_5>…` (x1 y1 x2 y2, the phrase before, further boxes directly
behind).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from spr.dialects.brackets import guess_phrase
from spr.dialects.layout import Container, Layout, RawBox, RawMention, Written, with_blank
from spr.dialects.payloads import token_runs
from spr.errors import DialectError
from spr.types import Span

_PALI_RUN = re.compile(r"(?:<loc[0-9]{1,12}>)+")
_PALI_TOKEN = re.compile(r"<loc([0-9]{1,12})>")
_PALI_TAIL = re.compile(r"(?:<seg[0-9]{1,12}>)*")
_PALI_LABEL_END = re.compile(r";|\n|<loc|\Z")
_FLORENCE_RUN = re.compile(r"<loc_[0-9]{1,12}>(?:[ \t]*<loc_[0-9]{1,12}>)*")
_FLORENCE_TOKEN = re.compile(r"<loc_([0-9]{1,12})>")
_WORDS_BETWEEN = frozenset(("", "and"))


def _partial(text: str, prefix: str, layout: Layout) -> None:
    """A location token that the end of the text cuts in two."""
    at = text.rfind("<", max(0, len(text) - 12))
    if at >= 0 and ">" not in text[at:]:
        tail = text[at:]
        before = text[max(0, at - 8) : at]  # a lone bracket behind a blank is a sign in prose
        begun = len(tail) > 1 or before[-1:].strip() or before.rstrip().endswith((">", ";"))
        if begun and (prefix.startswith(tail) or re.fullmatch(re.escape(prefix) + r"[0-9]*", tail)):
            layout.truncated(at, len(text))


def _is_cut(text: str, end: int) -> bool:
    """Whether nothing, or only half a token, follows."""
    tail = text[end : end + 20].strip()
    return not tail or (tail[0] == "<" and ">" not in tail and len(text) - end <= 20)


def _quads(spans: Sequence[Span], before: int, after: int) -> list[RawBox]:
    """Groups of four tokens; `before` and `after` are the lengths of a token's markup."""
    boxes = []
    for k in range(0, len(spans) - 3, 4):
        four = tuple(spans[k : k + 4])
        boxes.append(RawBox(four, (four[0][0] - before, four[3][1] + after)))
    return boxes


@dataclass(frozen=True)
class PaliGemmaGrammar:
    """The label stands behind; each box is its own item."""

    token_pattern: re.Pattern[str] = field(
        default=re.compile(r"<loc[0-9]{4}>(?:[ \t]*<loc[0-9]{4}>){3}"), compare=False
    )
    digits: int = 4
    marks: frozenset[str] = field(default=frozenset(("<loc",)), compare=False)

    def scan(self, text: str) -> Layout:
        """One pass over runs of location tokens."""
        layout = Layout(steps=2 * len(text))
        for (start, end), spans in token_runs(text, _PALI_RUN.finditer(text), _PALI_TOKEN, 4):
            run = (start, end)
            tail = _PALI_TAIL.match(text, end)
            end = tail.end() if tail else end
            layout.markup.append((start, end))
            if len(spans) != 4:
                layout.problem("truncated" if len(spans) < 4 and _is_cut(text, end) else "wrong_arity", *run)
                continue
            stop = _PALI_LABEL_END.search(text, end)
            label = text[end : stop.start() if stop else len(text)].rstrip()
            layout.steps += len(label)
            container = Container(with_blank(text, start, end), tuple(_quads(spans, 4, 1)))
            layout.mentions.append(RawMention(label.strip() or None, (container,), (start, end + len(label))))
        _partial(text, "<loc", layout)
        return layout

    def box_text(self, numbers: Sequence[str]) -> str:
        """Four location tokens."""
        return "".join(f"<loc{n}>" for n in numbers)

    def compose(self, parts: Sequence[Written]) -> str:
        """Items joined by " ; "; words outside items cannot be said."""
        items = []
        for part in parts:
            if isinstance(part, str):
                if part.strip(" ;,.\n") not in _WORDS_BETWEEN:
                    raise DialectError(
                        f"found the words {part!r} outside the boxes, expected none: this notation is a "
                        "list of labelled boxes"
                    )
                continue
            phrase, boxes = part
            if len(boxes) != 1:
                raise DialectError(
                    f"found {len(boxes)} boxes for {phrase!r}, expected 1: repeat the item instead"
                )
            if phrase is not None and (";" in phrase or "<loc" in phrase or "\n" in phrase):
                raise DialectError(f"found a separator in the phrase {phrase!r}, expected none")
            items.append(self.box_text(boxes[0]) + (f" {phrase}" if phrase is not None else ""))
        return " ; ".join(items)


@dataclass(frozen=True)
class FlorenceGrammar:
    """The phrase stands before, without marks; a run of 4 n tokens is n boxes."""

    token_pattern: re.Pattern[str] = field(
        default=re.compile(r"<loc_[0-9]+>(?:[ \t]*<loc_[0-9]+>){3}"), compare=False
    )
    digits: int = 0
    marks: frozenset[str] = field(default=frozenset(("<loc_",)), compare=False)

    def scan(self, text: str) -> Layout:
        """One pass over runs of location tokens."""
        layout = Layout(steps=2 * len(text))
        last = 0
        for run in _FLORENCE_RUN.finditer(text):
            spans = [m.span(1) for m in _FLORENCE_TOKEN.finditer(text, *run.span())]
            layout.markup.append(run.span())
            boxes = _quads(spans, 5, 1)
            if len(spans) % 4:
                rest = (spans[len(boxes) * 4][0] - 5, run.end())
                layout.problem("truncated" if _is_cut(text, run.end()) else "wrong_arity", *rest)
            if boxes:
                phrase, begin = guess_phrase(text, last, run.start(), layout)
                container = Container(with_blank(text, run.start(), boxes[-1].group[1]), tuple(boxes))
                layout.mentions.append(
                    RawMention(phrase, (container,), (min(begin, run.start()), boxes[-1].group[1]))
                )
            last = run.end()
        _partial(text, "<loc_", layout)
        return layout

    def box_text(self, numbers: Sequence[str]) -> str:
        """Four location tokens."""
        return "".join(f"<loc_{n}>" for n in numbers)

    def compose(self, parts: Sequence[Written]) -> str:
        """Phrases with their tokens directly behind."""
        return "".join(part if isinstance(part, str) else self._mention(*part) for part in parts)

    def _mention(self, phrase: str | None, boxes: Sequence[Sequence[str]]) -> str:
        if phrase is not None and "<" in phrase:
            raise DialectError(
                f"found '<' in the phrase {phrase!r}, expected none: it ends a phrase in this notation"
            )
        return (phrase or "") + "".join(self.box_text(box) for box in boxes)
