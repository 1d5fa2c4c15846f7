"""Isaac's XML-like notation: `<point_box mention="x" t="0.5"> (x1,y1) (x2,y2) </point_box>`, several in
`<collection mention="x">`.
"""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from spr.dialects.brackets import N
from spr.dialects.codec import LinearCodec
from spr.dialects.family import Family, family
from spr.dialects.layout import Container, Layout, RawBox, RawMention, Written, with_blank
from spr.dialects.payloads import read_parens
from spr.errors import DialectError
from spr.types import Span

_TAG = re.compile(r"<(/?)(point_box|collection|point|polygon)(?:\s[^<>]*)?>")
_MENTION = re.compile(r'\smention=(?:"([^"]*)"|\'([^\']*)\'|([^\s"\'>]+))')
_HINT = re.compile(r"<hint>[^<]*</hint>")


@dataclass
class _Collection:
    """A collection while its elements come in."""

    tag: re.Match[str]
    containers: list[Container] = field(default_factory=list)


@dataclass(frozen=True)
class IsaacGrammar:
    """The phrase is an attribute; a collection names all boxes in it."""

    token_pattern: re.Pattern[str] = field(
        default=re.compile(rf"\(\s*{N}\s*,\s*{N}\s*\)\s*\(\s*{N}\s*,\s*{N}\s*\)"), compare=False
    )
    digits: int = 0
    marks: frozenset[str] = field(
        default=frozenset(
            mark
            for name in ("point_box", "collection", "point", "polygon", "hint")
            for mark in (f"<{name}>", f"<{name} …>", f"</{name}>")
        ),
        compare=False,
    )

    def scan(self, text: str) -> Layout:
        """One pass over the tags."""
        layout = Layout(steps=4 * len(text))
        layout.markup += [m.span() for m in _HINT.finditer(text)]
        opened: re.Match[str] | None = None
        collection: _Collection | None = None
        for tag in _TAG.finditer(text):
            layout.markup.append(tag.span())
            closing, name = tag.group(1) == "/", tag.group(2)
            if opened is not None and (name == "collection" or not closing):
                layout.problem("tag_mismatch" if closing else "nested_tag", *tag.span())
                self._unclosed(text, opened, tag.start(), layout, collection)
                opened = None
            if name == "collection":
                if closing == (collection is None):
                    layout.problem("tag_mismatch" if closing else "nested_tag", *tag.span())
                if collection is not None:
                    self._mention(text, collection.tag, collection.containers, tag.end(), layout)
                collection = None if closing else _Collection(tag)
            elif not closing:
                opened = tag
            elif opened is None or opened.group(2) != name:
                layout.problem("tag_mismatch", *tag.span())
                opened = None
            else:
                self._element(text, opened, tag.span(), layout, collection)
                opened = None
        if opened is not None:
            self._unclosed(text, opened, len(text), layout, collection)
        for unclosed in (opened, collection.tag if collection else None):
            if unclosed is not None:
                layout.truncated(unclosed.start(), len(text))
        if collection is not None:
            self._mention(text, collection.tag, collection.containers, len(text), layout)
        self._partial_tag(text, layout)
        return layout

    def _partial_tag(self, text: str, layout: Layout) -> None:
        """A tag that the end of the text cuts in two."""
        at = text.rfind("<", max(0, len(text) - 200))
        if at >= 0 and len(text) - at > 2 and ">" not in text[at:]:
            tail = text[at + 1 :].lstrip("/").split(" ")[0]
            if any(name.startswith(tail) for name in ("point_box", "collection")):
                layout.truncated(at, len(text))

    def _unclosed(
        self, text: str, opened: re.Match[str], end: int, layout: Layout, collection: _Collection | None
    ) -> None:
        """An element that something else ends: its boxes are those whose own brackets are closed."""
        closing = text.rfind(")", opened.end(), end) + 1
        if closing:
            self._element(text, opened, (closing, closing), layout, collection)

    def _element(
        self,
        text: str,
        opened: re.Match[str],
        closed: Span,
        layout: Layout,
        collection: _Collection | None,
    ) -> None:
        """The boxes of one element, for its collection or as a mention; none: a problem says why."""
        span = (opened.start(), closed[1])
        layout.markup.append(span)
        boxes, problems = (
            read_parens(text, opened.end(), closed[0]) if opened.group(2) == "point_box" else ([], [])
        )
        for kind, where in problems:
            layout.problem(kind, *where)
        if not boxes and not problems:
            layout.problem("non_box_payload", *span)
        groups = tuple(RawBox(box.numbers, span if len(boxes) == 1 else box.group) for box in boxes)
        containers = [Container(with_blank(text, *span), groups)] if groups else []
        if collection is not None:
            collection.containers += containers
        else:
            self._mention(text, opened, containers, closed[1], layout)

    def _mention(
        self, text: str, tag: re.Match[str], containers: Sequence[Container], end: int, layout: Layout
    ) -> None:
        """Boxes under the name that `tag` gives them. Without boxes there is no mention."""
        phrase, keep = _named(text, tag)
        if containers:
            span = (tag.start(), end)
            layout.mentions.append(RawMention(phrase, tuple(containers), span, keep))
            layout.replaced.append((span, f" {phrase or ''} "))

    def box_text(self, numbers: Sequence[str]) -> str:
        """One element without a name."""
        return self._written(None, numbers)

    def _written(self, phrase: str | None, numbers: Sequence[str]) -> str:
        x1, y1, x2, y2 = numbers
        return f"<point_box{_attribute(phrase)}> ({x1},{y1}) ({x2},{y2}) </point_box>"

    def compose(self, parts: Sequence[Written]) -> str:
        """An element per box; several boxes of one phrase stand in a collection."""
        return "".join(part if isinstance(part, str) else self._compose_mention(*part) for part in parts)

    def _compose_mention(self, phrase: str | None, boxes: Sequence[Sequence[str]]) -> str:
        if phrase is not None and ("<" in phrase or ">" in phrase):
            raise DialectError(
                f"found a bracket in the phrase {phrase!r}, expected none: it is an attribute of a tag"
            )
        if len(boxes) == 1:
            return self._written(phrase, boxes[0])
        elements = " ".join(self._written(None, box) for box in boxes)
        return f"<collection{_attribute(phrase)}> {elements} </collection>" if boxes else phrase or ""


def _attribute(phrase: str | None) -> str:
    return f' mention="{html.escape(phrase, quote=True)}"' if phrase is not None else ""


def _named(text: str, tag: re.Match[str]) -> tuple[str | None, Span | None]:
    """The phrase in a tag's attribute `mention`, and where it stands."""
    found = _MENTION.search(text, *tag.span())
    if found is None:
        return None, None
    span = next(found.span(k) for k in (1, 2, 3) if found.group(k) is not None)
    phrase = html.unescape(text[slice(*span)]).strip()
    return (phrase, span) if phrase else (None, None)


def build() -> Family:
    """Grammar, codec, contract, prompts."""
    return family(
        IsaacGrammar(),
        LinearCodec(1000, 1000),
        "perceptron-ai/isaac (scale: third party)",
        decode="v / 1000 * W",
        phrase="attribute mention",
        several="<collection>",
        verified=False,
    )
