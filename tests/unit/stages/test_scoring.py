"""S_loc, S_sem and their combination against numbers worked out by hand (method 2.3-2.5)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from spr.dialects import get_dialect
from spr.errors import ConfigError, ImageError
from spr.stages.scoring import (
    References,
    ScoreConfig,
    combine,
    join_detections,
    localization_score,
    references_of,
    score,
    score_text,
    spreads,
)
from spr.types import Box, Description, Detection, Frame, Region, RegionObject, Score, ScoredCandidate

FRAME = Frame(1000, 1000)
FERRET = get_dialect("ferret")
A: Box = (0.0, 0.0, 100.0, 100.0)
B: Box = (300.0, 300.0, 400.0, 400.0)


@pytest.mark.parametrize(
    ("reference", "predicted", "expected", "why"),
    [
        ([A], [A], 1.0, "the same box"),
        ([A], [(0, 0, 100, 50)], 0.5, "exactly at the threshold counts: 5000 / 10000"),
        ([A], [(0, 0, 100, 49)], 0.0, "just below counts nothing, not 0.49"),
        ([A, B], [A], 0.5, "a missed object costs its share: (1 + 0) / 2"),
        ([A, B], [A, A, A], 0.5, "saying it again does not help"),
        ([A], [(0, 0, 100, 80), (0, 0, 100, 90)], 0.9, "the best box counts"),
        ([A, B], [(0, 0, 100, 80), (300, 300, 400, 360)], 0.7, "(0.8 + 0.6) / 2"),
        ([A], [], 0.0, "nothing said about something is a real zero"),
        ([A], [(100, 100, 0, 0)], 0.0, "a reversed box has no area (parsers sort before)"),
    ],
)
def test_localization_by_hand(reference: list[Box], predicted: list[Box], expected: float, why: str) -> None:
    assert localization_score(reference, predicted) == pytest.approx(expected), why


def test_no_reference_is_no_score() -> None:
    assert localization_score([], [A]) is None
    assert localization_score([], []) is None


def test_another_threshold() -> None:
    assert localization_score([A], [(0, 0, 100, 49)], iou_threshold=0.4) == pytest.approx(0.49)


@pytest.mark.parametrize("bad", [[(0, 0, math.nan, 1)], [(0, 0, math.inf, 1)], [(0, 0, 1)]])
def test_inputs_that_are_no_boxes_are_refused(bad: list[tuple[float, ...]]) -> None:
    with pytest.raises(ValueError, match="boxes: found"):
        localization_score([A], bad)


boxes = st.lists(
    st.tuples(st.integers(0, 80), st.integers(0, 80), st.integers(1, 20), st.integers(1, 20)).map(
        lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3])
    ),
    max_size=6,
)


@given(boxes, boxes)
def test_localization_is_a_share_and_grows_with_what_is_said(
    reference: list[Box], predicted: list[Box]
) -> None:
    value = localization_score(reference, predicted)
    if not reference:
        assert value is None
        return
    assert value is not None
    assert 0.0 <= value <= 1.0
    more = localization_score(reference, [*predicted, *reference])
    assert more == pytest.approx(1.0)


def test_combine() -> None:
    assert combine(0.3, 0.9) == pytest.approx(0.8 * 0.3 + 0.2 * 0.9)  # the paper's lambda
    assert combine(0.3, 0.9, 0.0) == pytest.approx(0.9)
    assert combine(None, 0.9) is None
    assert combine(0.3, None) is None
    with pytest.raises(ValueError, match=r"lam: found 1\.5"):
        combine(0.3, 0.9, 1.5)


def _region(*objects: Box) -> Region:
    named = tuple(RegionObject(str(k), "cat", b) for k, b in enumerate(objects))
    return Region("img#0", "img", "img", 1000, 1000, 0, (0.0, 0.0, 500.0, 500.0), "0", named)


def _found(box: Box, confidence: float = 0.9) -> Detection:
    return Detection(box, confidence, "dog")


@pytest.mark.parametrize(
    ("detections", "kept", "why"),
    [
        ([_found(B)], [B], "a new object of the region"),
        ([_found((0, 0, 100, 60))], [], "IoU 0.6 with an annotated box: that object, not a new one"),
        ([_found((0, 0, 100, 40))], [(0, 0, 100, 40)], "IoU 0.4: another object"),
        ([_found((600, 600, 700, 700))], [], "outside the region"),
        ([_found(B, 0.34)], [], "too unsure (0.35)"),
        (
            [_found((300, 300, 400, 395), 0.8), _found(B, 0.9)],
            [B],
            "two boxes on one object: the surer one (IoU 0.95 > 0.7)",
        ),
    ],
)
def test_detector_boxes_that_join_the_reference(
    detections: list[Detection], kept: list[Box], why: str
) -> None:
    assert join_detections([A], detections, (0.0, 0.0, 500.0, 500.0), ScoreConfig()) == kept, why


@pytest.mark.parametrize(
    ("side", "reference", "joins"),
    [("reference", (A, B), ()), ("prediction", (A,), (B,)), ("both", (A, B), (B,)), ("none", (A,), ())],
)
def test_on_which_side_the_detector_stands(
    side: str, reference: tuple[Box, ...], joins: tuple[Box, ...]
) -> None:
    """The paper's text and published notes disagree; every reading is an option."""
    found = references_of(_region(A), [_found(B)], ScoreConfig(detector_side=side))  # type: ignore[arg-type]
    assert found.boxes == reference
    assert found.joins_predictions == joins


@pytest.mark.parametrize(
    ("text", "references", "reason"),
    [
        ("a cat [0, 0, 100, 100]", References((), (), ()), "no_reference"),
        ("[0, 0, 100, 100]", References((A,), (), ()), "no_text"),
        ("a cat [0, 0, 100", References((A,), (), ()), "unparsed:truncated"),
    ],
)
def test_unscored_has_a_reason_and_no_number(text: str, references: References, reason: str) -> None:
    result = score_text(FERRET.parse(text, FRAME), references, (0.2, 0.4), ScoreConfig())
    assert result.total is None
    assert result.localization is None
    assert result.unscored == reason


def test_a_text_without_boxes_has_a_real_zero() -> None:
    result = score_text(
        FERRET.parse("a cat somewhere", FRAME), References((A,), (), ()), (0.2, 0.4), ScoreConfig()
    )
    assert result.localization == 0.0
    assert result.total == pytest.approx(0.8 * 0.3)


class _Scorer:
    """Cosines that depend on the text alone, so that expectations can be written down."""

    def __init__(self, cosines: Mapping[str, tuple[float, float]]) -> None:
        self.cosines = cosines
        self.asked: list[Sequence[str]] = []

    def similarities(
        self, image: str, regions: Sequence[Box], texts: Sequence[str], pairs: Sequence[tuple[int, int]]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        self.asked.append(texts)
        found = [self.cosines[texts[t]] for _, t in pairs]
        return np.array([c for c, _ in found]), np.array([s for _, s in found])


class _Detector:
    def __init__(self, found: Mapping[str, Sequence[Detection]]) -> None:
        self.found = found
        self.asked: list[str] = []

    def detect(self, image: str, phrases: Sequence[str]) -> list[list[Detection]]:
        self.asked += phrases
        return [list(self.found.get(p, [])) for p in phrases]


def _candidate(index: int, text: str) -> Description:
    return Description(f"img#0/{index}", "img#0", index, "plain", "?", text)


def test_one_region_from_texts_to_scores() -> None:
    """Two candidates share G: the annotated box and what the detector finds for the phrases of both."""
    texts = ["a cat [0, 0, 100, 80] and a dog [300, 300, 400, 360].", "a cat [0, 0, 100, 100]."]
    scorer = _Scorer({"a cat and a dog.": (0.2, 0.4), "a cat.": (0.1, 0.3)})
    detector = _Detector({"a dog": [_found(B)]})
    items = [(_region(A), [_candidate(k, t) for k, t in enumerate(texts)])]
    rows, dropped = score(items, FERRET, scorer, detector, ScoreConfig())
    assert dropped == []
    assert sorted(detector.asked) == ["a cat", "a dog"]  # each phrase once
    # one call: both texts, and refinements with the same words are not encoded again
    assert len(scorer.asked) == 1
    first, second = rows
    assert first.reference == (A, B)
    assert first.reference_annotated == 1
    assert first.score.localization == pytest.approx((0.8 + 0.6) / 2, abs=2e-3)
    assert second.score.localization == pytest.approx((1.0 + 0.0) / 2, abs=2e-3)
    assert first.score.semantic == pytest.approx(0.3)
    assert first.score.total == pytest.approx(0.8 * 0.3 + 0.2 * 0.7, abs=1e-3)
    # both boxes become their references
    assert first.refined_score.localization == pytest.approx(1.0, abs=2e-3)
    assert first.refined_text == "a cat [0, 0, 100, 100] and a dog [300, 300, 400, 400]."


def test_one_reference_per_candidate_is_an_option() -> None:
    texts = ["a cat [0, 0, 100, 100].", "a dog [300, 300, 400, 400]."]
    items = [(_region(A), [_candidate(k, t) for k, t in enumerate(texts)])]
    scorer = _Scorer({"a cat.": (0.1, 0.1), "a dog.": (0.1, 0.1)})
    rows, _ = score(
        items, FERRET, scorer, _Detector({"a dog": [_found(B)]}), ScoreConfig(g_scope="candidate")
    )
    assert [r.reference for r in rows] == [(A,), (A, B)]


def test_without_annotations_the_detector_gives_all_references() -> None:
    found = references_of(
        _region(A), [_found(B), _found((0.0, 0.0, 100.0, 60.0))], ScoreConfig(annotated=False)
    )
    assert found.annotated == ()
    assert found.boxes == (B, (0.0, 0.0, 100.0, 60.0))  # nothing annotated that the second could be


def test_what_needs_a_detector_says_so() -> None:
    with pytest.raises(ConfigError, match="expected a detector that is used"):
        ScoreConfig(detector_side="none", annotated=False)


def test_without_a_semantic_model_the_row_stays_and_says_why() -> None:
    items = [(_region(A), [_candidate(0, "a cat [0, 0, 100, 100].")])]
    rows, dropped = score(items, FERRET, None, None, ScoreConfig())
    assert rows[0].score.unscored == "no_semantic_score"
    assert [(d.item_id, d.reason, d.detail) for d in dropped] == [("img#0/0", "no_semantic_score", "")]


class _Fails:
    """A scorer or a detector that fails on its first picture."""

    def __init__(self, error: Exception) -> None:
        self.error, self.asked = error, 0

    def fail(self) -> None:
        self.asked += 1
        if self.asked == 1:
            raise self.error

    def similarities(
        self, image: str, regions: Sequence[Box], texts: Sequence[str], pairs: Sequence[tuple[int, int]]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        self.fail()
        return np.full(len(pairs), 0.2), np.full(len(pairs), 0.4)

    def detect(self, image: str, phrases: Sequence[str]) -> list[list[Detection]]:
        self.fail()
        return [[] for _ in phrases]


@pytest.mark.parametrize("which", ["scorer", "detector"])
@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ImageError("a.jpg", "truncated_image", "broken"), "truncated_image"),
        (OSError("gone"), "image"),
        (ValueError("absolute aspect ratio must be smaller than 200"), "image_not_shown"),
        (MemoryError("20 GiB"), "out_of_memory"),
    ],
)
def test_a_picture_that_a_model_cannot_have_leaves_its_candidates_unscored(
    which: str, error: Exception, reason: str
) -> None:
    """It ended the stage. The next picture is scored as ever."""
    sick, well = _Fails(error), _Fails(error)
    well.asked = 1
    texts = ["a cat [0, 0, 100, 100].", "a cat [0, 0, 90, 100]."]
    candidates = [_candidate(k, t) for k, t in enumerate(texts)]
    items = [(_region(A), candidates), (replace(_region(A), image="other.jpg"), candidates)]
    scorer, detector = (sick, well) if which == "scorer" else (well, sick)
    rows, dropped = score(items, FERRET, scorer, detector, ScoreConfig())
    assert [row.score.total is None for row in rows] == [True, True, False, False]
    assert [row.text for row in rows] == texts * 2
    assert [d.reason for d in dropped] == [reason] * 2


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_score_that_is_no_number_is_no_score(value: float) -> None:
    """NaN made pairs: it is less than no margin."""
    items = [(_region(A), [_candidate(0, "a cat [0, 0, 100, 100].")])]
    rows, dropped = score(items, FERRET, _Scorer({"a cat.": (value, 0.3)}), None, ScoreConfig())
    assert rows[0].score == Score(None, None, None, None, None, "semantic_not_a_number")
    broken = Detection((0.0, 0.0, value, 10.0), 0.9, "a cat")
    for found in (broken, Detection((0.0, 0.0, 10.0, 10.0), value, "a cat")):
        detector = _Detector({"a cat": [found]})
        rows, dropped = score(items, FERRET, _Scorer({"a cat.": (0.2, 0.3)}), detector, ScoreConfig())
        assert [d.reason for d in dropped] == ["detector_not_a_number"]


def _scored(region: str, index: int, semantic: float | None, localization: float | None) -> ScoredCandidate:
    value = Score(
        None, semantic, semantic, semantic, localization, None if localization is not None else "no_reference"
    )
    return ScoredCandidate(f"{region}/{index}", region, index, "", value, 0, "", value, 0, (), 0)


def test_spreads_are_those_within_a_region() -> None:
    """Regions that differ from each other, candidates that do not: no spread. Unscored candidates take no
    part.
    """
    rows = [
        _scored("a", 0, 0.2, 0.5),
        _scored("a", 1, 0.4, 0.7),
        _scored("b", 0, 0.9, 0.1),
        _scored("b", 1, 0.7, 0.3),
        _scored("c", 0, 0.1, None),
    ]
    found = spreads(rows)
    assert found.figures == pytest.approx({"spread_semantic": 0.1, "spread_localization": 0.1})
    assert found.warnings == ()
    assert spreads([]).figures == {}


@pytest.mark.parametrize(
    ("semantic", "localization", "lam", "warns"),
    [
        (0.02, 0.2, 0.8, ""),  # a real CLIP: hundredths against tenths
        (0.2, 0.02, 0.8, "semantic score decides nearly alone"),
        (0.001, 0.2, 0.8, "localisation score decides nearly alone"),
        (0.2, 0.02, 1.0, ""),  # asked for
        (0.0, 0.0, 0.8, ""),
    ],
)
def test_a_part_that_decides_alone_is_warned_of(
    semantic: float, localization: float, lam: float, warns: str
) -> None:
    found = spreads([_scored("a", 0, 0.0, 0.0), _scored("a", 1, semantic, localization)], lam)
    assert warns in "".join(found.warnings)
    assert bool(found.warnings) == bool(warns)
