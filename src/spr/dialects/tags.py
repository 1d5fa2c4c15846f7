"""Notations with tags: `<ref>a dog</ref><box>(1,2),(3,4)</box>` and its many cousins.

One pass over the tags with a small state machine; what stands between an opening and a closing box tag is
read by a payload reader. When a decoder has removed all tags, payloads that still look like boxes are read
and reported as `tags_stripped`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from spr.dialects.brackets import NUMBER, guess_phrase, numbers_in
from spr.dialects.layout import (
    Container,
    Layout,
    RawBox,
    RawMention,
    RawPoint,
    Written,
    blanked,
    merged,
    with_blank,
)
from spr.dialects.payloads import AngleReader, Reader
from spr.errors import DialectError
from spr.types import ProblemKind, Span

_CLOSING_SIGNS = frozenset(")]>}")
_BETWEEN = " \t\r\n:：-–=>"  # between a phrase and its box


@dataclass(frozen=True)
class TagGrammar:
    """`ref`, `box` and `point` are (opening, closing) tags; `ref` None: no tag says what is named."""

    box: tuple[str, str]
    reader: Reader
    write: Callable[[Sequence[Sequence[str]]], str]  # numbers of the boxes of one container -> its payload
    token_pattern: re.Pattern[str]
    ref: tuple[str, str] | None = None
    point: tuple[str, str] | None = None  # around two numbers
    guess: bool = False  # the phrase is the text before, without tags
    # several boxes of one phrase: in one container, or one container each
    several: Literal["inside", "repeat"] = "inside"
    between: str = ""  # between repeated containers
    glue: str = ""  # between phrase and box
    pad: str = ""  # written before the phrase inside its tag
    absent: str | None = None  # what the family writes for "there is none"
    others: tuple[tuple[str, str], ...] = ()  # tags of other shapes
    extra: tuple[str, ...] = ()  # tags without meaning for boxes
    forbidden: tuple[str, ...] = ()  # what a phrase cannot hold, besides the tags
    bare: re.Pattern[str] | None = None  # what is still a box when tags were stripped
    digits: int = 0
    needs: tuple[str, str] = ("", "")  # regexes that must follow the opening and precede the closing box tag

    @cached_property
    def _names(self) -> tuple[str, ...]:
        """All tags but those of the box."""
        return (*(t for pair in self.shapes for t in pair), *self.extra, *(self.ref or ()))

    @cached_property
    def shapes(self) -> tuple[tuple[str, str], ...]:
        """Tags of other shapes than boxes."""
        return (*self.others, *([self.point] if self.point else []))

    @cached_property
    def marks(self) -> frozenset[str]:
        """All its tags, and its bare number tokens."""
        tokens = [self.reader.before] if isinstance(self.reader, AngleReader) else []
        return frozenset((*self._names, *self.box, *("<0>" if t == "<" else t for t in tokens)))

    @cached_property
    def _tags(self) -> re.Pattern[str]:
        alternatives = [re.escape(t) for t in sorted(self._names, key=len, reverse=True)]
        return re.compile(
            "|".join(
                [
                    *alternatives,
                    re.escape(self.box[0]) + self.needs[0],
                    self.needs[1] + re.escape(self.box[1]),
                ]
            )
        )

    def scan(self, text: str) -> Layout:
        """What stands in tags, then boxes that have lost theirs."""
        layout = _TagScan(self, text).run(list(self._tags.finditer(text)))
        layout.steps += len(text)
        tagged = merged([*layout.markup, *(mention.span for mention in layout.mentions)])
        layout.add(self._bare(blanked(text, tagged)))
        layout.mentions.sort(key=lambda mention: mention.span)
        self._partial_tag(text, layout)
        return layout

    def _partial_tag(self, text: str, layout: Layout) -> None:
        """A tag that the end of the text cuts in two."""
        names = (*self.box, *(self.ref or ()))
        at = text.rfind("<", max(0, len(text) - max(map(len, names))))
        tail = text[at:] if at >= 0 else ""
        if len(tail) >= 2 and any(t != tail and t.startswith(tail) for t in names):
            layout.truncated(at, len(text))

    def _bare(self, text: str) -> Layout:
        """Payloads without their tags; only whole boxes count."""
        layout = Layout(steps=len(text))
        last = begin = 0
        phrase: str | None = None
        boxes: list[RawBox] = []

        def flush() -> None:
            if boxes:
                start, end = boxes[0].group[0], boxes[-1].group[1]
                while start > 0 and text[start - 1] == "[" and text[end : end + 1] == "]":
                    start, end = start - 1, end + 1
                cut = with_blank(text, start, end)
                container = Container(cut, tuple(boxes))
                layout.mentions.append(RawMention(phrase, (container,), (min(begin, start), end)))
                layout.markup.append(cut)

        for m in self.bare.finditer(text) if self.bare else ():
            start, end = m.span()
            layout.steps += 5 * (end - start)
            found = self.reader(text, start, end)[0]
            if len(found) != 1:
                continue
            if not boxes or text[last:start].strip("[], ;\t"):
                flush()
                left = start
                while left > last and text[left - 1] == "[":
                    left -= 1
                layout.problem("tags_stripped", start, end)
                phrase, begin = guess_phrase(text, last, left, layout)
                boxes = []
            boxes.append(found[0])
            last = end
        flush()
        return layout

    def box_text(self, numbers: Sequence[str]) -> str:
        """One box, or point, with its tags."""
        opening, closing = self.point if self.point and len(numbers) == 2 else self.box
        return f"{opening}{self.write([numbers])}{closing}"

    def compose(self, parts: Sequence[Written]) -> str:
        """Phrases in their tags, each followed by its boxes."""
        return "".join(part if isinstance(part, str) else self._compose_mention(*part) for part in parts)

    def _compose_mention(self, phrase: str | None, boxes: Sequence[Sequence[str]]) -> str:
        named = self._named(phrase) if phrase is not None else ""
        if not boxes:
            return named + (f"{self.box[0]}{self.absent}{self.box[1]}" if self.absent is not None else "")
        glue = self.glue if named else ""
        if self.several == "repeat":
            return named + glue + self.between.join(self.box_text(box) for box in boxes)
        return f"{named}{glue}{self.box[0]}{self.write(boxes)}{self.box[1]}"

    def _named(self, phrase: str) -> str:
        if self.ref is None and not self.guess:
            raise DialectError(
                f"found the phrase {phrase!r}, expected none: this notation has no place for a label"
            )
        for sign in (*self.forbidden, *self._names, *self.box):
            if sign in phrase:
                raise DialectError(f"found {sign!r} in the phrase {phrase!r}, expected a phrase without it")
        return f"{self.ref[0]}{self.pad}{phrase}{self.ref[1]}" if self.ref else phrase


@dataclass
class _Building:
    """A mention while its containers come in."""

    phrase: str | None
    start: int
    end: int
    parts: list[tuple[int, int, tuple[RawBox, ...]]] = field(default_factory=list)
    points: list[RawPoint] = field(default_factory=list)

    def add(self, start: int, end: int, boxes: Sequence[RawBox], points: Sequence[RawPoint]) -> None:
        """One more container, or more points."""
        if boxes:
            self.parts.append((start, end, tuple(boxes)))
        self.points += points
        self.end = end

    def mention(self, text: str, merge: bool) -> RawMention:
        """The finished mention. `merge`: containers of one box each are groups of one container, so that
        their separators go with them.
        """
        span = (self.start, self.end)
        containers = tuple(Container(with_blank(text, s, e), boxes) for s, e, boxes in self.parts)
        if merge and self.parts and not self.points and all(len(boxes) == 1 for _, _, boxes in self.parts):
            groups = tuple(RawBox(boxes[0].numbers, (start, end)) for start, end, boxes in self.parts)
            containers = (Container(with_blank(text, self.parts[0][0], self.end), groups),)
        return RawMention(self.phrase, containers, span, points=tuple(self.points))


@dataclass
class _TagScan:
    """The state machine of one scan."""

    grammar: TagGrammar
    text: str
    layout: Layout = field(default_factory=Layout)
    ref_open: re.Match[str] | None = None
    # start, phrase, end of the phrase that was closed last and has no box yet
    ref: tuple[int, str, int] | None = None
    box_open: re.Match[str] | None = None
    other_open: re.Match[str] | None = None
    building: _Building | None = None  # the named mention whose containers still come
    last: int = 0  # where the last container ends

    def run(self, tags: Sequence[re.Match[str]]) -> Layout:
        g = self.grammar
        ref_open, ref_close = g.ref or (None, None)
        for tag in tags:
            name = tag.group()
            self.layout.markup.append(tag.span())
            if name == g.box[1]:
                self._close_box(tag)
            elif name == ref_open:
                self._interrupt(tag)
                if self.ref_open is not None:
                    self.layout.problem("nested_tag", *tag.span())
                self.ref_open, self.ref = tag, None
            elif name == ref_close:
                self._close_ref(tag)
            elif any(name == closing for _, closing in g.shapes):
                self._close_other(tag)
            elif any(name == opening for opening, _ in g.shapes):
                self._interrupt(tag)
                self.other_open = tag
            elif name not in g.extra:
                self._interrupt(tag)
                self.box_open = tag
        self._finish()
        return self.layout

    def _interrupt(self, tag: re.Match[str]) -> None:
        """A tag while a box is open: the box is not closed any more; its whole groups are kept."""
        if self.box_open is not None:
            self.layout.problem("nested_tag", *tag.span())
            self._container(self.box_open, tag.start(), tag.start(), closed=False)
            self.box_open = None

    def _close_ref(self, tag: re.Match[str]) -> None:
        self._interrupt(tag)
        if self.ref_open is None:
            self.layout.problem("tag_mismatch", *tag.span())
            return
        self.ref = (self.ref_open.start(), self.text[self.ref_open.end() : tag.start()].strip(), tag.end())
        self.ref_open = None
        self._flush()

    def _close_other(self, tag: re.Match[str]) -> None:
        if self.other_open is None:
            self.layout.problem("tag_mismatch", *tag.span())
            return
        opening, span = self.other_open, (self.other_open.start(), tag.end())
        self.layout.markup.append(span)
        self.other_open = None
        if (opening.group(), tag.group()) == self.grammar.point:
            self._point((opening.end(), tag.start()), span)
        else:
            self.layout.problem("non_box_payload", *span)

    def _point(self, inner: Span, outer: Span) -> None:
        """The two numbers between the tags of a point."""
        numbers = numbers_in(self.text, *inner)
        self.layout.steps += 3 * (inner[1] - inner[0])
        if numbers is None:
            kind: ProblemKind = "not_a_number" if NUMBER.search(self.text, *inner) else "non_box_payload"
            self.layout.problem(kind, *outer)
        elif len(numbers) != 2:
            self.layout.problem("wrong_arity", *outer)
        else:
            self._attach(*outer, points=[(numbers[0], numbers[1])])

    def _close_box(self, tag: re.Match[str]) -> None:
        if self.box_open is None:
            self.layout.problem("tag_mismatch", *tag.span())
            return
        self._container(self.box_open, tag.start(), tag.end(), closed=True)
        self.box_open = None

    def _container(self, opening: re.Match[str], end: int, outer_end: int, closed: bool) -> None:
        """The boxes between an opening tag and `end`. Not closed: those whose own brackets are, since the
        last number may be cut.
        """
        text, layout = self.text, self.layout
        boxes, problems = self.grammar.reader(text, opening.end(), end)
        layout.markup.append((opening.start(), outer_end))
        layout.steps += 5 * (end - opening.end())
        payload = text[opening.end() : end].strip()
        if payload.lower() == "none":
            layout.problem("absent_marker", opening.end(), end)
            self._attach(opening.start(), outer_end)
            return
        if not closed:
            boxes, problems = [box for box in boxes if text[box.group[1] - 1] in _CLOSING_SIGNS], []
        for kind, span in problems:
            layout.problem(kind, *span)
        if boxes:
            self._attach(opening.start(), outer_end, boxes)
        elif not problems and closed:
            layout.problem("non_box_payload" if payload else "wrong_arity", opening.start(), outer_end)

    def _attach(
        self, start: int, end: int, boxes: Sequence[RawBox] = (), points: Sequence[RawPoint] = ()
    ) -> None:
        """A container belongs to the mention it continues, to the phrase before it, or to nothing."""
        found = bool(boxes or points)
        if self.building is not None and found and not self._between(self.building.end, start):
            self.building.add(start, end, boxes, points)
            self.last = end
            return
        self._flush()
        phrase, begin, named = None, start, self.grammar.guess
        if self.grammar.guess:
            phrase, begin = guess_phrase(self.text, self.last, start, self.layout)
        elif self.ref is not None and not self.text[self.ref[2] : start].strip(_BETWEEN):
            phrase, begin, named = self.ref[1] or None, self.ref[0], True
        self.ref, self.last = None, end
        self.building = _Building(phrase, begin, end)
        self.building.add(start, end, boxes, points)
        if not found or not named:
            self._flush()

    def _flush(self) -> None:
        """The mention that was being built is complete."""
        if self.building is not None:
            self.layout.mentions.append(self.building.mention(self.text, self.grammar.several == "repeat"))
            self.building = None

    def _between(self, start: int, end: int) -> str:
        """What stands between two containers, without separators."""
        between = self.text[start:end]
        if self.grammar.between:
            between = between.replace(self.grammar.between, "")
        return between.strip(" \t\n,;")

    def _finish(self) -> None:
        """What the end of the text leaves open."""
        end = len(self.text)
        opened = self.box_open or self.other_open or self.ref_open
        if opened is not None:
            self.layout.problem("truncated", opened.start(), end)
        if self.box_open is not None:
            self._container(self.box_open, end, end, closed=False)
        elif self.other_open is not None:
            self.layout.markup.append((self.other_open.start(), end))
        self._flush()
