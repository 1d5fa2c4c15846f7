"""Notations with points: what is read, what is refused, and that nothing else takes a point for a box."""

from __future__ import annotations

import pytest

from spr.dialects import Dialect, Frame, convert, get_dialect
from spr.errors import DialectError
from spr.stages.pairing import refine
from spr.stages.scoring import _why_unscored
from spr.types import Box, GroundedText, Point

F = Frame(1000, 1000)
Said = tuple[str | None, list[Box], list[Point]]
_ONE, _TWO = (1.0, 2.0, 3.0, 4.0), (5.0, 6.0, 7.0, 8.0)
_A, _B = (100.0, 200.0), (300.0, 400.0)

# dialect, text, mentions in pixels, problems, plain, reason
ROWS: list[tuple[str, str, list[Said], list[str], str, str]] = [
    ("molmo", 'a <point x="10" y="20.0" alt="cat">black cat</point>!', [("black cat", [], [_A])], [],
        "a black cat!", "the phrase is what is shown, not the attribute"),
    ("molmo", '<points x1="10.0" y1="20.0" x2="30.0" y2="40.0" alt="cats">cats</points>',
        [("cats", [], [_A, _B])], [], "cats", "several"),
    ("molmo", '<point y="20" x="10" alt="cat"></point>', [("cat", [], [_A])], [], "cat",
        "the attribute where nothing is shown; sides in any order"),
    ("molmo", "<point x='10' y='20' alt='a &amp; b'/>", [("a & b", [], [_A])], [], "a & b", "no closing tag"),
    ("molmo", '<point x="10%" y="20%" alt="">it</point>', [("it", [], [_A])], [], "it", "with its unit"),
    ("molmo", '<points x1="10" y1="20" x2="30" alt="a">a</points>', [("a", [], [_A])], ["wrong_arity"], "a",
        "half a point is none"),
    ("molmo", '<points x1="10" y1="20" x2="?" y2="40">a</points>', [("a", [], [_A])], ["not_a_number"], "a",
        "a word for a number: this point only"),
    ("molmo", '<point x="10" y="20" x="30">a</point>', [("a", [], [_A])], ["tag_mismatch"], "a",
        "a side given twice"),
    ("molmo", '<point x="10" y="120">a</point>', [("a", [], [(100.0, 1200.0)])], ["out_of_range"], "a",
        "more than the whole image"),
    ("molmo", '<point x="10" y="20" alt="a">b <point x="30" y="40">c</point></point>',
        [("a", [], [_A]), ("c", [], [_B])], ["nested_tag", "tag_mismatch"], "a b c",
        "a tag in a tag: both have their numbers"),
    ("molmo", 'a <point x="10" y="20" al', [], ["truncated"], "a", "cut in the tag"),
    ("molmo", '<point x="10" y="20" alt="a">a b', [("a", [], [_A])], ["truncated"], "a a b", "cut behind it"),
    ("molmo", 'a <poi', [], ["truncated"], "a", "cut in its name"),
    ("molmo", 'if a < b', [], [], "if a < b", "a sign is no tag"),
    ("molmo", 'x</point>', [], ["tag_mismatch"], "x", "only closed"),
    ("molmo", '<point alt="a">a</point>', [], ["non_box_payload"], "a", "without numbers"),
    ("molmo", '<points coords="1 1 100 200">a</points>', [], ["non_box_payload"], "a", "Molmo2's form"),
    ("molmo", "a [1, 2, 3, 4]", [], ["non_box_payload"], "a", "a box is not its"),
    ("molmo", "There are none.", [(None, [], [])], ["absent_marker"], "", "said to be absent"),
    ("molmo2", '<points coords="1 1 100 200 2 300 400" alt="a">b</points>', [("b", [], [_A, _B])], [], "b",
        "an image, then id, x, y"),
    ("molmo2", '<points coords="1 100 200 2 300 400">b</points>', [("b", [], [_A, _B])], [], "b",
        "the older form has no image"),
    ("molmo2", '<points coords="1 1 100 200\t2 2 300 400">b</points>', [("b", [], [_A])], ["non_box_payload"],
        "b", "a point of another image"),
    ("molmo2", '<points coords="1 1 100 200 2 300">b</points>', [], ["wrong_arity"], "b", "a number short"),
    ("molmo2", '<points coords="1 1 100">b</points>', [], ["wrong_arity"], "b",
        "a number short: the older form has three digits, too"),
    ("molmo2", '<points coords="1 1 100 two">b</points>', [], ["not_a_number"], "b", "a word for a number"),
    ("molmo2", '<tracks coords="1 1 100 200">b</tracks>', [], ["non_box_payload"], "b", "of a video"),
    ("molmo2", '<point x="10" y="20">a</point>', [], ["non_box_payload"], "a", "Molmo's form"),
    ("seed", "The dog <bbox>1 2 3 4</bbox><bbox>5 6 7 8</bbox>.", [("The dog", [_ONE, _TWO], [])],
        ["phrase_guessed"], "The dog.", "boxes in a row are of one phrase"),
    ("seed", "<point>100 200</point> and <point>300 400</point>", [(None, [], [_A]), (None, [], [_B])], [],
        "and", "no phrase"),
    ("seed", "dogs <point>100 200</point>, <point>300 400</point>", [("dogs", [], [_A, _B])],
        ["phrase_guessed"], "dogs,", "points in a row, too"),
    ("seed",
        '[{"name": "a", "bbox": "<bbox>1 2 3 4</bbox>"}, {"label": "b", "point": "<point>100 200</point>"}]',
        [("a", [_ONE], []), ("b", [], [_A])], [], "a and b.", "tags in JSON"),
    ("seed", '{"label": "a", "bbox": [1, 2, 3, 4]}', [("a", [_ONE], [])], [], "a.", "JSON without tags"),
    ("seed", '{"label": "a", "bbox_2d": [1, 2, 3, 4]}', [], ["non_box_payload"], "a.", "another key"),
    ("seed", "<point>1 2 3</point>", [], ["wrong_arity"], "", "three numbers"),
    ("seed", "<point>here</point>", [], ["non_box_payload"], "", "words"),
    ("seed", "<point>1 x2</point>", [], ["not_a_number"], "", "a word for a number"),
    ("seed", "a <point>1 2", [], ["truncated"], "a", "cut: the last number may be longer"),
    ("seed", 'a <point x="10" y="20">it</point>', [], ["non_box_payload"], "a it", "Molmo's form"),
    ("seed", "click(start_box='(1,2)')", [], ["non_box_payload"], "", "an action"),
    ("seed", "<bbox>none</bbox>", [(None, [], [])], ["absent_marker"], "", "said to be absent"),
    ("ui_tars:relative", "Action: click(point='<point>100 200</point>')", [(None, [], [_A])], [], "Action:",
        "an action at a point"),
    ("ui_tars:relative", "drag(start_box='(100,200)', end_box='<|box_start|>(300,400)<|box_end|>')",
        [(None, [], [_A, _B])], [], "", "from one point to another"),
    ("ui_tars:relative", "click(start_box='[1, 2, 3, 4]')", [(None, [_ONE], [])], [], "",
        "a box to click on"),
    ("ui_tars:relative", "click(start_box='(1, 2, 3)')", [], ["non_box_payload", "wrong_arity"], "",
        "three numbers"),
    ("ui_tars:relative", "click(start_box='(12px, 3)')", [], ["non_box_payload", "not_a_number"], "",
        "a word for a number"),
    ("ui_tars:relative", "pyautogui.click(12, 30)", [], ["non_box_payload"], "", "code is not its form"),
    ("ui_tars:relative", "type(content='12 30')", [], [], "type(content='12 30')", "no place"),
    ("ui_tars:relative", "a <bbox>1 2 3 4</bbox>", [("a", [_ONE], [])], ["phrase_guessed"], "a",
        "Seed's tags"),
    ("ui_tars:relative", "<think>click(point='<point>1 2</point>')</think>", [], ["draft_box"], "",
        "a draft"),
    ("moondream", '{"objects": [{"x_min": 0.1, "y_min": 0.2, "x_max": 0.3, "y_max": 0.4}]}',
        [(None, [(100.0, 200.0, 300.0, 400.0)], [])], [], "", "a box"),
    ("moondream", '{"points": [{"x": 0.1, "y": 0.2}, {"x": 0.3, "y": 0.4}]}',
        [(None, [], [_A]), (None, [], [_B])], [], "", "points"),
    ("moondream", "{'objects': []}", [(None, [], [])], ["absent_marker"], "", "said to be absent"),
    ("moondream", '{"y_max": 0.4, "y_min": 0.2, "x_max": 0.3, "x_min": 0.1, "label": "a"}',
        [("a", [(100.0, 200.0, 300.0, 400.0)], [])], [], "a.", "sides in any order"),
    ("moondream", '{"x_min": 0.1, "y_min": 0.2, "x_max": 0.3}', [], ["non_box_payload"], "", "a side short"),
    ("moondream", '{"x": 0.1, "y": 0.2, "x": 0.3}', [], ["non_box_payload"], "", "a side given twice"),
    ("moondream", '{"bbox_2d": [1, 2, 3, 4], "label": "a"}', [], ["non_box_payload"], "a.", "a list"),
    ("moondream", "[0.1, 0.2, 0.3, 0.4]", [], ["non_box_payload"], "", "nothing says what a list means"),
    ("qwen_points", '[{"point_2d": [100, 200], "label": "a"}]', [("a", [], [_A])], [], "a.", "a point"),
    ("qwen_points", '[{"point_2d": [[100, 200], [300, 400]], "label": "a"}]', [("a", [], [_A, _B])], [], "a.",
        "several"),
    ("qwen_points", '{"point_2d": [100, 200], "bbox_2d": [1, 2, 3, 4]}', [(None, [_ONE], [_A])], [], "",
        "both of one thing"),
    ("qwen_points", '{"point_2d": "100, 200", "label": "a"}', [("a", [], [_A])], [], "a.", "in quotes"),
    ("qwen_points", '{"point_2d": [100, "x"], "label": "a"}', [], ["not_a_number"], "a.",
        "a word for a number"),
    ("qwen_points", '{"point_2d": [100, 200, 300], "label": "a"}', [], ["wrong_arity"], "a.",
        "three numbers"),
    ("qwen_points", '{"point_2d": [100, 200, "label": "a"}', [("a", [], [_A])], ["tag_mismatch"], "a.",
        "a bracket is missing"),
    ("qwen_points", '{"point_2d": null, "label": "a"}', [("a", [], [])], ["absent_marker"], "a.",
        "said to be absent"),
    ("qwen_points", '{"point_2d": "left", "label": "a"}', [], ["non_box_payload"], "a.", "words"),
    ("qwen_points", '{"point_2d": , "label": "a"}', [], ["not_a_number"], "a.", "nothing"),
    ("qwen3_vl", '{"point_2d": [100, 200], "label": "a"}', [], ["non_box_payload"], "a.",
        "in the dialect of boxes a point is none"),
    ("deepseek_ocr", "<|ref|>title<|/ref|><|det|>[[0, 0, 999, 999]]<|/det|>\n# A",
        [("title", [(0.0, 0.0, 1000.0, 1000.0)], [])], [], "title # A", "a document"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "text", "mentions", "problems", "plain", "reason"),
    ROWS,
    ids=[f"{row[0]}: {row[-1]}" for row in ROWS],
)
def test_reading(
    name: str, text: str, mentions: list[Said], problems: list[str], plain: str, reason: str
) -> None:
    d = get_dialect(name)
    g = d.parse(text, F)
    said = [(m.phrase, list(m.boxes), list(m.points)) for m in g.mentions]
    assert [phrase for phrase, *_ in said] == [phrase for phrase, *_ in mentions]
    for (_, boxes, points), (_, wanted, places) in zip(said, mentions, strict=True):
        assert boxes == [pytest.approx(box) for box in wanted]
        assert points == [pytest.approx(point) for point in places]
    assert sorted(p.kind for p in g.problems) == sorted(problems)
    assert g.plain == plain
    assert d.render(g, F) == text
    assert len(d.coordinate_spans(text)) == sum(4 * len(m.boxes) + 2 * len(m.points) for m in g.mentions)


# dialect, text, without its first box
REMOVED = [
    (
        "moondream",
        '{"objects": [{"x_min": 0.1, "y_min": 0.2, "x_max": 0.3, "y_max": 0.4}]}',
        '{"objects": []}',
    ),
    ("moondream", '{"x_min": 0.1, "y_min": 0.2, "x_max": 0.3, "y_max": 0.4}', "{}"),
    (
        "moondream",
        '[{"x_min": 0.1, "y_min": 0.2, "label": "a", "x_max": 0.3, "y_max": 0.4}]',
        '[{"label": "a"}]',
    ),
    ("seed", '[{"label": "a", "bbox": "<bbox>1 2 3 4</bbox>"}]', '[{"label": "a"}]'),
    ("seed", "a <bbox>1 2 3 4</bbox> <bbox>5 6 7 8</bbox>.", "a <bbox>5 6 7 8</bbox>."),
    ("seed", "a <bbox>1 2 3 4</bbox> <point>5 6</point>.", "a <point>5 6</point>."),
    ("qwen_points", '{"point_2d": [1, 2], "bbox_2d": [1, 2, 3, 4]}', '{"point_2d": [1, 2]}'),
    ("ui_tars", "drag(start_box='[1, 2, 3, 4]', end_box='[5, 6, 7, 8]')", "drag(end_box='[5, 6, 7, 8]')"),
    ("ui_tars", "Action: click(start_box='[1, 2, 3, 4]')", "Action:"),
]


@pytest.mark.parametrize(("name", "text", "expected"), REMOVED)
def test_a_box_goes_and_points_stay(name: str, text: str, expected: str) -> None:
    d = get_dialect(name)
    g = d.parse(text, F)
    assert d.replace_boxes(g, {(0, 0): None}, F).text == expected


def _read(d: Dialect, text: str) -> GroundedText:
    return d.parse(text, F)


def test_a_thing_with_a_point_stays_when_its_box_is_refused() -> None:
    """`drop_clause` takes what has lost all its places; a point is one."""
    d = get_dialect("qwen_points")
    g = _read(d, '[{"point_2d": [1, 2], "bbox_2d": [1, 2, 3, 4], "label": "a"}, {"bbox_2d": [5, 6, 7, 8]}]')
    refined = refine(g, [], d, F, 0.5, "drop_clause")
    assert refined.text == '[{"point_2d": [1, 2], "label": "a"}]'


def test_points_go_to_other_notations() -> None:
    molmo, seed, molmo2 = map(get_dialect, ("molmo", "seed", "molmo2"))
    g = _read(molmo, 'a <point x="10" y="20">cat</point>')
    assert convert(g, F, molmo, molmo2) == 'a <points coords="1 1 100 200" alt="cat">cat</points>'
    assert convert(g, F, molmo, seed) == "a cat <point>100 200</point>"
    with pytest.raises(DialectError, match="qwen3_vl: found points, expected boxes"):
        convert(g, F, molmo, get_dialect("qwen3_vl"))
    both = get_dialect("qwen_points")
    h = _read(both, '[{"point_2d": [100, 200], "bbox_2d": [1, 2, 3, 4], "label": "a"}]')
    again = _read(seed, convert(h, F, both, seed))
    assert [(m.phrase, m.boxes, m.points) for m in again.mentions] == [("a", (_ONE,), ()), ("a", (), (_A,))]


@pytest.mark.parametrize(
    ("name", "place", "message"),
    [
        ("molmo", _ONE, "molmo: found boxes, expected points"),
        ("qwen3_vl", _A, "qwen3_vl: found points, expected boxes"),
        ("seed", (float("nan"), 2.0), "found the point .*expected two finite numbers"),
    ],
)
def test_what_a_notation_does_not_write_is_refused(name: str, place: Box | Point, message: str) -> None:
    with pytest.raises(DialectError, match=message):
        get_dialect(name).compose([("a", [place])], F)
    with pytest.raises(DialectError, match=message):
        get_dialect(name).box_text(place, F)


def test_what_cannot_be_said_is_refused() -> None:
    with pytest.raises(DialectError, match="no place for a label"):
        get_dialect("moondream").compose([("a", [_A])], F)
    with pytest.raises(DialectError, match="found '<' in the phrase"):
        get_dialect("molmo").compose([("a < b", [_A])], F)
    assert get_dialect("molmo").compose(["There is ", ("a", [])], F) == "There is a"


def test_points_alone_have_no_score() -> None:
    """It is no text without boxes, whose places would all be wrong."""
    g = _read(get_dialect("seed"), "a dog <point>1 2</point>")
    assert _why_unscored(g, [_ONE]) == "unparsed:points_only"
