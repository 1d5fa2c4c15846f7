"""JSON notations: `[{"bbox_2d": [x1, y1, x2, y2], "label": "x"}]`, fenced or not, in a list, alone, or one
per line, with prose around.

Objects and lists are found wherever they stand (`spr.dialects.json_text`) and edited in place: extra keys,
their order, fences and blanks stay. What is removed leaves JSON. A box stands under the notation's own key;
under any other one it is reported and not read, since nobody says what its numbers mean.
"""

from __future__ import annotations

import functools
import itertools
import json
import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from spr.dialects.brackets import LONGEST, NUMBER, N, guess_phrase, is_note
from spr.dialects.json_text import CONTAINERS, Member, Node, read_json, read_lines
from spr.dialects.layout import (
    Container,
    Cut,
    Item,
    Layout,
    RawBox,
    RawMention,
    RawPoint,
    Written,
    blanked,
    with_blank,
)
from spr.errors import DialectError
from spr.types import ProblemKind, Span

JSON_MARK = "{}"  # among a grammar's marks: it reads objects
BOX_SIDES = ("x_min", "y_min", "x_max", "y_max")
POINT_SIDES = ("x", "y")
_FOUR = re.compile(rf"(?<=[\[(])\s*{N}(?:\s*,\s*{N}){{3}}\s*(?=[\])])")
_FOUR_SIDES = re.compile(r",\s*".join(rf"\"{side}\"\s*:\s*{N}" for side in BOX_SIDES))
_LINE = re.compile(
    rf"^[ \t]*({N}(?:[ \t]*,[ \t]*{N}){{3}})(?:[ \t,]+(?!-?[0-9.]+[ \t]*,)([^\n\[\]]*))?$", re.MULTILINE
)
_BEFORE = re.compile(r"(?:\bjson\s*|(?:\A|\n)[ \t]*[-*][ \t]+)\Z", re.IGNORECASE)  # left of a fence, a dash
_AFTER = re.compile(r"(?:\s*+[,\]}])*+")  # brackets and commas too many
_JOINT = re.compile(r"[\s,;.]*+(?:and)?[\s,;.]*+\Z")
_NEAR = 80  # characters around a value that show whether it has its lines for itself
_NOTHING = frozenset(("none", "null", ""))
# keys that name a thing, the best first; keys are compared without case and signs
LABELS = (
    "label", "textcontent", "name", "class", "classname", "category", "categoryname", "object", "objectname",
    "text", "caption", "phrase", "description", "labels",
)  # fmt: skip
_RANK = {name: rank for rank, name in enumerate(LABELS)}
# keys that say where something is, in whichever notation
WHERE = re.compile(
    r"box|bound|coord|rect|region|posi|locat|point|poly|mask|quad|segment|contour|corner|keypoint|xyxy|xywh|"
    r"roi\b|pixel|cent(?:er|re)\b"
)
_SIDE = re.compile(r"[xy](?:min|max|[0-9]|center|centre)?|(?:min|max|c)[xy]|left|top|right|bottom")
# keys around answers: no names of things
_WRAPPERS = re.compile(
    r"(?:answer|result|output|prediction|argument|data|response|object|target|detection|item|annotation|"
    r"instance|entit(?:y|ie)|part|children|child|found|image|scene)s?"
)


class _Where(NamedTuple):
    """Where a value stands, and the key that leads to it."""

    whole: Cut | None = None  # what goes with it
    lone: Cut | None = None  # what goes when nothing is left of it; None = its brackets stay
    name: str | None = None
    in_object: bool = False
    owned: bool = False  # inside an object that has a box


@dataclass(slots=True)
class _Thing:
    """What some members of an object say together: a key given twice begins the next one."""

    label: Member | None = None
    box: Member | None = None
    point: Member | None = None
    label_index: int = 0
    box_index: int = 0
    point_index: int = 0
    others: list[tuple[int, Member]] = field(default_factory=list)

    def indices(self) -> list[int]:
        """Where its members stand in the object."""
        named = (self.box, self.box_index), (self.point, self.point_index), (self.label, self.label_index)
        return [index for member, index in named if member is not None]

    @property
    def has_place(self) -> bool:
        """Whether it has a box or a point."""
        return self.box is not None or self.point is not None


@dataclass(frozen=True)
class JsonGrammar:
    """`key` holds the box, `point` a point; "" reads none. `sides`: the numbers have keys of their own,
    `x_min` and so on, `x` and `y` (Moondream). Without any it is for JSON in the answer of a family that does
    not write it.
    """

    key: str
    point: str = ""
    sides: bool = False
    digits: int = 0

    @cached_property
    def marks(self) -> frozenset[str]:
        """Objects, and bare lists where numbers stand in lists."""
        return frozenset((JSON_MARK,) if self.sides else (JSON_MARK, "["))

    @property
    def token_pattern(self) -> re.Pattern[str]:
        """The four numbers in their list, or the members with the four sides."""
        return _FOUR_SIDES if self.sides else _FOUR

    def scan(self, text: str) -> Layout:
        """All objects with a box or a point, bare lists of four numbers, and lines `x1,y1,x2,y2 label`, in
        order.
        """
        if self.sides:
            return self.objects(text)[0]
        scan, roots = self._read(text)
        scan.run(scan.with_lines(roots), lists=True)
        scan.lines()
        scan.layout.mentions.sort(key=lambda m: m.span)
        return scan.layout

    def objects(self, text: str) -> tuple[Layout, list[Span]]:
        """What objects say, wherever they stand, and where the outermost values around them do."""
        scan, roots = self._read(text)
        scan.run([root for root in roots if root.holds_objects])
        scan.layout.mentions.sort(key=lambda m: m.span)
        return scan.layout, scan.roots

    def _read(self, text: str) -> tuple[_Scan, list[Node]]:
        scan = _Scan(self, text)
        roots, steps = read_json(text)
        scan.layout.steps += steps
        return scan, roots

    def box_text(self, numbers: Sequence[str]) -> str:
        """`{"bbox_2d": [1, 2, 3, 4]}`, or a point."""
        return f"{{{self._members(numbers)}}}"

    def _members(self, numbers: Sequence[str]) -> str:
        if self.sides:
            names = BOX_SIDES if len(numbers) == 4 else POINT_SIDES
            return ", ".join(f'"{side}": {number}' for side, number in zip(names, numbers, strict=True))
        return f'"{self.key if len(numbers) == 4 else self.point}": [{", ".join(numbers)}]'

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
        if phrase is not None and self.sides:
            raise DialectError(
                f"found the phrase {phrase!r}, expected none: this notation has no place for a label"
            )
        if phrase is not None and phrase.strip().lower() in _NOTHING:
            raise DialectError(
                f"found the phrase {phrase!r}, expected a name: this one says that there is none"
            )
        label = f', "label": {json.dumps(phrase, ensure_ascii=False)}' if phrase is not None else ""
        return f"{{{self._members(boxes[0])}{label}}}"


class _Scan:
    """One reading of a text."""

    def __init__(self, grammar: JsonGrammar, text: str) -> None:
        self._key, self._point, self._sides = _bare(grammar.key), _bare(grammar.point), grammar.sides
        self._own = {key for key in (self._key, self._point) if key}
        self._text = text
        self.layout = Layout()
        self.roots: list[Span] = []  # of what says something
        self._labels: list[tuple[int, str]] = []  # where they stand, for the plain text
        self._alone = False  # nothing but JSON stands here
        self._single = False  # and no more than one value
        self._labelled_lists = set[int]()  # where lists begin whose label stands beside them

    def run(self, roots: Sequence[Node], lists: bool = False) -> None:
        """Read the outermost values."""
        spans = [(root.start, root.end) for root in roots]
        self._alone = bool(spans) and not blanked(self._text, spans).strip(" \t\r\n,;]}-*")
        self._single = len(roots) == 1
        for root in roots:
            said = self._said()
            if root.holds_objects:
                self._walk(root)
            else:
                self._lists(root)
            if self._said() != said or (lists and self._alone):
                inside = bool(self.roots) and root.start < self.roots[-1][1]  # of keys without braces
                start, end = self.roots.pop() if inside else (root.start, root.end)
                self.roots.append((start, max(end, root.end)))
        self._plain()

    def with_lines(self, roots: Sequence[Node]) -> Sequence[Node]:
        """The outermost values, with objects that are written a key a line in the place of their lists, or of
        the lists around them.
        """
        lists = [root for root in roots if not root.holds_objects]
        if not lists or ":" not in self._text:
            return roots
        objects = [root for root in roots if root.holds_objects]
        found, steps = read_lines(blanked(self._text, [(root.start, root.end) for root in objects]))
        self.layout.steps += steps
        objects += [
            node
            for node in found
            if any(_bare(member.key) in self._own or self._is_place(member) for member in node.members)
        ]
        objects.sort(key=lambda node: node.start)
        starts, apart = [node.start for node in objects], list[Node]()
        reach = list(itertools.accumulate((node.end for node in objects), max, initial=0))
        while lists:
            node = lists.pop()
            k = bisect_right(starts, node.start)
            if reach[k] > node.start:  # part of an object
                continue
            if k == len(starts) or starts[k] >= node.end:
                apart.append(node)
            else:  # around one
                lists += [item for item in node.items if item.kind == "array"]
        return sorted(objects + apart, key=lambda node: node.start)

    def _has_own_lines(self, root: Node) -> bool:
        """Whether nothing else stands in the lines of a root. Its brackets stay then: it is no part of a
        sentence.
        """
        before = self._text[max(0, root.start - _NEAR) : root.start].rpartition("\n")[2]
        after = self._text[root.end : root.end + _NEAR].partition("\n")[0]
        return not (before + after).strip(" \t\r,;]}-*\"'")

    def _said(self) -> tuple[int, int, int]:
        """How much was found so far. In a family without JSON, labels alone are prose."""
        labels = len(self._labels) if self._key or self._sides else 0
        return labels, len(self.layout.problems), len(self.layout.mentions)

    # --- objects ----------------------------------------------------------------------------------

    def _walk(self, root: Node) -> None:
        """Everything in a root, in order."""
        span = with_blank(self._text, root.start, root.end)
        alone = self._has_own_lines(root)
        stack = [(root, _Where(None if alone and self._single else span, None if alone else span))]
        lost: Node | None = None
        while stack:
            node, where = stack.pop()
            owned = where.owned
            self.layout.steps += 1 + len(node.items) + len(node.members)
            if node.kind == "object" and node.cut:  # lost, with what it says itself
                lost = node if lost is None or not _says(lost) else lost
            elif node.kind == "object":
                owned = self._object(node, where) or owned
            elif node.kind == "array" and not where.in_object and (box := self._list(node, where)):
                self._bare_box(box, where)
            if node.items or node.nests:
                stack += reversed(list(_inside(node, where, owned)))
        if lost is not None:
            self.layout.problem("truncated", lost.start, len(self._text))

    def _object(self, node: Node, where: _Where) -> bool:
        """One object, as one mention or several; whether it has a box."""
        things = self._things(node)
        row = tuple(member.span for member in node.members)
        named = where.name if len(things) == 1 else None
        owned = any(thing.has_place for thing in things)
        lone = where.lone if len(row) == 1 else None
        for thing in things:
            label = (
                _words(thing.label.value) if thing.label else named if thing.has_place or not row else None
            )
            at = thing.label.start if thing.label else node.start
            if label:
                self._labels.append((at, label))
            if self._sides and not where.owned and self._in_sides(node, thing, label, row, where):
                owned = True
                continue
            self.layout.unboxed += [(at, label)] if label and not thing.has_place else []
            if thing.has_place:
                clause: tuple[Cut, ...] = tuple(Item(row, k) for k in thing.indices())
                if where.whole and len(things) == 1 and not node.nests:
                    clause = (where.whole,)
                cut = lone or Item(row, thing.box_index)
                self._place(thing.box, thing.point, label, (node.start, node.end), cut, clause)
            elif not owned and not where.owned:
                self._elsewhere(node, thing, row)
        if len(things) > 1 and not all(thing.label and thing.has_place for thing in things):
            self.layout.problem("tag_mismatch", node.start, node.end)
        if owned and (node.loose or not node.closed):
            self.layout.problem("tag_mismatch", node.start, node.end)
        return owned

    def _things(self, node: Node) -> list[_Thing]:
        things, keys = [_Thing()], set[str]()
        for k, member in enumerate(node.members):
            key = _bare(member.key)
            is_box = key == self._key and key != ""
            is_point = key == self._point and key != ""
            rank = _RANK[key] if key in _RANK and _words(member.value) else None
            if key in keys and (is_box or is_point or rank is not None):
                things.append(_Thing())
                keys = set()
            keys.add(key)
            thing = things[-1]
            if is_box:
                thing.box, thing.box_index = member, k
            elif is_point:
                thing.point, thing.point_index = member, k
            elif rank is not None and (thing.label is None or rank < _RANK[_bare(thing.label.key)]):
                thing.label, thing.label_index = member, k
            else:
                thing.others.append((k, member))
        return things

    def _place(
        self,
        box: Member | None,
        point: Member | None,
        label: str | None,
        span: Span,
        cut: Cut,
        clause: tuple[Cut, ...],
    ) -> None:
        """What the values of the box key and of the point key say: a mention, or why there is none."""
        groups = self._groups(box) if box else []
        points = self._points(point) if point else []
        if groups or points:
            containers = (Container(cut, tuple(groups)),) if groups else ()
            self.layout.mentions.append(RawMention(label, containers, span, None, clause, tuple(points)))
        elif all(_is_nothing(member.value) for member in (box, point) if member):
            self.layout.mentions.append(RawMention(label, (), span))

    def _groups(self, member: Member) -> list[RawBox]:
        """The value of the box key: four numbers, or several times four in a list, which is a problem."""
        value, layout = member.value, self.layout
        groups: list[RawBox] = []
        if value.kind == "array" and not _is_empty(value) and not value.holds_objects:
            nested = _has(value, "array")
            if nested:
                layout.problem("nested_tag", value.start, value.items[0].start)
            for array in value.walk() if nested else (value,):
                if array.kind == "array":
                    self._group(array, groups)
        elif value.kind == "string" and (quoted := self._quoted(value)):
            groups.append(RawBox(quoted, (value.start, value.end)))
        else:
            self._no_place(member)
        return groups

    def _points(self, member: Member) -> list[RawPoint]:
        """The value of the point key: two numbers, or several times two in a list."""
        value, points = member.value, list[RawPoint]()
        if value.kind == "array" and not _is_empty(value) and not value.holds_objects:
            for array in [i for i in value.walk() if i.kind == "array" and not _has(i, "array")]:
                numbers = _numbers(array)
                if array.loose or not array.closed:
                    self.layout.problem("tag_mismatch", array.start, array.end)
                if numbers is not None and len(numbers) == 2:
                    points.append((numbers[0], numbers[1]))
                else:
                    kind: ProblemKind = "not_a_number" if numbers is None else "wrong_arity"
                    self.layout.problem(kind, array.start, array.end)
        elif value.kind == "string" and (quoted := self._quoted(value, 2)):
            points.append((quoted[0], quoted[1]))
        else:
            self._no_place(member)
        return points

    def _no_place(self, member: Member) -> None:
        """The value of a key for places that holds none."""
        value = member.value
        if _is_nothing(value):
            self.layout.problem("absent_marker", value.start, value.end)
        elif value.end == value.start:
            self.layout.problem("not_a_number", member.start, value.end)
        else:
            self.layout.problem("non_box_payload", value.start, value.end)

    def _in_sides(
        self, node: Node, thing: _Thing, label: str | None, row: tuple[Span, ...], where: _Where
    ) -> bool:
        """A box or a point whose numbers have keys of their own, or a list of them that is empty."""
        span = (node.start, node.end)
        found: dict[str, list[tuple[int, Node]]] = {}
        for k, member in thing.others:
            found.setdefault(_bare(member.key), []).append((k, member.value))
            if _bare(member.key) in ("objects", "points") and _is_nothing(member.value):
                self.layout.problem("absent_marker", member.value.start, member.value.end)
                self.layout.mentions.append(RawMention(label, (), span))
        for sides in (BOX_SIDES, POINT_SIDES):
            members = [found.get(_bare(side), []) for side in sides]
            if not all(len(given) == 1 and _is_number(given[0][1]) for given in members):
                continue
            places, values = zip(*(given[0] for given in members), strict=True)
            numbers = tuple((v.start + (quote := v.kind == "string"), v.end - quote) for v in values)
            if sides is POINT_SIDES:
                point = (numbers[0], numbers[1])
                self.layout.mentions.append(RawMention(label, (), span, None, (), (point,)))
                return True
            first, *more = [Item(row, k) for k in places]
            lone = where.lone if len(row) == 4 else None
            clause: tuple[Cut, ...] = (where.whole,) if where.whole and not node.nests else (first, *more)
            container = Container(lone or first, (RawBox(numbers, span),), () if lone else tuple(more))
            self.layout.mentions.append(RawMention(label, (container,), span, None, clause))
            return True
        return False

    def _group(self, array: Node, groups: list[RawBox]) -> None:
        """One list in the value of the box key."""
        numbers, span = _numbers(array), (array.start, array.end)
        if array.loose or not array.closed:
            self.layout.problem("tag_mismatch", *span)
        if numbers is not None and len(numbers) == 4:
            groups.append(RawBox(numbers, span))
        elif numbers is not None:
            self._not_four(array, len(numbers))
        elif any(item.kind != "array" for item in array.items):
            self.layout.problem("not_a_number", *span)

    def _not_four(self, array: Node, n: int) -> None:
        self.layout.problem("non_box_payload" if n == 2 else "wrong_arity", array.start, array.end)

    def _elsewhere(self, node: Node, thing: _Thing, row: tuple[Span, ...]) -> None:
        """Places in an object without a box: lists under the names of things are read, others are not."""
        layout = self.layout
        places, lists = [], []
        for k, member in thing.others:
            is_list = _is_list(member.value)
            if self._is_place(member) or (
                is_list and not _is_empty(member.value) and _is_wrapper(member.key)
            ):
                places.append(member)
            elif is_list and not _is_wrapper(member.key):
                lists.append((k, member))
        named = not (places or thing.label)
        for k, member in lists:
            name, value = _spoken(member.key), member.value
            if named:
                self._labels.append((member.start, name))
            if named and self._key:
                inside = (value.start + 1, value.end - 1) if value.closed else member.span
                self._place(member, None, name, member.span, inside, (Item(row, k),))
                if not _is_empty(value):
                    layout.problem("foreign_key", *member.span)
            elif not _is_empty(value):
                places.append(member)
        for member in places:
            layout.problem("non_box_payload", *member.span)
        sides = [
            m for _, m in thing.others if _SIDE.fullmatch(_bare(m.key)) and NUMBER.fullmatch(m.value.text)
        ]
        if len(sides) > 1:
            layout.problem("non_box_payload", node.start, node.end)

    def _is_place(self, member: Member) -> bool:
        """Whether a key that says where holds numbers, or any key more numbers than a box has."""
        value, key = member.value, _bare(member.key)
        if any(inner.value.holds_objects or _bare(inner.key) in self._own for inner in value.members):
            return False
        if value.kind == "array" and value.holds_objects:
            return False
        if len(_numbers(value) or ()) > 4:
            return True
        if value.kind == "string" and ("mask" in key or "segment" in key):
            return bool(value.text)
        numbers = NUMBER.finditer(self._text, value.start, value.end)
        return bool(WHERE.search(key)) and any(True for _ in numbers) and any(True for _ in numbers)

    def _quoted(self, value: Node, arity: int = 4) -> tuple[Span, ...] | None:
        """So many numbers in a string, and nothing else."""
        inside = value.start + 1, value.end - 1
        spans = tuple(m.span() for m in NUMBER.finditer(self._text, *inside))
        rest = blanked(self._text[slice(*inside)], [(s - inside[0], e - inside[0]) for s, e in spans])
        fits = len(spans) == arity and not rest.strip(" \n,;[]()") and all(e - s <= LONGEST for s, e in spans)
        return spans if fits else None

    # --- lists ------------------------------------------------------------------------------------

    def _labelled(self, node: Node, where: _Where) -> Node | None:
        """`[1, 2, 3, 4, "label"]`, or a label with its list: read, and reported. The list, if it is one."""
        words = [item for item in node.items if item.kind == "string" and item.text.strip()]
        rest = [item for item in node.items if item.kind != "string"]
        if len(words) != 1 or len(words) + len(rest) < len(node.items):
            return None
        box = rest[0] if len(rest) == 1 and rest[0].kind == "array" else Node("array", 0, items=rest)
        numbers = _numbers(box)
        if numbers is None or len(numbers) not in (0, 4):
            return None
        label, span = words[0].text.strip(), (node.start, node.end)
        self._labels.append((words[0].start, label))
        if not numbers:
            self.layout.unboxed.append((words[0].start, label))
        elif not self._key:
            self.layout.problem("non_box_payload", *span)
        else:
            self.layout.problem("foreign_key", *span)
            group = (numbers[0][0], numbers[-1][1]) if box.start == box.end else (box.start, box.end)
            before = words[0].start < group[0]
            cut = (words[0].end, group[1]) if before else (group[0], words[0].start)
            container = Container(cut, (RawBox(numbers, group),))
            clause = (where.whole,) if where.whole else ()
            self.layout.mentions.append(RawMention(label, (container,), span, None, clause))
        return box

    def _lists(self, root: Node) -> None:
        """A root without objects: lists of four numbers are one mention, under the words before them."""
        found, cut, before = list[tuple[RawBox, _Where]](), False, len(self.layout.mentions)
        stack = [(root, _Where())]
        while stack:
            node, where = stack.pop()
            stack += reversed(list(_inside(node, where, False)))
            cut = cut or (node.cut and len(_numbers(node) or ()) > 1)
            if box := self._list(node, where):
                found.append((box, where))
        if found and len(self.layout.mentions) == before:
            last = self.roots[-1][1] if self.roots else 0
            phrase, begin = guess_phrase(self._text, last, root.start, self.layout)
            inside = (root.start + 1, root.end - (1 if root.closed else 0))
            own = self._has_own_lines(root)
            whole = inside if own else with_blank(self._text, root.start, root.end)
            clause = (whole,) if own else ()
            container = Container(whole, tuple(box for box, _ in found))
            span = (min(begin, root.start), root.end)
            self.layout.mentions.append(RawMention(phrase, (container,), span, None, clause))
        else:  # beside lists with labels
            for box, where in found:
                self._bare_box(box, where)
        if cut:
            self.layout.problem("truncated", found[-1][0].group[1] if found else root.start, root.end)

    def _list(self, node: Node, where: _Where) -> RawBox | None:
        """The box of a list outside of objects; with its label it is a mention already."""
        labelled, numbers = self._labelled(node, where), _numbers(node) or ()
        if labelled:
            self._labelled_lists.add(labelled.start)
        elif node.cut or node.start in self._labelled_lists:
            pass
        elif len(numbers) == 4:
            if node.loose or not node.closed:
                self.layout.problem("tag_mismatch", node.start, node.end)
            return RawBox(numbers, (node.start, node.end))
        elif len(numbers) > 1 and not is_note(self._text, numbers):
            self._not_four(node, len(numbers))
        return None

    def _bare_box(self, box: RawBox, where: _Where) -> None:
        cut = where.lone or box.group
        if not self._key:
            self.layout.problem("non_box_payload", *box.group)
            return
        self.layout.mentions.append(RawMention(None, (Container(cut, (box,)),), box.group, None, (cut,)))

    def lines(self) -> None:
        """Lines `x1,y1,x2,y2 label`."""
        layout = self.layout
        if self._alone:
            return
        layout.steps += 2 * len(self._text)
        for line in _LINE.finditer(blanked(self._text, self.roots)):
            numbers = tuple(m.span() for m in NUMBER.finditer(self._text, *line.span(1)))
            if any(end - start > LONGEST for start, end in numbers):
                continue
            label = (line.group(2) or "").strip() or None
            cut = (line.start(1), line.start(2)) if label else line.span(1)
            container = Container(cut, (RawBox(numbers, line.span(1)),))
            layout.mentions.append(RawMention(label, (container,), (line.start(1), line.end())))
            layout.markup.append(line.span(1))

    # --- plain ------------------------------------------------------------------------------------

    def _plain(self) -> None:
        """For the plain text: roots become what they name, as a sentence. Prose between two roots stays."""
        text, labels, at = self._text, sorted(self._labels), 0
        runs: list[list[Span]] = []
        for root in self.roots:
            if runs and not text[runs[-1][-1][1] : root[0]].strip(" \t\r\n,;[]{}()-*"):
                runs[-1].append(root)
            else:
                runs.append([root])
        for run in runs:
            start, end = run[0][0], run[-1][1]
            after = _AFTER.match(text, end)
            end = after.end() if after else end
            if word := _BEFORE.search(text[max(0, start - 16) : start]):
                start -= len(word.group())
            quote = text[start - 1 : start]
            if quote in ("'", '"') and text[end : end + 1] == quote:  # JSON in a string
                start, end = start - 1, end + 1
            words = []
            while at < len(labels) and labels[at][0] < end:
                words += [labels[at][1]] if labels[at][0] >= start else []
                at += 1
            joined = (", ".join(words[:-1]) + " and " if len(words) > 1 else "") + (
                words[-1].rstrip(".") + "." if words else ""
            )
            self.layout.replaced.append(((start, end), f" {joined} "))
            self.layout.steps += end - start


def _inside(node: Node, where: _Where, owned: bool) -> Iterator[tuple[Node, _Where]]:
    """The values in a value, each with its place."""
    if node.kind == "object":
        inner = [k for k, member in enumerate(node.members) if member.value.holds_objects]
        row = tuple(member.span for member in node.members) if inner else ()
        for k in inner:
            key = node.members[k].key
            name = None if _is_wrapper(key) else _spoken(key)
            yield node.members[k].value, _Where(Item(row, k), None, name, True, owned)
        yield from (
            (item, _Where(in_object=True, owned=owned)) for item in node.items if item.kind in CONTAINERS
        )
    else:
        row = tuple((item.start, item.end) for item in node.items)
        for k, item in enumerate(node.items):
            if item.kind in CONTAINERS:
                yield item, _Where(Item(row, k), Item(row, k), where.name, where.in_object, owned)


@functools.lru_cache(4096)
def _bare(key: str) -> str:
    """A key without case and signs: `bbox\\_2d` and `BBOX_2D` are `bbox2d`."""
    return re.sub(r"[\W_]+", "", key).casefold()


def _spoken(key: str) -> str:
    """A key as the name of a thing."""
    return key.replace("\\", "").strip()


def _is_wrapper(key: str) -> bool:
    bare = _bare(key)
    return not bare or bare in LABELS or bool(_WRAPPERS.fullmatch(bare) or WHERE.search(bare))


def _is_nothing(value: Node) -> bool:
    """Whether a value says that there is none: an empty list, null, None, an empty string."""
    text = value.text.strip().lower()
    return _is_empty(value) and value.end > value.start and value.kind != "object" and text in _NOTHING


def _words(value: Node) -> str:
    """A label: a string, a number, or a list of them."""
    if value.kind == "array":
        return ", ".join(filter(None, (_words(item) for item in value.items if item.kind == "string")))
    text = value.text.strip()
    return "" if value.kind == "object" or text.lower() in _NOTHING else text


def _has(node: Node, kind: str) -> bool:
    return any(item.kind == kind for item in node.items)


def _says(node: Node) -> bool:
    """Whether an object holds more than other objects."""
    return any(not member.value.holds_objects for member in node.members)


def _numbers(node: Node) -> tuple[Span, ...] | None:
    """Where the numbers of a list stand; None when it holds anything else."""
    if node.numbers:
        return node.numbers
    if node.kind != "array" or not all(_is_number(item) for item in node.items):
        return None
    quotes = [int(item.kind == "string") for item in node.items]
    return tuple((item.start + k, item.end - k) for item, k in zip(node.items, quotes, strict=True))


def _is_list(value: Node) -> bool:
    """Whether a value is four numbers, several times four, or nothing, in a list."""
    arrays = value.items if _has(value, "array") else [value]
    return value.kind == "array" and (
        _is_empty(value) or all(len(_numbers(array) or ()) == 4 for array in arrays)
    )


def _is_empty(value: Node) -> bool:
    return not (value.items or value.numbers)


def _is_number(item: Node) -> bool:
    quotes = 2 * (item.kind == "string")
    fits = len(item.text) <= LONGEST and item.end - item.start == len(item.text) + quotes
    return not item.items and fits and NUMBER.fullmatch(item.text) is not None
