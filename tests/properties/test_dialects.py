"""Laws that hold for every dialect and every string: total, lossless, linear; edits do what they say and
nothing else; tokens round-trip.
"""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spr.dialects import Dialect, Frame, Part, convert, get_dialect, known_names
from spr.dialects.codec import PatchCodec
from spr.errors import DialectError
from spr.types import Box

NAMES, BOXES, POINTS = known_names(), known_names("boxes"), known_names("points")
# decodes to whole pixels, as transformers does: marked lossy
LOSSLESS = tuple(n for n in BOXES if n != "florence2:int")
PIECES = [
    "[", "]", "[[", "]]", "(", ")", "{", "}", "<", ">", ",", ";", " ", "\n", ".", "-", '"', "'", "\\", ":",
    "0", "12", "345", "1000", "99999", "0.25", "1.02", "and", "with", "a dog", "None", "none", "null", "ü漢",
    "<think>", "</think>", "<ref>", "</ref>", "<box>", "</box>", "<quad>", "</quad>", "<p>", "</p>",
    "<delim>", "<12>", "<999>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>", "<|box_end|>",
    "<|ref|>", "<|/ref|>", "<|det|>", "<|/det|>", "<|begin_of_box|>", "<|end_of_box|>", "<phrase>",
    "</phrase>", "<object>", "</object>", "<patch_index_0044>", "<patch_index_0863>",
    "</delimiter_of_multi_objects/>", "<grounding>", "<loc0010>", "<loc1023>", "<seg001>", "<loc_1>",
    "<loc_999>", "```json", "```", '{"bbox_2d": [', '{"box_2d": [', '], "label": "', '"}', "1, 2, 3, 4",
    "(1,2),(3,4)", "[10, 20, 30, 40]", '<point_box mention="x">', "</point_box>", "<collection>",
    "</collection>", "<point>", "</point>", "<bbox>", "</bbox>", "1 2 3 4", '<point x="12.5" y="3" alt="it">',
    '<points x1="1" y1="2" x2="3" y2="', "</points>", '<points coords="1 1 123 456" alt="',
    "click(start_box='", "(12,34)')", '{"x_min": 0.1, "y_min": 0.2, ', '"x_max": 0.3, "y_max": 0.4}',
    '{"x": 0.1, "y": 0.2}', '{"point_2d": [1, 2', '"bbox": "<bbox>',
]  # fmt: skip
texts = st.one_of(st.text(max_size=60), st.lists(st.sampled_from(PIECES), max_size=24).map("".join))
frames = st.builds(Frame, st.integers(-1, 4000), st.integers(-1, 4000))


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=60)
@given(text=texts, frame=frames)
def test_reading_is_total_and_lossless(name: str, text: str, frame: Frame) -> None:
    """Any string gives a grounded text, whose text is the string, whose spans lie in it, and whose plain form
    is tidy.
    """
    d = get_dialect(name)
    g = d.parse(text, frame)
    assert d.render(g, frame) == text == g.text
    assert all(
        0 <= s <= e <= len(text) for s, e in [m.span for m in g.mentions] + [p.span for p in g.problems]
    )
    assert all(m.phrase is None or (m.phrase and m.phrase == m.phrase.strip()) for m in g.mentions)
    assert [m.span[0] for m in g.mentions] == sorted(m.span[0] for m in g.mentions)
    assert g.plain == " ".join(g.plain.split())


def _outside(d: Dialect, text: str, slot: tuple[int, int]) -> list[str]:
    """What stands around the numbers of one box."""
    numbers = sorted(d.layout(text).mentions[slot[0]].boxes[slot[1]].numbers)
    edges = [0, *(edge for span in numbers for edge in span), len(text)]
    return [text[start:end] for start, end in zip(edges[::2], edges[1::2], strict=True)]


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=40)
@given(text=texts, data=st.data())
def test_edits_are_exact_and_idempotent(name: str, text: str, data: st.DataObject) -> None:
    """A replaced box changes no byte outside its numbers; doing it again changes nothing; all other boxes
    stay as they were.
    """
    d, frame = get_dialect(name), Frame(640, 480)
    g = d.parse(text, frame)
    slots = [(m, b) for m, mention in enumerate(g.mentions) for b in range(len(mention.boxes))]
    if not slots:
        return
    slot = data.draw(st.sampled_from(slots))
    x1, y1 = data.draw(st.floats(0, 639)), data.draw(st.floats(0, 479))
    box: Box = (x1, y1, data.draw(st.floats(x1, 640)), data.draw(st.floats(y1, 480)))
    once = d.replace_boxes(g, {slot: box}, frame)
    assert [(m.phrase, len(m.boxes)) for m in once.mentions] == [(m.phrase, len(m.boxes)) for m in g.mentions]
    assert _outside(d, once.text, slot) == _outside(d, text, slot)
    assert d.replace_boxes(once, {slot: box}, frame).text == once.text
    for m, b in slots:
        if (m, b) != slot:
            assert once.mentions[m].boxes[b] == g.mentions[m].boxes[b]
    removed = d.replace_boxes(g, {slot: None}, frame)
    left = Counter(g.mentions[m].boxes[b] for m, b in slots if (m, b) != slot)
    assert not Counter(box for m in removed.mentions for box in m.boxes) - left, "a box that was not there"


# phrases are not bound there
GUESSED = {
    "ferret",
    "shikra",
    "llava",
    "llava:original",
    "cogvlm",
    "florence2",
    "florence2:float",
    "florence2:int",
    "seed",
    "ui_tars",
    "ui_tars:relative",
}
JSON = {"qwen2_5_vl", "qwen3_vl", "gemini", "moondream", "qwen_points"}
ONE_BOX = JSON | {n for n in NAMES if n.startswith("paligemma")}
NO_PHRASE = {"glm4v", "moondream"}
phrases = st.one_of(
    st.text(min_size=1, max_size=20), st.lists(st.sampled_from(PIECES), min_size=1, max_size=4).map("".join)
).filter(str.strip)


@pytest.mark.parametrize("name", LOSSLESS)
@settings(max_examples=60)
@given(phrase=phrases, data=st.data())
def test_what_is_composed_is_read_or_refused(name: str, phrase: str, data: st.DataObject) -> None:
    """Whatever a phrase holds, the same phrase and the same tokens come back, or the writer has refused it:
    never other boxes.
    """
    d, frame = get_dialect(name), Frame(640, 480)
    corner = st.tuples(st.floats(0, 600), st.floats(0, 440))
    boxes = [
        (x, y, x + 32.0, y + 32.0)
        for x, y in data.draw(st.lists(corner, min_size=1, max_size=1 if name in ONE_BOX else 3))
    ]
    try:
        text = d.compose([(None if name in NO_PHRASE else phrase, boxes)], frame)
    except DialectError:
        return
    g = d.parse(text, frame)
    read = [box for m in g.mentions for box in m.boxes]
    assert [d.box_text(box, frame) for box in read] == [d.box_text(box, frame) for box in boxes]
    assert len(g.mentions) == 1
    if name not in GUESSED:
        assert g.mentions[0].phrase == (None if name in NO_PHRASE else phrase.strip())
        # Kosmos-2: a box thinner than a cell may come back so
        assert {p.kind for p in g.problems} <= {"reversed"}


@pytest.mark.parametrize("name", BOXES)
@settings(max_examples=40)
@given(data=st.data())
def test_a_composed_answer_is_read_and_a_removal_takes_one_box_and_no_word(
    name: str, data: st.DataObject
) -> None:
    """In an answer as the family writes it: phrases and boxes come back; without one box every word and every
    other box stays.
    """
    d, frame = get_dialect(name), Frame(640, 480)
    corner = st.tuples(st.integers(0, 600), st.integers(0, 440))
    parts: list[Part] = []
    for k in range(data.draw(st.integers(1, 3))):
        boxes = [
            (x, y, x + 32.0, y + 32.0)
            for x, y in data.draw(st.lists(corner, min_size=1, max_size=1 if name in ONE_BOX else 3))
        ]
        parts += [" ; " if name.startswith("paligemma") else ", "] * bool(k) + [
            (None if name in NO_PHRASE else f"{k} dogs", boxes)
        ]
    text = d.compose(parts, frame)
    g = d.parse(text, frame)
    said = [part for part in parts if not isinstance(part, str)]
    assert [mention.phrase for mention in g.mentions] == [phrase for phrase, _ in said]
    if name in LOSSLESS:
        assert [[d.box_text(box, frame) for box in mention.boxes] for mention in g.mentions] == [
            [d.box_text(box, frame) for box in boxes] for _, boxes in said
        ]
    m = data.draw(st.integers(0, len(g.mentions) - 1))
    b = data.draw(st.integers(0, len(g.mentions[m].boxes) - 1))
    removed = d.replace_boxes(g, {(m, b): None}, frame)
    left = [
        box for k, mention in enumerate(g.mentions) for j, box in enumerate(mention.boxes) if (k, j) != (m, b)
    ]
    assert [box for mention in removed.mentions for box in mention.boxes] == left
    assert removed.plain == g.plain
    assert len(removed.text) < len(text)


@pytest.mark.parametrize("name", POINTS)
@settings(max_examples=60)
@given(phrase=phrases, data=st.data())
def test_points_are_written_and_read_or_refused(name: str, phrase: str, data: st.DataObject) -> None:
    """The same phrase and the same tokens come back, or the writer has refused; a point is never a box, and
    the same answer for an image of another size keeps its place.
    """
    d, frame = get_dialect(name), Frame(640, 480)
    place = st.tuples(st.floats(0, 640), st.floats(0, 480))
    points = data.draw(st.lists(place, min_size=1, max_size=1 if name in ONE_BOX else 3))
    phrase_or_none = None if name in NO_PHRASE else phrase
    try:
        text = d.compose([(phrase_or_none, points)], frame)
    except DialectError:
        return
    g = d.parse(text, frame)
    assert not any(m.boxes for m in g.mentions)
    read = [point for m in g.mentions for point in m.points]
    assert [d.box_text(p, frame) for p in read] == [d.box_text(p, frame) for p in points]
    if name not in GUESSED:
        assert [m.phrase for m in g.mentions] == [phrase_or_none and phrase_or_none.strip()]
        assert g.problems == ()
    larger = Frame(1280, 960)
    try:
        moved = d.parse(convert(g, larger, d, d), larger)
    except DialectError:
        return
    again = [(x / 2, y / 2) for m in moved.mentions for x, y in m.points]
    step = max(frame) / (min(d.codec.maximum or 1000, 1000) * 10**d.codec.decimals)
    assert again == [pytest.approx(point, abs=step) for point in read]


def _values(limit: int) -> list[tuple[int, int, int, int]]:
    """Boxes of numbers in which each number from 0 to `limit` stands once on x and once on y."""
    numbers = [*range(limit + 1), limit] if limit % 2 == 0 else [*range(limit + 1)]
    return [(a, a, b, b) for a, b in zip(numbers[::2], numbers[1::2], strict=True)]


@pytest.mark.parametrize("name", LOSSLESS)
def test_every_token_survives_decode_and_encode(name: str) -> None:
    """encode(decode(v)) == v for every representable value, at 50 image sizes: else an untouched box would
    drift when edited.
    """
    d = get_dialect(name)
    rng = random.Random(0)
    sizes = [(1, 1), (640, 480), (333, 500), (1920, 1080)] + [
        (rng.randint(28, 3000), rng.randint(28, 3000)) for _ in range(46)
    ]
    places = d.codec.decimals
    for width, height in sizes:
        frame = Frame(width, height)
        if isinstance(d.codec, PatchCodec):
            written = [
                (low, high)
                for low in range(0, 1024, 7)
                for high in range(low, 1024, 11)
                if low % 32 <= high % 32
            ]
        else:
            limit = min(axis[3] for axis in d.codec.axes(frame))
            written = [tuple(v / 10**places for v in values) for values in _values(round(limit * 10**places))]
        read = d.codec.reader(frame)
        for values in written:
            assert d.codec.encode(read(values)[0], frame, places, False) == values


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "unit",
    [
        *PIECES,
        "[1,",
        "<ref><box>",
        '{"',
        '{"\\"',
        '{"a":{',
        "[[1, 2, 3, 4], ",
        "a [1, 2, 3, 4] ",
        "<loc0001>" * 5,
        "<think>",
        "</think><think>",
        "click(1",
        "<point>",
        "<point x",
        '<point x="1" ',
        '<points coords="1 1 123 456\t',
        "click(point='",
        '{"x_min": 0.1, ',
        '{"point_2d": [[1, 2], ',
        '["a",:',
        '{"bbox_2d": [[',
        'a: [1, 2, 3, 4] "b": ',
        "“a”: ",
        '\\"a\\": ',
    ],
)
def test_reading_is_linear(name: str, unit: str) -> None:
    """At most 20 looked-at characters per character of adversarial texts of several lengths: a counter, not a
    clock.
    """
    d = get_dialect(name)
    for length in (100, 1000, 4000):
        text = (unit * (length // len(unit) + 1))[:length]
        assert d.layout(text).steps <= 20 * len(text)
