"""JSON as models write it: whatever an answer looks like, no box and no label is lost, none is invented, what
is not read is reported, and an edit leaves JSON.

Answers are made from what they say (things with a label and a box) in a random form, then damaged as models
damage it. What must be read is known from the making.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spr.dialects import Dialect, Frame, convert, get_dialect, json_text, known_names
from spr.dialects.brackets import NUMBER
from spr.dialects.json_text import Node
from spr.errors import DialectError
from spr.pairing import refine
from spr.stages.scoring import _why_unscored
from spr.types import GroundedText
from tests.support.answers import is_json

FRAME = Frame(1000, 1000)
KEYS = {"qwen3_vl": "bbox_2d", "qwen2_5_vl": "bbox_2d", "gemini": "box_2d", "glm4v": "bbox_2d"}
LABELS = ["a red kettle", "dog", "the man's hat", "7", "Straße 漢字", "a cup, half full", "one: two", "EXIT"]
LABEL_KEYS = ["label", "name", "category", "object", "text", "caption", "text_content", "class_name"]
# beside a box, and no part of the answer
EXTRAS: list[tuple[str, Any]] = [
    ("score", 0.5),
    ("id", 3),
    ("seen", True),
    ("note", None),
    ("tags", ["x", "y"]),
    ("mask", [[325, 411], [327, 471], [330, 470]]),
    ("point_2d", [[310, 220], [330, 410]]),
    ("attributes", {"colour": {"main": "blue"}, "sides": ["lid", ["hinge", "pin"]]}),
    ("segmentation", {"size": [420, 560], "runs": {"rows": [[12, 3], [40, 7]]}}),
]


@dataclass(frozen=True)
class Thing:
    """One object of an answer: what it says, and how."""

    label: str | None
    box: tuple[int, int, int, int]
    label_key: str
    extras: tuple[tuple[str, Any], ...]
    order: tuple[int, ...]  # of its keys
    parts: tuple[Thing, ...] = ()  # objects in it, with boxes of their own
    listed: bool = True  # the parts stand in a list, or under a key each

    def members(self, key: str) -> dict[str, Any]:
        """Keys and values in the order of the answer."""
        found: list[tuple[str, Any]] = [(key, list(self.box)), *self.extras]
        found += [] if self.label is None else [(self.label_key, self.label)]
        if self.listed and self.parts:
            found.append(("parts", [part.members(key) for part in self.parts]))
        elif self.parts:
            found += [("part", part.members(key)) for part in self.parts]
        return dict(found[k] for k in sorted(range(len(found)), key=lambda k: self.order[k]))


side = st.integers(0, 400)
boxes = st.builds(lambda x, y, w, h: (x, y, x + w + 20, y + h + 20), side, side, side, side)


def _things(depth: int, labels: Sequence[str | None] = (*LABELS, None)) -> st.SearchStrategy[Thing]:
    parts = st.lists(_things(depth - 1), max_size=1).map(tuple) if depth else st.just(())
    extras = st.lists(st.sampled_from(EXTRAS), max_size=3, unique_by=lambda e: e[0]).map(tuple)
    order = st.permutations(range(7)).map(tuple)
    keys, listed = st.sampled_from(LABEL_KEYS), st.booleans()
    return st.builds(Thing, st.sampled_from(labels), boxes, keys, extras, order, parts, listed)


# --- how it is written ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Style:
    """One way to write JSON that a model may take."""

    quotes: tuple[str, str] = ('"', '"')
    key: Callable[[str], str] = str  # of the box
    brackets: tuple[str, str] = ("[", "]")  # of the box
    comma: str = ", "  # between members
    blank: str = " "  # inside a string

    def of(self, value: Any, key: str) -> str:
        """The text of a value."""
        if isinstance(value, dict):
            return "{" + self.comma.join(self.member(k, v, key) for k, v in value.items()) + "}"
        if isinstance(value, list):
            return "[" + ", ".join(self.of(v, key) for v in value) + "]"
        if not isinstance(value, str):
            return json.dumps(value)
        left, right = self.quotes if self.quotes[0] else ('"', '"')
        inner = value if left == "“" else value.replace(left, "\\" + left)
        return left + inner.replace(" ", self.blank) + right

    def member(self, name: str, value: Any, key: str) -> str:
        """A key with its value."""
        left, right = self.quotes
        if name != key:
            return f"{left}{name}{right}: {self.of(value, key)}"
        opening, closing = self.brackets
        return f"{left}{self.key(name)}{right}: {opening}{', '.join(map(str, value))}{closing}"


STYLES = {
    "JSON": Style(),
    "Python's quotes": Style(quotes=("'", "'")),
    "curly quotes": Style(quotes=("“", "”")),
    "no quotes around keys": Style(quotes=("", "")),
    "an escaped key": Style(key=lambda name: name.replace("_", "\\_")),
    "a key in capitals": Style(key=str.upper),
    "a tuple": Style(brackets=("(", ")")),
    "line ends in strings": Style(blank="\n"),
    "no blanks": Style(comma=","),
    "a key a line": Style(comma=",\n  "),
    "semicolons": Style(comma="; "),
    "no comma between keys": Style(comma=" "),
}
FORMS: Mapping[str, Callable[[list[str]], str]] = {
    "a list": lambda objects: "[" + ", ".join(objects) + "]",
    "a fence": lambda objects: "```json\n[\n\t" + ",\n\t".join(objects) + "\n]\n```",
    "the fence's word on its own line": lambda objects: "```\njson\n[" + ", ".join(objects) + "]\n```",
    "an object a line": "\n".join,
    "an object around": lambda objects: '{"objects": [' + ", ".join(objects) + '], "count": 2}',
    "words around": lambda objects: "Here you are:\n[" + ", ".join(objects) + "]\nIs that all?",
    "a turn of the chat": lambda objects: "<|im_start|>assistant\n[" + ", ".join(objects) + "]<|im_end|>",
    "a thought before": lambda objects: "<thinking>Perhaps.</thinking>[" + ", ".join(objects) + "]",
    "a tool before": lambda objects: '<tool_call>{"name": "zoom"}</tool_call>[' + ", ".join(objects) + "]",
    "in a string": lambda objects: json.dumps("[" + ", ".join(objects) + "]", ensure_ascii=False),
}
# slips in the whole text; what is read does not change
SLIPS: Mapping[str, Callable[[str], str]] = {
    "none": str,
    "no comma between objects": lambda text: re.sub(r"\}(\s*),(\s*)(?=\{)", r"}\1\2", text),
    "two commas": lambda text: text.replace("}, {", "},, {"),
    "a comma at the end": lambda text: re.sub(r"\}(\s*)\]", r"},\1]", text),
    "a bracket too many": lambda text: re.sub(r"\](\s*`*)$", r"]]\1", text),
    "a bracket for the last brace": lambda text: re.sub(r"\}(\s*)\](\s*`*)$", r"]\1]\2", text),
    "no last bracket": lambda text: re.sub(r"\](\s*`*)$", r"\1", text),
    "no brace between objects": lambda text: re.sub(r"\}(\s*),(\s*)(?=\{)", r"\1,\2", text),
    "a bracket too many behind the box": lambda text: re.sub(r"([0-9]\])(, \S\w+\S: )", r"\1]\2", text),
}


def said(things: Sequence[Thing]) -> list[tuple[str | None, tuple[int, ...]]]:
    """What must be read, in order."""
    return [m for t in things for m in [(t.label, t.box), *said(t.parts)]]


def read(d: Dialect, g: GroundedText) -> list[tuple[str | None, tuple[int, ...]]]:
    """What was read, with the numbers as they are written."""
    found: list[tuple[str | None, tuple[int, ...]]] = []
    for m in d.layout(g.text).mentions:
        phrase = " ".join(m.phrase.split()) if m.phrase else None
        found += [(phrase, tuple(int(g.text[s:e]) for s, e in box.numbers)) for box in m.boxes]
    return found


@settings(max_examples=400)
@given(data=st.data())
def test_nothing_is_lost_and_an_edit_leaves_json(data: st.DataObject) -> None:
    """In any form, with any slip: boxes with their labels, in order; without any of them the others, and JSON
    where it was JSON; and words without a trace of JSON for CLIP.
    """
    name = data.draw(st.sampled_from(sorted(KEYS)))
    things = data.draw(st.lists(_things(1), min_size=1, max_size=3))
    style, form, slip = (data.draw(st.sampled_from(sorted(of))) for of in (STYLES, FORMS, SLIPS))
    d, key = get_dialect(name), KEYS[name]
    text = SLIPS[slip](FORMS[form]([STYLES[style].of(t.members(key), key) for t in things]))
    g, expected, whole = d.parse(text, FRAME), said(things), is_json(text)
    assert read(d, g) == expected, text
    assert all(label is None or label in g.plain for label, _ in expected), (g.plain, text)
    assert not re.search(r"[{`]|bbox|box_2d|mask|im_start|think|tool|count|objects", g.plain), g.plain
    slots = [(m, b) for m, mention in enumerate(g.mentions) for b in range(len(mention.boxes))]
    for k, slot in enumerate(slots):
        removed = d.replace_boxes(g, {slot: None}, FRAME)
        assert read(d, removed) == expected[:k] + expected[k + 1 :], (text, removed.text)
        assert not whole or is_json(removed.text), (text, removed.text)
    gone = d.replace_boxes(g, dict.fromkeys(slots), FRAME)
    assert read(d, gone) == [], (text, gone.text)
    assert not whole or is_json(gone.text), (text, gone.text)


@settings(max_examples=200)
@given(data=st.data())
def test_what_refinement_writes_is_json_with_exactly_the_refined_boxes(data: st.DataObject) -> None:
    """Chosen answers are training text: they read back as the reference boxes under their labels. Without its
    clause a thing leaves no label either.
    """
    name = data.draw(st.sampled_from(sorted(KEYS)))
    things = data.draw(st.lists(_things(1), min_size=1, max_size=3))
    style, form = (data.draw(st.sampled_from(sorted(of))) for of in (STYLES, FORMS))
    d, key = get_dialect(name), KEYS[name]
    text = FORMS[form]([STYLES[style].of(t.members(key), key) for t in things])
    g = d.parse(text, FRAME)
    found = [(m.phrase, box) for m in g.mentions for box in m.boxes]
    kept = data.draw(st.sets(st.integers(0, len(found) - 1)))
    kept = {k for k in kept if [box for _, box in found].count(found[k][1]) == 1}
    for unmatched in ("unbox", "drop_clause"):
        new = refine(g, [found[k][1] for k in sorted(kept)], d, FRAME, 0.9999, unmatched)
        again = [(m.phrase, box) for m in new.mentions for box in m.boxes]
        assert [box for _, box in again] == [pytest.approx(found[k][1]) for k in sorted(kept)], (
            text,
            new.text,
        )
        assert [phrase for phrase, _ in again] == [found[k][0] for k in sorted(kept)], (text, new.text)
        no_line_left = form == "an object a line" and not new.text.strip()
        assert not is_json(text) or is_json(new.text) or no_line_left, (text, new.text)


# keys of others: what the numbers under them mean, nobody says
FOREIGN_KEYS = [
    "bbox", "bounding_box", "boundingBox", "coordinates", "location", "position", "rect", "box", "region",
    "bbox_xyxy", "point_2d", "points", "polygon", "quad_2d", "rbox_2d", "bbox_3d", "box_3d", "segmentation",
    "keypoints", "mask", "corners",
]  # fmt: skip
SHAPES = st.one_of(
    st.lists(st.integers(0, 999), min_size=2, max_size=9).filter(lambda v: len(v) != 3),
    st.lists(st.lists(st.integers(0, 999), min_size=2, max_size=2), min_size=1, max_size=5),
    st.lists(boxes.map(list), min_size=1, max_size=2),
    st.sampled_from([{"x": 40, "y": 60, "width": 300, "height": 200}, {"x_min": 1, "y_min": 2, "x_max": 30}]),
)


@settings(max_examples=300)
@given(data=st.data())
def test_a_place_under_another_key_is_reported_and_not_read(data: st.DataObject) -> None:
    """No axis order is guessed; the label stays, for CLIP too; `convert` refuses; the answer is no text
    without boxes; and an own box beside it is read, before a removal and after it.
    """
    name = data.draw(st.sampled_from(sorted(KEYS)))
    d, key = get_dialect(name), KEYS[name]
    foreign = data.draw(st.sampled_from([*FOREIGN_KEYS, *({"bbox_2d", "box_2d"} - {key})]))
    shape = data.draw(SHAPES)
    labels = data.draw(st.permutations(LABELS))
    thing = {foreign: shape, "label": labels[0]}
    thing = dict(data.draw(st.permutations(list(thing.items()))))
    own = [{key: list(data.draw(boxes)), "label": labels[1]}] if data.draw(st.booleans()) else []
    objects = data.draw(st.permutations([thing, *own]))
    style, form = (data.draw(st.sampled_from(sorted(of))) for of in (STYLES, FORMS))
    style = "JSON" if isinstance(shape, dict) else style
    text = FORMS[form]([STYLES[style].of(o, key) for o in objects])
    g = d.parse(text, FRAME)
    expected = [(labels[1], tuple(own[0][key]))] if own else []
    assert read(d, g) == expected, text
    assert "non_box_payload" in {p.kind for p in g.problems}, text
    assert labels[0] in g.plain, (text, g.plain)
    assert not re.search(r"[{`\[]|\d\d\d|" + foreign, g.plain), (text, g.plain)
    if own:
        removed = d.replace_boxes(g, {(0, 0): None}, FRAME)
        assert read(d, removed) == [], (text, removed.text)
    else:
        assert (_why_unscored(g, [(0.0, 0.0, 1.0, 1.0)]) or "").startswith("unparsed"), text
    with pytest.raises(DialectError):
        convert(g, FRAME, d, get_dialect("internvl"))


@settings(max_examples=100)
@given(data=st.data())
def test_names_as_keys_are_read_and_reported(data: st.DataObject) -> None:
    """`{"dog": [..], "cat": [..]}` and `[[.., "dog"], [.., "cat"]]`: labels and boxes, and a problem each."""
    name = data.draw(st.sampled_from(["qwen3_vl", "qwen2_5_vl", "gemini"]))
    labels = data.draw(st.lists(st.sampled_from(["dog", "red kettle", "hat"]), min_size=1, unique=True))
    places = [data.draw(boxes) for _ in labels]
    as_keys = data.draw(st.booleans())
    if as_keys:
        text = json.dumps(dict(zip(labels, places, strict=True)))
    else:
        text = json.dumps([[*place, label] for label, place in zip(labels, places, strict=True)])
    d = get_dialect(name)
    g, expected = d.parse(text, FRAME), list(zip(labels, places, strict=True))
    assert read(d, g) == expected, text
    assert [p.kind for p in g.problems] == ["foreign_key"] * len(labels)
    removed = d.replace_boxes(g, {(0, 0): None}, FRAME)
    assert read(d, removed) == expected[1:]
    assert is_json(removed.text)
    assert all(label in removed.plain for label in labels), removed.text
    again = get_dialect("internvl").parse(convert(g, FRAME, d, get_dialect("internvl")), FRAME)
    assert [m.phrase for m in again.mentions] == labels


# notations of others, with words around: text, and which families write it themselves
NOTATIONS: list[tuple[str, str]] = [
    ("<bbox>{} {} {} {}</bbox>", "seed ui_tars"),
    ("<point>{} {}</point>", "isaac seed ui_tars"),
    ('<point x="{}.5" y="{}.0" alt="it">it</point>', "isaac molmo"),
    ('<points coords="{} {} {}">it</points>', "molmo2"),
    ("<quad>{} {} {} {} {} {} {} {}</quad>", "qwen_vl"),
    ("<poly>{},{},{},{},{},{}</poly>", ""),
    ("<3dbbox>{} {} {} {} {} {} {} {} {}</3dbbox>", ""),
    ("click(point='<point>{} {}</point>')", "isaac seed ui_tars"),
    ("click(start_box='({},{})')", "ui_tars"),
    ("pyautogui.click(x={}, y={})", ""),
    ("<|box_start|>({},{}),({},{})<|box_end|>", "qwen2_vl rex_omni"),
    ("<|det|>[[{}, {}, {}, {}]]<|/det|>", "deepseek_vl2 deepseek_ocr"),
    ("<loc0{}><loc0{}><loc0{}><loc0{}>", "paligemma"),
    ("<loc_{}><loc_{}><loc_{}><loc_{}>", "florence2"),
    ("<patch_index_0{}><patch_index_0{}>", "kosmos2"),
    ('{{"bbox": [{}, {}, {}, {}], "label": "it"}}', "seed ui_tars"),
    ('{{"point_2d": [{}, {}], "label": "it"}}', "qwen_points"),
]


@pytest.mark.parametrize(("notation", "own"), NOTATIONS)
@pytest.mark.parametrize("name", known_names())
def test_other_notations_are_reported_in_every_dialect(name: str, notation: str, own: str) -> None:
    """Nothing is invented, no number reaches CLIP, no word is lost, and it is no text without boxes."""
    if name.partition(":")[0] in own.split():
        return
    text = "The trolley stands here: " + notation.format(*range(101, 110)) + " by the wall"
    d = get_dialect(name)
    g = d.parse(text, FRAME)
    assert not any(m.boxes for m in g.mentions)
    assert {p.kind for p in g.problems} >= {"non_box_payload"}
    assert not re.search(r"1\d\d|<|\{", g.plain), g.plain
    assert g.plain.startswith("The trolley stands here")
    assert g.plain.endswith("by the wall")
    assert ("it" in g.plain.split() or "it." in g.plain.split()) == ("it" in re.findall(r"\bit\b", notation))
    assert (_why_unscored(g, [(0.0, 0.0, 1.0, 1.0)]) or "").startswith("unparsed")


@settings(max_examples=100)
@given(
    values=st.lists(st.integers(1, 99), min_size=4, max_size=4), name=st.sampled_from(known_names("boxes"))
)
def test_fractions_are_reported_where_whole_units_are_meant(values: list[int], name: str) -> None:
    d = get_dialect(name)
    box = d.compose([(None, [(100.0, 100.0, 200.0, 200.0)])], FRAME)
    numbers = d.layout(box).numbers()
    if d.codec.decimals or name.startswith(("kosmos2", "paligemma", "florence2", "rex", "locate", "minigpt")):
        return  # fractions are its own, or its tokens cannot hold them
    text = box
    for (start, end), v in reversed(list(zip(numbers, values, strict=True))):
        text = text[:start] + f"0.{v:02d}" + text[end:]
    g = d.parse(text, FRAME)
    assert len(g.mentions) == 1
    assert "non_box_payload" in {p.kind for p in g.problems}


def _tree(node: Node) -> Any:
    """A value as plain data; numbers in either form of a list."""
    if node.numbers:
        return (*node.numbers, node.start, node.end)
    if node.kind == "array" and node.items and all(NUMBER.fullmatch(i.text) for i in node.items):
        return (*((i.start, i.end) for i in node.items), node.start, node.end)
    inner = [(m.key, m.start, _tree(m.value)) for m in node.members] + [_tree(i) for i in node.items]
    return node.kind, node.start, node.end, node.text, node.closed, node.loose, node.cut, inner


@settings(max_examples=200)
@given(data=st.data())
def test_the_short_way_through_plain_json_reads_the_same(data: st.DataObject) -> None:
    """Members as JSON has them are read in one step, only for speed: the tree is that of reading sign by
    sign, in texts with any slip.
    """
    things = data.draw(st.lists(_things(1), min_size=1, max_size=3))
    style, form, slip = (data.draw(st.sampled_from(sorted(of))) for of in (STYLES, FORMS, SLIPS))
    text = SLIPS[slip](FORMS[form]([STYLES[style].of(t.members("bbox_2d"), "bbox_2d") for t in things]))
    cut = data.draw(st.integers(0, len(text)))
    for piece in (text, text[:cut], text[cut:]):
        with mock.patch.object(json_text, "_PLAIN_MEMBER", re.compile(r"(?!)")):
            slow, _ = json_text.read_json(piece)
        assert [_tree(node) for node in json_text.read_json(piece)[0]] == [_tree(node) for node in slow]
