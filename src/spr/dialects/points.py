"""Molmo's points in tags: `<point x="41.5" y="60.2" alt="a cat">a cat</point>`, several as `<points x1= y1=
x2= y2= …>`; Molmo2's `<points coords="1 1 415 602 2 193 076" alt="cats">cats</points>`: an image, then for
each point its id, x and y. What stands between the tags is the phrase.
"""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from spr.dialects.brackets import LONGEST, N, numbers_in
from spr.dialects.layout import Layout, RawMention, RawPoint, Written
from spr.errors import DialectError
from spr.types import Span

_QUOTED = r"(?:[^<>\"']|\"[^\"<]*+\"|'[^'<]*+')*+"
_TAG = re.compile(rf"<(?:(/)|(?=\w+\s))(points?|tracks)(?=[\s/>])(?:{_QUOTED}>|[^<>]*>)")
_ATTRIBUTE = re.compile(r"(?<=[\s\"'])([A-Za-z]+)([0-9]{0,4})\s*=\s*(?:\"([^\"]*)\"|'([^']*)'|([^\s\"'>]+))")
_VALUE = re.compile(rf"\s*({N})\s*%?\s*")
_DIGITS = 3  # of Molmo2's coordinates, at least
_IMAGE = "1"  # what coordinates are said to be of: there is no other one
_GROUP = re.compile(r"[^\t:,;]+")
_MARKS = frozenset(mark for name in ("point", "points", "tracks") for mark in (f"<{name} …>", f"</{name}>"))
_NAME = re.compile(r"<(?:/\w*|\w+)")
_OPENINGS = ("<point", "<points", "<tracks", "</point", "</points")


@dataclass(frozen=True)
class PointTagGrammar:
    """`coords`: the points stand in one attribute (Molmo2); else in x and y, numbered where there are
    several.
    """

    coords: bool = False
    digits: int = 0
    marks: frozenset[str] = field(default=_MARKS, compare=False)

    @property
    def token_pattern(self) -> re.Pattern[str]:
        """The coordinates of one point; Molmo2's: of one element."""
        if self.coords:
            return re.compile(r"(?<=coords=\")[0-9.\s:,;]+(?=\")")
        return re.compile(rf"\bx[0-9]*=\"\s*{N}\s*\"\s+y[0-9]*=\"\s*{N}\s*\"")

    def scan(self, text: str) -> Layout:
        """One pass over the tags. A point is whole with its opening tag."""
        layout = Layout(steps=3 * len(text))
        opened: re.Match[str] | None = None
        for tag in _TAG.finditer(text):
            layout.markup.append(tag.span())
            layout.steps += 3 * len(tag.group())
            closing = tag.group(1) == "/"
            if opened is not None and closing and opened.group(2) == tag.group(2):
                self._element(text, opened, tag.span(), layout)
                opened = None
                continue
            if opened is not None or closing:
                layout.problem("tag_mismatch" if closing else "nested_tag", *tag.span())
            if opened is not None:
                self._element(text, opened, None, layout)
            opened = None if closing else tag
            if opened is not None and tag.group().endswith("/>"):
                self._element(text, opened, None, layout)
                opened = None
        if opened is not None:
            self._element(text, opened, None, layout)
            layout.problem("truncated", opened.start(), len(text))
        at = text.rfind("<")
        tail = text[at:] if at >= 0 else ""
        if len(tail) > 1 and ">" not in tail:
            name = _NAME.match(tail)
            if name and any(opening.startswith(name.group()) for opening in _OPENINGS):
                layout.truncated(at, len(text))
        return layout

    def _element(self, text: str, opened: re.Match[str], closed: Span | None, layout: Layout) -> None:
        """What an element says; without its closing tag it names what its `alt` does."""
        end = closed[0] if closed else opened.end()
        span = (opened.start(), closed[1] if closed else opened.end())
        attributes = list(_ATTRIBUTE.finditer(text, *opened.span()))
        alt = next((_text(a) for a in attributes if a.group(1) == "alt"), "")
        inner = text[opened.end() : end].strip()
        phrase = inner or html.unescape(alt).strip()
        if phrase and not inner:
            layout.replaced.append((span, f" {phrase} "))
        broken = len(layout.problems)
        find = self._in_coords if self.coords else self._in_sides
        points = find(text, attributes, layout) if opened.group(2) != "tracks" else []
        if points:
            layout.mentions.append(RawMention(phrase or None, (), span, points=tuple(points)))
        elif len(layout.problems) == broken:
            layout.problem("non_box_payload", *opened.span())

    def _in_sides(self, text: str, attributes: Sequence[re.Match[str]], layout: Layout) -> list[RawPoint]:
        """Pairs of x and y with the same number."""
        found: dict[str, dict[str, Span | None]] = {}
        for a in attributes:
            side, number = a.group(1), a.group(2)
            if side not in ("x", "y"):
                continue
            pair = found.setdefault(number, {})
            if side in pair:
                layout.problem("tag_mismatch", *a.span())
                continue
            value = _VALUE.fullmatch(text, *_span(a))
            fits = value is not None and value.end(1) - value.start(1) <= LONGEST
            if not fits:
                layout.problem("not_a_number", *a.span())
            pair[side] = value.span(1) if value is not None and fits else None
        points = list[RawPoint]()
        for pair in found.values():
            if len(pair) < 2:
                where = next(iter(pair.values()))
                layout.problem("wrong_arity", *(where or attributes[0].span()))
            elif (x := pair["x"]) and (y := pair["y"]):
                points.append((x, y))
        return points

    def _in_coords(self, text: str, attributes: Sequence[re.Match[str]], layout: Layout) -> list[RawPoint]:
        """Groups of an image with its points; an older form has no image."""
        points = list[RawPoint]()
        for a in attributes:
            for group in _GROUP.finditer(text, *_span(a)) if a.group(1) == "coords" else ():
                numbers = numbers_in(text, *group.span())
                if numbers is None:
                    layout.problem("not_a_number", *group.span())
                elif len(numbers) < 3 or len(numbers) % 3 == 2 or _is_short(text, numbers):
                    layout.problem("wrong_arity", *group.span())
                elif len(numbers) % 3 == 1 and text[slice(*numbers[0])] != _IMAGE:
                    layout.problem("non_box_payload", *group.span())  # of another image
                else:
                    rest = numbers[len(numbers) % 3 :]
                    points += list(zip(rest[1::3], rest[2::3], strict=True))
        return points

    def box_text(self, numbers: Sequence[str]) -> str:
        """One point without a name."""
        return self._written("", [numbers])

    def compose(self, parts: Sequence[Written]) -> str:
        """An element for each phrase. Nothing says that something is absent."""
        return "".join(part if isinstance(part, str) else self._mention(*part) for part in parts)

    def _mention(self, phrase: str | None, points: Sequence[Sequence[str]]) -> str:
        for sign in '<>"&':
            if phrase and sign in phrase:
                raise DialectError(f"found {sign!r} in the phrase {phrase!r}, expected a phrase without it")
        return self._written(phrase or "", points) if points else phrase or ""

    def _written(self, phrase: str, points: Sequence[Sequence[str]]) -> str:
        if self.coords:
            numbers = " ".join(f"{k + 1} {x} {y}" for k, (x, y) in enumerate(points))
            name, where = "points", f'coords="{_IMAGE} {numbers}"'
        elif len(points) == 1:
            name, where = "point", 'x="{}" y="{}"'.format(*points[0])
        else:
            pairs = (f'x{k + 1}="{x}" y{k + 1}="{y}"' for k, (x, y) in enumerate(points))
            name, where = "points", " ".join(pairs)
        return f'<{name} {where} alt="{phrase}">{phrase}</{name}>'


def _is_short(text: str, numbers: Sequence[Span]) -> bool:
    """Whether a coordinate has less than the three digits that the family writes: some number is missing."""
    rest = numbers[len(numbers) % 3 :]
    return any(end - start < _DIGITS for start, end in (*rest[1::3], *rest[2::3]))


def _span(attribute: re.Match[str]) -> Span:
    """Where the value of an attribute stands."""
    return next(attribute.span(k) for k in (3, 4, 5) if attribute.group(k) is not None)


def _text(attribute: re.Match[str]) -> str:
    return next(attribute.group(k) for k in (3, 4, 5) if attribute.group(k) is not None)
