"""Protocols with more than one box or no box at all, judged by hand."""

from __future__ import annotations

import math

import pytest

from spr.dialects import get_dialect
from spr.errors import ConfigError
from spr.evaluation.config import BenchmarkConfig
from spr.evaluation.items import Item, PhraseTruth
from spr.evaluation.protocols import PROTOCOLS
from spr.evaluation.protocols.many_boxes import density_f1, matched_in_order
from spr.evaluation.protocols.phrase_grounding import plain_words
from spr.evaluation.protocols.pope import says
from spr.evaluation.protocols.region_classification import is_named
from spr.evaluation.results import measure
from spr.evaluation.stage import prepare
from spr.types import Answer, Box, Frame, Prediction

FERRET, QWEN3 = get_dialect("ferret"), get_dialect("qwen3_vl")
FRAME = Frame(1000, 1000)
A: Box = (0, 0, 100, 100)
B: Box = (200, 0, 300, 100)
C: Box = (400, 0, 500, 100)


def judged(protocol: str, item: Item, answer: str | Answer, dialect: str = "ferret") -> list[Prediction]:
    given = answer if isinstance(answer, Answer) else Answer(answer)
    return PROTOCOLS[protocol].judge(item, given, protocol, FERRET if dialect == "ferret" else QWEN3)


def values(protocol: str, rows: list[Prediction], **options: object) -> dict[str, float | None]:
    p = PROTOCOLS[protocol]
    return {k: v["value"] for k, v in measure(rows, p, p.options(**options), 20, 0)["values"].items()}


# --- phrases --------------------------------------------------------------------------------------


def sentence(*phrases: tuple[str, tuple[Box, ...]]) -> Item:
    return Item(
        "1_0",
        "val",
        "a.jpg",
        1000,
        1000,
        ", ".join(p for p, _ in phrases),
        phrases=tuple(PhraseTruth(p, b) for p, b in phrases),
    )


@pytest.mark.parametrize(
    ("answer", "dialect", "expected", "why"),
    [
        (
            "A man [0, 0, 100, 100] and a dog [200, 0, 300, 100].",
            "ferret",
            [A, B],
            "case and joining words do not matter",
        ),
        ("a dog [200, 0, 300, 100], a man [0, 0, 100, 100]", "ferret", [A, B], "nor does the order"),
        (
            "I see a man [0, 0, 100, 100].",
            "ferret",
            [A, None],
            "the text before the box ENDS with the query; the dog is a miss",
        ),
        ("a woman [0, 0, 100, 100]", "ferret", [None, None], "woman does not end with the word man"),
        ("a man there [0, 0, 100, 100]", "ferret", [None, None], "nor does this end with the query"),
        ("a man [0, 0, 100, 100] [400, 0, 500, 100]", "ferret", [A, None], "R@1 is the first box"),
        (
            '[{"bbox_2d": [0, 0, 100, 100], "label": "A man."}, {"bbox_2d": [200, 0, 300, 100], "label": '
            '"dog"}]',
            "qwen3",
            [A, None],
            "marked: equal only",
        ),
        (
            '[{"bbox_2d": [0, 0, 100, 100], "label": "I see a man"}]',
            "qwen3",
            [None, None],
            "a marked phrase must not only end with it",
        ),
        ("no boxes", "ferret", [None, None], "nothing read"),
    ],
)
def test_whose_box_it_is(answer: str, dialect: str, expected: list[Box | None], why: str) -> None:
    rows = judged("phrase_grounding", sentence(("a man", (A,)), ("a dog", (B,))), answer, dialect)
    assert [r.box for r in rows] == expected, why
    assert [r.item_id for r in rows] == ["val/1_0/0", "val/1_0/1"]


def test_two_phrases_with_the_same_words_take_their_boxes_in_order() -> None:
    """A trap: looking the words up in a table gives both the same box."""
    item = sentence(("a man", (A,)), ("another man", (B,)), ("a man", (C,)))
    both = judged(
        "phrase_grounding",
        item,
        "a man [0, 0, 100, 100], another man [200, 0, 300, 100], a man [400, 0, 500, 100]",
    )
    assert [r.box for r in both] == [A, B, C]
    once = judged("phrase_grounding", item, "a man [0, 0, 100, 100]")
    assert [r.box for r in once] == [A, None, A], "said once, it is the answer to both"


def test_the_longest_query_that_fits_has_the_box() -> None:
    item = sentence(("man", (A,)), ("an old man", (B,)))
    rows = judged("phrase_grounding", item, "an old man [200, 0, 300, 100] beside a man [0, 0, 100, 100]")
    assert [r.box for r in rows] == [A, B]


def test_a_phrase_with_several_boxes_merged_and_any() -> None:
    """Two dogs, A and B: the box around both is [0, 0, 300, 100]. Naming A alone is right for ANY (IoU 1) and
    1/3 for MERGED.
    """
    item = sentence(("dogs", (A, B)))
    alone = judged("phrase_grounding", item, "dogs [0, 0, 100, 100]")
    around = judged("phrase_grounding", item, "dogs [0, 0, 300, 100]")
    assert alone[0].gt == (0, 0, 300, 100)
    assert alone[0].iou == pytest.approx(1 / 3)
    found = values("phrase_grounding", alone)
    assert (found["r1_merged@0.5"], found["r1_any@0.5"]) == (0.0, 1.0)
    found = values("phrase_grounding", around)
    assert (found["r1_merged@0.5"], found["r1_any@0.5"]) == (1.0, 0.0)


def test_unmatched_is_not_unparsed() -> None:
    rows = judged("phrase_grounding", sentence(("a man", (A,))), "a cat [0, 0, 100, 100]")
    broken = judged("phrase_grounding", sentence(("a man", (A,))), "a man [0, 0")
    p = PROTOCOLS["phrase_grounding"]
    assert ("unmatched" in rows[0].problems, p.is_read(rows[0])) == (True, True)
    assert ("unmatched" in broken[0].problems, p.is_read(broken[0])) == (False, False)


def test_phrase_types_count_in_each_of_theirs() -> None:
    item = Item(
        "1",
        "val",
        "a",
        1000,
        1000,
        "x",
        phrases=(PhraseTruth("a man", (A,), "people/other"), PhraseTruth("a dog", (B,), "animals")),
    )
    p = PROTOCOLS["phrase_grounding"]
    groups = measure(judged("phrase_grounding", item, "a man [0, 0, 100, 100]"), p, p.options(), 20, 0)[
        "groups"
    ]
    assert {g: (v["n"], v["values"]["r1_merged@0.5"]["value"]) for g, v in groups.items()} == {
        "animals": (1, 0.0),
        "other": (1, 1.0),
        "people": (1, 1.0),
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A man's T-shirt, blue!", ("a", "man", "s", "tshirt", "blue")),
        ("  ", ()),
        ("Ein Straße", ("ein", "strasse")),
    ],
)
def test_plain_words(text: str, expected: tuple[str, ...]) -> None:
    assert plain_words(text) == expected


# --- any number of boxes --------------------------------------------------------------------------


def many(*boxes: Box) -> Item:
    return Item("1", "val", "a.jpg", 1000, 1000, "the dogs", gt_boxes=boxes)


@pytest.mark.parametrize(
    ("matched", "written", "true", "expected"),
    [
        (2, 2, 2, 1.0),
        (1, 1, 2, 2 / 3),  # F1 of P = 1, R = 1/2; nothing too much was written
        (2, 4, 2, 2 / 3 * 1 / 2),  # F1 of P = 1/2, R = 1, times 2/4: boxes at random are punished twice
        (0, 3, 2, 0.0),
        (0, 0, 2, 0.0),
    ],
)
def test_density_f1(matched: int, written: int, true: int, expected: float) -> None:
    assert density_f1(matched, written, true) == pytest.approx(expected)


def test_matching_goes_in_the_order_of_the_truth() -> None:
    """The first true box takes the only written one it reaches, although the second overlaps it more."""
    assert matched_in_order([(0, 0, 10, 5), (0, 0, 10, 10)], [(0, 0, 10, 10)], 0.5) == 1
    assert matched_in_order([(0, 0, 10, 10), (0, 0, 10, 5)], [(0, 0, 10, 5), (0, 0, 10, 10)], 0.5) == 2, (
        "each takes its best"
    )
    assert matched_in_order([], [(0, 0, 1, 1)], 0.5) == 0


def test_many_boxes_by_hand() -> None:
    """Three items: both found and one too many; nothing read; rejection done right, and done wrong."""
    rows = [
        *judged("many_boxes", many(A, B), "dogs [0, 0, 100, 100] [200, 0, 300, 100] [400, 0, 500, 100]"),
        *judged("many_boxes", many(A), ""),
        *judged("many_boxes", many(), "There is no dog."),
        *judged("many_boxes", many(), "dogs [0, 0, 100, 100]"),
    ]
    found = values("many_boxes", rows)
    assert found["recall@0.5"] == pytest.approx((1 + 0) / 2), "rejections are not among them"
    assert found["precision@0.5"] == pytest.approx((2 / 3 + 0) / 2)
    assert found["density_f1@0.5"] == pytest.approx((4 / 5 * 2 / 3) / 2)
    assert found["density_f1@0.5:0.95"] == found["density_f1@0.5"], "all three boxes are exact"
    assert found["rejected"] == 0.5


@pytest.mark.parametrize(
    ("answer", "right", "read"),
    [
        ("There is no zebra.", True, True),
        ("[0, 0, 100, 100]", False, True),
        ("zebra [0, 0, 100", False, False),  # it began to write a box: no rejection, and not read
        ("", False, False),
        (Answer("", failed="timeout"), False, False),
        (Answer("There is no zebra, and", stopped=False), True, True),
    ],
)
def test_absent_objects(answer: str | Answer, right: bool, read: bool) -> None:
    rows = judged("absent_rec", Item("1", "val", "a", 1000, 1000, "the zebra"), answer)
    assert values("absent_rec", rows)["rejected"] == float(right)
    assert PROTOCOLS["absent_rec"].is_read(rows[0]) is read


# --- words ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("Yes, there is.", "yes"),
        ("No.", "no"),
        ("no", "no"),
        ("There is not.", "no"),
        ("Yes. No.", "yes"),  # the first sentence only
        ("No, there is", "no"),  # commas are dropped before words are compared
        ("None", "yes"),  # as published: not one of the three words
        ("It isn't", "yes"),  # as published
        ("NO", "yes"),  # as published
        ("", None),
        ("  ", None),
    ],
)
def test_yes_and_no(answer: str, expected: str | None) -> None:
    assert says(answer) == expected


def test_pope_by_hand() -> None:
    """Truth yes yes no no no; said yes, no, yes, no, nothing. Right: 2 of 5. Said yes: 2, of which 1 true.
    True yes: 2, of which 1 said.
    """
    truth = ["yes", "yes", "no", "no", "no"]
    said = ["Yes", "no", "yes", "No", ""]
    rows = [
        judged("pope", Item(str(k), "s", "a", 10, 10, "?", truth=(t,)), s)[0]
        for k, (t, s) in enumerate(zip(truth, said, strict=True))
    ]
    found = values("pope", rows)
    expected = {
        "accuracy": 2 / 5,
        "precision": 1 / 2,
        "recall": 1 / 2,
        "f1": 1 / 2,
        "said_yes": 2 / 5,
        "parse_rate": 4 / 5,
    }
    assert found == pytest.approx(expected)


def test_an_undefined_ratio_is_none() -> None:
    """Nobody says yes: precision is 0 / 0."""
    rows = judged("pope", Item("1", "s", "a", 10, 10, "?", truth=("no",)), "no")
    found = values("pope", rows)
    assert (found["precision"], found["recall"], found["f1"], found["accuracy"]) == (None, None, None, 1.0)


@pytest.mark.parametrize(
    ("answer", "truth", "corrected", "ferret", "why"),
    [
        ("It is a cup.", ("cup",), True, True, ""),
        ("It is a Cup.", ("cup",), True, False, "Ferret's comparison has case"),
        ("It is a carpet.", ("car",), False, True, "and finds names inside words"),
        ("It is a bowl, not a cup.", ("cup",), False, False, "denied"),
        ("It is a cup, not a bowl", ("bowl",), False, True, "Ferret cuts only up to a comma or full stop"),
        (
            "It is a notebook, I think.",
            ("notebook",),
            True,
            False,
            'Ferret\'s " no…" deletes the word itself',
        ),
        ("a mug", ("cup", "mug"), True, True, "a synonym"),
    ],
)
def test_names_corrected_and_as_ferret_counts(
    answer: str, truth: tuple[str, ...], corrected: bool, ferret: bool, why: str
) -> None:
    assert is_named(answer, truth, "corrected") is corrected, why
    assert is_named(answer, truth, "ferret_compatible") is ferret, why


def test_giou_counts_on_request() -> None:
    """[0, 0, 100, 100] against [100, 0, 200, 100]: IoU 0, hull as large as both: GIoU 0. At a threshold of 0
    that is right.
    """
    rows = judged("rec", Item("1", "v", "a", 1000, 1000, "x", gt=A), "x [100, 0, 200, 100]")
    assert values("rec", rows, overlap="giou", thresholds=(0.0, 0.1)) == pytest.approx(
        {
            "acc@0": 1.0,
            "acc@0.1": 0.0,
            "mean_giou": 0.0,
            "mean_giou_read": 0.0,
            "parse_rate": 1.0,
            "boxes_per_answer": 1.0,
            "words_per_answer": 1.0,
        }
    )


@pytest.mark.parametrize(
    ("answer", "inside", "problems"),
    [
        ('<point x="10" y="10">x</point>', 1.0, ("points_only",)),  # on the corner
        ('<point x="10.1" y="1">x</point>', 0.0, ("points_only",)),
        ('<points x1="5" y1="5" x2="90" y2="90">x</points>', 1.0, ("points_only",)),  # the first counts
        ("There are none.", 0.0, ("absent_marker", "no_box")),
        ("x", 0.0, ("no_box",)),
    ],
)
def test_points_count_on_request_alone(answer: str, inside: float, problems: tuple[str, ...]) -> None:
    item = Item("1", "v", "a", 1000, 1000, "x", gt=A)
    rows = PROTOCOLS["rec"].judge(item, Answer(answer), "rec", get_dialect("molmo"))
    assert rows[0].problems == problems
    assert not rows[0].boxes
    assert not {"point_in_box", "point_rate"} & set(values("rec", rows))
    found = values("rec", rows, points=True)
    pointed = float(bool(rows[0].points))
    assert (found["point_in_box"], found["point_rate"], found["acc@0.5"]) == (inside, pointed, 0.0)
    rec = PROTOCOLS["rec"]
    assert measure(rows, rec, rec.options(), 20, 0)["unparsed"] == 1
    assert measure(rows, rec, rec.options(points=True), 20, 0)["unparsed"] == 1 - pointed


@pytest.mark.parametrize(("protocol", "options"), [("rec", {}), ("phrase_grounding", {})])
def test_a_benchmark_of_boxes_refuses_a_dialect_of_points(protocol: str, options: dict[str, object]) -> None:
    benchmark = BenchmarkConfig("b", protocol, "refer", "nowhere", options=options)
    with pytest.raises(ConfigError, match=r"\[b\]: found the dialect molmo, which writes points only"):
        prepare(benchmark, None, get_dialect("molmo"))


@pytest.mark.parametrize(
    ("written", "iou"),
    [
        ("[100, 100, 0, 0]", 1.0),  # reversed in both axes
        ("[100, 0, 0, 100]", 1.0),  # in one
        ("[0, 0, 0, 0]", 0.0),  # a point: parsed, overlaps nothing
        ("[0, 0, 100, 100] [0, 0, 100, 100]", 1.0),  # a duplicate
        ("[0, 0, 100, 100, 100]", None),  # five numbers are no box
        ("[0, 0, 100, x]", None),
    ],
)
def test_odd_boxes(written: str, iou: float | None) -> None:
    row = judged("rec", Item("1", "v", "a", 1000, 1000, "x", gt=A), f"x {written}")[0]
    assert row.iou == iou or (iou is not None and row.iou is not None and math.isclose(row.iou, iou))
    assert (row.box is None) is (iou is None)
