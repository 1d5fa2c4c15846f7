"""JSON notations: `[{"bbox_2d": [x1, y1, x2, y2], "label": "x"}]`, fenced or not, in a list, alone, or one
per line, with prose around.

Objects are found wherever they stand and edited in place: extra keys, their order, fences and blanks stay. A
scanner of our own, because a JSON library neither reads a text that breaks off nor says where a number
stands.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from spr.dialects.brackets import N, guess_phrase, numbers_in
from spr.dialects.layout import Container, Layout, RawBox, RawMention, Written, with_blank
from spr.errors import DialectError
from spr.types import Span

_STRING = r'"(?:[^"\\\n]|\\.)*"|\'(?:[^\'\\\n]|\\.)*\''
_KEY = re.compile(rf"\s*({_STRING})\s*:\s*")
_TEXT = re.compile(_STRING)
_ARRAY = re.compile(r"\[[^\[\]{}]*\]")
_NESTED = re.compile(r"\[\s*(?=\[)")
_COMMA = re.compile(r"\s*,\s*")
_CLOSING = re.compile(r"\s*\]")
_FLAT_OBJECT = re.compile(r"\{[^{}]*\}")
_SCALAR = re.compile(r"[^\s,{}\[\]\"']+")
_NEXT = re.compile(r"\s*([,}])")
_END = re.compile(r"\s*\}")
_OPEN = r'"(?:[^"\\\n]|\\.)*+\\?+(?:"\s*+:?+\s*+)?+'
_OPEN_STRING = _OPEN + "|" + _OPEN.replace('"', "'")
# what a broken-off object ends with
_CUT = re.compile(rf"\s*+(?:{_OPEN_STRING}|[\[\]\s0-9.,\-]*+|[a-zA-Z]*+)\Z")
_BARE = re.compile(r"\[[^\[\]\n]*\]")
_LINE = re.compile(rf"^[ \t]*({N}(?:[ \t]*,[ \t]*{N}){{3}})(?:[ \t,]+([^\n]*))?$", re.MULTILINE)
_WRAPPER = re.compile(r"\{\s*(?:\"[^\"{}\n]*\"|'[^'{}\n]*')\s*:")
_AFTER = re.compile(r"[\s,]*\]?\s*\}?\s*(?:```)?")
_JOINT = re.compile(r"[\s,;.]*+(?:and)?[\s,;.]*+\Z")
# of answers without a box
_OTHER_SHAPES = frozenset(("point_2d", "point", "points", "polygon", "mask", "keypoints", "quad"))


@dataclass
class _Object:
    """One object while it is read: spans of its members and what it says."""

    start: int
    end: int = 0
    members: list[Span] = field(default_factory=list)
    label: str = ""
    box_member: int | None = None
    groups: list[RawBox] = field(default_factory=list)
    absent: bool = False
    other_shape: bool = False
    closed: bool = False
    cut: bool = False  # by the end of the text

    @property
    def is_answer(self) -> bool:
        """Whether a box stands in it, or something in the place of one."""
        return self.box_member is not None or self.other_shape or self.cut


@dataclass(frozen=True)
class JsonGrammar:
    """`key` holds the box. Labels stand under `label` (or the known other names when there is none)."""

    key: str
    token_pattern: re.Pattern[str] = field(
        default=re.compile(rf"(?<=\[)\s*{N}(?:\s*,\s*{N}){{3}}\s*(?=\])"), compare=False
    )
    digits: int = 0
    label_keys: tuple[str, ...] = ("label", "text_content", "name", "class", "description")

    def scan(self, text: str) -> Layout:
        """All objects with a box, in order; without any, lines `x1,y1,x2,y2 label` or bare lists of four
        numbers.
        """
        layout = Layout(steps=len(text))
        at, objects = 0, []
        while (at := text.find("{", at)) >= 0:
            found, after = self._object(text, at, layout)
            layout.steps += 2 * (after - at)
            # an object whose box was removed keeps its label
            if found.is_answer or (found.closed and found.label):
                objects.append(found)
            at = max(after, at + 1)
        for found in objects:
            if not found.cut:
                self._mention(text, found, layout)
        answers = any(found.is_answer for found in objects)
        if not answers and not self._lines(text, layout):
            self._lists(text, layout)
        if answers or (objects and not layout.mentions):
            self._labels(text, objects, layout)
        return layout

    def _object(self, text: str, start: int, layout: Layout) -> tuple[_Object, int]:
        """The object that opens at `start`, and where to go on."""
        found, at = _Object(start), start + 1
        while (key := _KEY.match(text, at)) is not None:
            name = key.group(1)[1:-1]
            stop = self._value(text, key.end(), name, found, layout)
            if stop is None:
                at = key.end()
                break
            found.members.append((key.start(1), stop))
            if name == self.key:
                found.box_member = len(found.members) - 1
            found.other_shape = found.other_shape or name in _OTHER_SHAPES
            following = _NEXT.match(text, stop)
            at = following.end() if following else stop
            if following is None or following.group(1) == "}":
                found.closed = following is not None
                break
        if not found.closed and (end := _END.match(text, at)):
            found.closed, at = True, end.end()
        found.cut = not found.closed and _CUT.match(text, at) is not None
        if found.cut:  # lost whole, with its label
            found.label, at = "", len(text)
            layout.truncated(start, at)
        elif not found.closed and found.box_member is not None:
            layout.problem("tag_mismatch", start, at)
        elif key is not None and stop is None and name == self.key:
            layout.problem(
                "non_box_payload" if text[at : at + 1] == "{" else "not_a_number", key.start(1), at
            )
        found.end = at
        return found, at

    def _value(self, text: str, at: int, name: str, found: _Object, layout: Layout) -> int | None:
        """Where the value that begins at `at` ends; None when it does not."""
        sign = text[at : at + 1]
        if name == self.key:
            return self._box_value(text, at, found, layout)
        if sign in ('"', "'"):
            value = _TEXT.match(text, at)
            if value and name in self.label_keys and (not found.label or name == "label"):
                found.label = _unquote(value.group()).strip()
            return value.end() if value else None
        if sign == "[":
            array = _ARRAY.match(text, at)
            return array.end() if array else None
        if sign == "{":
            inner = _FLAT_OBJECT.match(text, at)
            return inner.end() if inner and self.key not in inner.group() else None
        scalar = _SCALAR.match(text, at)
        return scalar.end() if scalar else None

    def _box_value(self, text: str, at: int, found: _Object, layout: Layout) -> int | None:
        """The list of four numbers under the box key; a nested list gives several boxes and a problem."""
        if text[at : at + 1] != "[":
            scalar = _TEXT.match(text, at) or _SCALAR.match(text, at)
            if scalar is None:
                return None
            found.absent = scalar.group().strip("\"'").lower() in ("none", "null")
            layout.problem("absent_marker" if found.absent else "non_box_payload", *scalar.span())
            return scalar.end()
        nested = _NESTED.match(text, at)
        if nested is None:
            array = _ARRAY.match(text, at)
            if array:
                self._numbers(text, *array.span(), found, layout)
            return array.end() if array else None
        layout.problem("nested_tag", at, nested.end())
        position = nested.end()
        while (array := _ARRAY.match(text, position)) is not None:
            self._numbers(text, *array.span(), found, layout)
            stop = array.end()
            comma = _COMMA.match(text, stop)
            position = comma.end() if comma else stop
        closing = _CLOSING.match(text, position)
        if closing:
            return closing.end()
        return stop if found.groups else None

    def _numbers(self, text: str, start: int, end: int, found: _Object, layout: Layout) -> None:
        spans = numbers_in(text, start + 1, end - 1)
        if not text[start + 1 : end - 1].strip():
            found.absent = True
            layout.problem("absent_marker", start, end)
        elif spans is None:
            layout.problem("not_a_number", start, end)
        elif len(spans) != 4:
            layout.problem("non_box_payload" if len(spans) == 2 else "wrong_arity", start, end)
        else:
            found.groups.append(RawBox(tuple(spans), (start, end)))

    def _mention(self, text: str, found: _Object, layout: Layout) -> None:
        """The object as a mention; one whose box cannot be read is none."""
        span = (found.start, found.end)
        if found.groups and found.box_member is not None:
            container = Container(self._cut(text, found, found.box_member), tuple(found.groups))
            layout.mentions.append(RawMention(found.label or None, (container,), span))
        elif found.absent:
            layout.mentions.append(RawMention(found.label or None, (), span))
        elif found.other_shape and found.box_member is None:
            layout.problem("non_box_payload", *span)

    def _cut(self, text: str, found: _Object, k: int) -> Span:
        """Member k with one comma; the whole object, with its comma, when nothing else is in it."""
        members = found.members
        if len(members) == 1 and found.closed:
            after = _COMMA.match(text, found.end)
            if after:
                return found.start, after.end()
            left = found.start
            while left > 0 and text[left - 1].isspace():
                left -= 1
            return (left - 1, found.end) if left > 0 and text[left - 1] == "," else (found.start, found.end)
        if k + 1 < len(members):
            return members[k][0], members[k + 1][0]
        return (members[k - 1][1], members[k][1]) if k else members[k]

    def _labels(self, text: str, objects: Sequence[_Object], layout: Layout) -> None:
        """For the plain text: each list with its fence becomes its labels, as a sentence. Prose between two
        lists stays.
        """
        floor, first = 0, 0
        for k, found in enumerate(objects):
            following = objects[k + 1].start if k + 1 < len(objects) else len(text)
            if k + 1 < len(objects) and not text[found.end : following].strip(" \t\r\n,[]"):
                continue
            start = _list_start(text, floor, objects[first].start)
            after = _AFTER.match(text, found.end, following)
            floor = after.end() if after else found.end
            labels = [o.label for o in objects[first : k + 1] if o.label]
            joined = (", ".join(labels[:-1]) + " and " if len(labels) > 1 else "") + (
                labels[-1] + "." if labels else ""
            )
            layout.replaced.append(((start, floor), f" {joined} "))
            first = k + 1
        layout.steps += 2 * len(text)

    def _lines(self, text: str, layout: Layout) -> bool:
        """Lines `x1,y1,x2,y2 label`; whether there are any."""
        for line in _LINE.finditer(text):
            spans = numbers_in(text, *line.span(1))
            if spans is not None and len(spans) == 4:
                label = (line.group(2) or "").strip() or None
                cut = (line.start(1), line.start(2)) if label else line.span(1)
                container = Container(cut, (RawBox(tuple(spans), line.span(1)),))
                layout.mentions.append(RawMention(label, (container,), (line.start(1), line.end())))
                layout.markup.append(line.span(1))
        layout.steps += 3 * len(text)
        return bool(layout.mentions)

    def _lists(self, text: str, layout: Layout) -> None:
        """Bare lists of four numbers, with the text before as a guessed phrase."""
        last = 0
        for m in _BARE.finditer(text):
            spans = numbers_in(text, m.start() + 1, m.end() - 1)
            if spans is not None and len(spans) == 4:
                phrase, begin = guess_phrase(text, last, m.start(), layout)
                container = Container(with_blank(text, *m.span()), (RawBox(tuple(spans), m.span()),))
                layout.mentions.append(RawMention(phrase, (container,), (min(begin, m.start()), m.end())))
                layout.markup.append(m.span())
                last = m.end()
        layout.steps += 4 * len(text)

    def box_text(self, numbers: Sequence[str]) -> str:
        """`{"bbox_2d": [1, 2, 3, 4]}`."""
        return f'{{"{self.key}": [{", ".join(numbers)}]}}'

    def compose(self, parts: Sequence[Written]) -> str:
        """One fenced list, an object per mention. Words may stand before the first and behind the last object
        only.
        """
        mentions = [k for k, part in enumerate(parts) if not isinstance(part, str)]
        if not mentions:
            return "".join(p for p in parts if isinstance(p, str))
        first, last = mentions[0], mentions[-1]
        objects = []
        for part in parts[first : last + 1]:
            if not isinstance(part, str):
                objects.append(self._compose_object(*part))
            elif not _JOINT.match(part):
                raise DialectError(
                    f"found the words {part!r} between boxes, expected none: a JSON list holds labels only"
                )
        before = "".join(p for p in parts[:first] if isinstance(p, str))
        after = "".join(p for p in parts[last + 1 :] if isinstance(p, str))
        body = "```json\n[\n" + ",\n".join(f"\t{o}" for o in objects) + "\n]\n```"
        return (
            before
            + ("\n" if before and not before.endswith("\n") else "")
            + body
            + ("\n" if after and not after.startswith("\n") else "")
            + after
        )

    def _compose_object(self, phrase: str | None, boxes: Sequence[Sequence[str]]) -> str:
        if len(boxes) != 1:
            raise DialectError(
                f"found {len(boxes)} boxes under one label, expected 1: repeat the object instead"
            )
        label = f', "label": {json.dumps(phrase, ensure_ascii=False)}' if phrase is not None else ""
        return f'{{"{self.key}": [{", ".join(boxes[0])}]{label}}}'


def _list_start(text: str, floor: int, start: int) -> int:
    """Where the list, its wrapping object and its fence begin that lead to the object at `start`."""
    head = text[floor:start].rstrip()
    if head.endswith("["):
        head = head[:-1].rstrip()
    wrapper = head.rfind("{")
    if wrapper >= 0 and _WRAPPER.fullmatch(head, wrapper):
        head = head[:wrapper].rstrip()
    fence = head.rfind("```")
    if fence >= 0 and (head[fence + 3 :].isalpha() or not head[fence + 3 :]):
        head = head[:fence]
    return floor + len(head)


def _unquote(literal: str) -> str:
    """The value of a string literal in either quote; what is no valid escape stays as it is."""
    body = literal[1:-1]
    if "\\" not in body:
        return body
    try:
        value = json.loads(
            '"' + (body.replace('"', '\\"').replace("\\'", "'") if literal[0] == "'" else body) + '"'
        )
    except json.JSONDecodeError:
        return body
    return str(value)
