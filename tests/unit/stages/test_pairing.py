"""Refinement and pairing against cases worked out by hand (method 2.5)."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spr.boxes import iou
from spr.dialects import get_dialect
from spr.stages.pairing import (
    PairConfig,
    choose_pair,
    difference,
    differences,
    make_pairs,
    refine,
    with_lambda,
)
from spr.types import Box, Candidate, Dropped, Frame, Pair, Region, RegionObject, Score, ScoredCandidate

FRAME = Frame(1000, 1000)
FERRET = get_dialect("ferret")
QWEN = get_dialect("qwen3_vl")
A: Box = (0.0, 0.0, 100.0, 100.0)
B: Box = (300.0, 300.0, 400.0, 400.0)


@pytest.mark.parametrize(
    ("text", "unmatched", "expected", "why"),
    [
        ("a cat [0, 0, 100, 80].", "unbox", "a cat [0, 0, 100, 100].", "IoU 0.8: becomes the reference"),
        ("a cat [0, 0, 100, 50].", "unbox", "a cat [0, 0, 100, 100].", "IoU exactly 0.5 counts"),
        ("a cat [0, 0, 100, 49].", "unbox", "a cat.", "IoU 0.49: the box goes, the phrase stays"),
        ("a cat [0, 0, 100, 49].", "keep", "a cat [0, 0, 100, 49].", "option keep"),
        (
            "a cat [0, 0, 100, 80], a dog [600, 600, 700, 700].",
            "drop_clause",
            "a cat [0, 0, 100, 100].",
            "option drop_clause: from the box before",
        ),
        (
            "I see. A dog [600, 600, 700, 700].",
            "drop_clause",
            "I see.",
            "drop_clause: from the sign before, which goes along",
        ),
        (
            "a dog [600, 600, 700, 700], a cat [0, 0, 100, 80].",
            "drop_clause",
            "a cat [0, 0, 100, 100].",
            "drop_clause: the first with the sign after",
        ),
        ("a dog [600, 600, 700, 700].", "drop_clause", ".", "drop_clause: nothing is left to say"),
        (
            "a cat [0, 0, 100, 70], a cat [0, 0, 100, 90].",
            "unbox",
            "a cat, a cat [0, 0, 100, 100].",
            "one-to-one, best IoU first",
        ),
        ("no box at all", "unbox", "no box at all", "nothing to do"),
    ],
)
def test_refine_by_hand(text: str, unmatched: str, expected: str, why: str) -> None:
    g = FERRET.parse(text, FRAME)
    refined = refine(g, [A, B], FERRET, FRAME, unmatched=unmatched)  # type: ignore[arg-type]
    assert refined.text == expected, why


def test_a_json_notation_stays_json() -> None:
    text = '[{"bbox_2d": [0, 0, 100, 80], "label": "cat"}, {"bbox_2d": [600, 600, 700, 700], "label": "dog"}]'
    better = refine(QWEN.parse(text, FRAME), [A], QWEN, FRAME)
    assert better.text == '[{"bbox_2d": [0, 0, 100, 100], "label": "cat"}, {"label": "dog"}]'


def test_an_object_and_one_in_it_go_together_and_leave_json() -> None:
    """The box of an object and the object beside it are things of one row: else a comma would stay."""
    text = '{"bbox_2d": [0, 0, 9, 9], "wheel": {"bbox_2d": [600, 600, 700, 700]}, "id": 1}'
    better = refine(QWEN.parse(text, FRAME), [A, B], QWEN, FRAME, unmatched="drop_clause")
    assert better.text == '{"id": 1}'


coordinate = st.integers(0, 900)


@given(
    st.lists(
        st.tuples(coordinate, coordinate, st.integers(5, 99), st.integers(5, 99)), min_size=1, max_size=5
    )
)
def test_refined_boxes_are_references_up_to_the_rounding_of_the_notation(
    raw: list[tuple[int, int, int, int]],
) -> None:
    references: list[Box] = [(float(x), float(y), float(x + w), float(y + h)) for x, y, w, h in raw]
    text = " and ".join(f"thing [{x}, {y}, {x + w}, {y + int(h * 0.8) + 1}]" for x, y, w, h in raw)
    better = refine(FERRET.parse(text, FRAME), references, FERRET, FRAME)
    for mention in better.mentions:
        for box in mention.boxes:
            # at most half a unit off on each side of at least 5 pixels
            assert max(iou(box, r) for r in references) > 0.8
    again = refine(better, references, FERRET, FRAME)
    assert again.text == better.text  # refining what is refined changes nothing


def _score(value: float | None) -> Score:
    return Score(value, value, value, value, value, None if value is not None else "no_reference")


def _candidate(
    index: int, total: float | None, refined: float | None, text: str = "", refined_text: str = ""
) -> Candidate:
    return Candidate(
        index, text or f"text {index}", refined_text or f"better {index}", _score(total), _score(refined)
    )


def _row(index: int, total: float, refined: float, boxes: tuple[int, int] = (2, 2)) -> ScoredCandidate:
    return ScoredCandidate(
        f"r/{index}",
        "r",
        index,
        f"text {index}",
        _score(total),
        boxes[0],
        f"better {index}",
        _score(refined),
        boxes[1],
        (A,),
        1,
    )


def test_best_refined_against_worst_original() -> None:
    pair = choose_pair("r", [_candidate(0, 0.3, 0.4), _candidate(1, 0.1, 0.5), _candidate(2, 0.2, 0.9)])
    assert isinstance(pair, Pair)
    assert (pair.chosen, pair.rejected) == ("better 2", "text 1")


def test_the_same_candidate_may_be_both() -> None:
    """Its refinement can be the best although the original is the worst: that is what refinement is for."""
    pair = choose_pair("r", [_candidate(0, 0.1, 0.9), _candidate(1, 0.2, 0.3)])
    assert isinstance(pair, Pair)
    assert (pair.chosen_index, pair.rejected_index) == (0, 0)


def test_ties_go_to_the_lower_index_whatever_the_order_of_rows() -> None:
    rows = [_candidate(k, 0.2, 0.8) for k in range(4)]
    pair = choose_pair("r", list(reversed(rows)))
    assert isinstance(pair, Pair)
    assert (pair.chosen_index, pair.rejected_index) == (0, 0)


@pytest.mark.parametrize(
    ("rows", "reason", "why"),
    [
        ([], "too_few_scored", "no candidate"),
        ([_candidate(0, 0.1, 0.9)], "too_few_scored", "one candidate"),
        ([_candidate(0, 0.1, 0.9), _candidate(1, None, 0.9)], "too_few_scored", "only one has a score"),
        ([_candidate(0, 0.1, 0.9), _candidate(1, math.nan, 0.9)], "too_few_scored", "NaN is no score"),
        ([_candidate(0, 0.1, math.nan), _candidate(1, 0.2, math.inf)], "too_few_scored", "none refined"),
        (
            [_candidate(0, 0.5, 0.5, "same", "same"), _candidate(1, 0.6, 0.4)],
            "same_text",
            "chosen == rejected",
        ),
        ([_candidate(0, 0.50, 0.549), _candidate(1, 0.52, 0.53)], "small_margin", "gap 0.049 < 0.05"),
    ],
)
def test_no_pair_has_a_reason(rows: list[Candidate], reason: str, why: str) -> None:
    found = choose_pair("r", rows)
    assert isinstance(found, Dropped), why
    assert (found.item_id, found.reason) == ("r", reason), why


def test_a_gap_of_exactly_the_margin_is_enough() -> None:
    assert isinstance(
        choose_pair("r", [_candidate(0, 0.25, 0.5), _candidate(1, 0.5, 0.3)], min_margin=0.25), Pair
    )


def test_another_lambda_needs_the_components_only() -> None:
    score = Score(0.8 * 0.3 + 0.2 * 0.9, 0.3, 0.2, 0.4, 0.9)
    assert with_lambda(score, 0.5).total == pytest.approx(0.6)
    unscored = replace(score, total=None, unscored="no_reference")
    assert with_lambda(unscored, 0.5) == unscored


REGION = Region(
    "r", "img", "img", 1000, 1000, 0, (0.0, 0.0, 500.0, 500.0), "0", (RegionObject("0", "cat", A),)
)


def test_refinement_may_not_win_by_silence() -> None:
    """1 box against 4: less than half of the rejected answer's."""
    _, dropped = make_pairs(
        [(REGION, [_row(0, 0.1, 0.9, boxes=(4, 1)), _row(1, 0.2, 0.3, boxes=(4, 4))])], FERRET, PairConfig()
    )
    assert [(d.item_id, d.reason, d.detail) for d in dropped] == [("r", "boxes_lost", "chosen 1, rejected 4")]


def test_the_prompt_of_a_pair_is_the_canonical_question() -> None:
    """Whatever prompt produced a candidate, the policy learns to answer the plain question (method 2.2)."""
    pairs, dropped = make_pairs([(REGION, [_row(0, 0.1, 0.9), _row(1, 0.2, 0.3)])], FERRET, PairConfig())
    assert dropped == []
    assert (
        pairs[0].prompt
        == "Describe the objects in the region [0, 0, 500, 500] in detail, with their locations."
    )
    assert pairs[0].margin == pytest.approx(0.8)
    assert pairs[0].reference == (A,)
    none, lost = make_pairs([(REGION, [])], FERRET, PairConfig())
    assert none == []
    assert [(d.item_id, d.reason) for d in lost] == [("r", "too_few_scored")]


def test_other_chosen_answers_are_controls() -> None:
    """The best answer as it was written, and what an annotator would say; the rejected answer and the regions
    stay those of the method.
    """
    objects = (RegionObject("1", "owl", B), RegionObject("0", "cat", A))
    region = replace(REGION, objects=objects)
    rows = [_row(0, 0.1, 0.9), _row(1, 0.2, 0.3)]
    found = {
        kind: make_pairs([(region, rows)], FERRET, PairConfig(chosen=kind, min_margin=0.01))[0][0]
        for kind in ("refined", "original", "annotated")
    }
    assert found["refined"].chosen == rows[0].refined_text
    assert found["original"].chosen == rows[1].text  # the better of the originals
    assert found["original"].margin == pytest.approx(0.1)
    assert found["annotated"].chosen == "a cat [0, 0, 100, 100] and an owl [300, 300, 400, 400]."
    assert found["annotated"].chosen_score.unscored == "annotated"
    assert {p.rejected for p in found.values()} == {rows[0].text}
    assert {p.prompt for p in found.values()} == {found["refined"].prompt}


def test_difference_is_the_share_of_words_that_are_not_common() -> None:
    assert difference("a cat [1, 2, 3, 4]", "a cat [1, 2, 3, 4]") == 0
    assert difference("a cat", "the dog") == 1
    assert difference("a cat and a dog", "a cat") == pytest.approx(1 - 2 * 2 / 7)


@pytest.mark.parametrize(
    ("chosen", "rejected", "warns"),
    [
        ("a cat [0, 0, 100, 100].", "the grey cat [0, 0, 110, 90] on a mat.", ""),
        ("a cat [0, 0, 100, 100].", "a cat [5, 5, 90, 90].", "differ in coordinates only"),
        (" ".join("abcdefghijklmnopqrst"), " ".join("abcdefghijklmnopqrsu"), "nearly equal"),
    ],
)
def test_nearly_equal_answers_are_warned_of(chosen: str, rejected: str, warns: str) -> None:
    """Such pairs destroyed a model under plain DPO (method 2.5)."""
    pairs, _ = make_pairs([(REGION, [_row(0, 0.1, 0.9), _row(1, 0.2, 0.3)])], FERRET, PairConfig())
    found = differences([replace(pairs[0], chosen=chosen, rejected=rejected)], FERRET)
    assert 0 < found.figures["differing_words"] < 1
    assert warns in "".join(found.warnings)
    assert bool(found.warnings) == bool(warns)
    assert differences([], FERRET).figures == {}
