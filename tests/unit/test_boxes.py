"""Box maths against numbers worked out on paper."""

from __future__ import annotations

import numpy as np
import pytest

from spr.boxes import (
    as_boxes,
    enclosing,
    from_cxcywh_unit,
    from_xywh,
    from_xyxy_unit,
    gap,
    giou_matrix,
    inside,
    iou,
    iou_matrix,
    match,
    nms,
    sanitize,
    to_cxcywh_unit,
    to_xywh,
)
from spr.types import Frame


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ((0, 0, 10, 10), (0, 0, 10, 10), 1.0),  # itself
        ((0, 0, 10, 10), (5, 0, 15, 10), 50 / 150),  # half overlap: 50 of 100 + 100 - 50
        ((0, 0, 10, 10), (10, 0, 20, 10), 0.0),  # touching sides share no area: half-open boxes
        ((0, 0, 10, 10), (2, 2, 4, 4), 4 / 100),  # contained
        ((3, 3, 3, 3), (3, 3, 3, 3), 0.0),  # a union of no area is 0, not nan
        ((10, 10, 0, 0), (0, 0, 10, 10), 0.0),  # reversed boxes are not sorted here: they have no area
    ],
)
def test_iou(a: tuple[float, ...], b: tuple[float, ...], expected: float) -> None:
    assert iou(a, b) == pytest.approx(expected, abs=1e-15)


def test_iou_matrix_shape_and_empty() -> None:
    """Empty input gives an empty matrix, so that callers need no special case."""
    assert iou_matrix([], [(0, 0, 1, 1)]).shape == (0, 1)
    assert iou_matrix([(0, 0, 1, 1)] * 3, [(0, 0, 1, 1)] * 2).shape == (3, 2)


def test_giou_of_boxes_apart() -> None:
    """Two 10x10 boxes with a gap of 10: hull 300, union 200, IoU 0 -> -(300 - 200) / 300."""
    assert giou_matrix([(0, 0, 10, 10)], [(20, 0, 30, 10)])[0, 0] == pytest.approx(-1 / 3)


@pytest.mark.parametrize(
    "bad", [[(1, 2, 3)], [[[1, 2, 3, 4]]], [(0, 0, float("nan"), 1)], [(0, 0, float("inf"), 1)]]
)
def test_what_is_not_boxes_is_refused(bad: object) -> None:
    with pytest.raises(ValueError, match="boxes: found"):
        as_boxes(bad)


def test_sanitize_sorts_then_clips_and_keeps_order() -> None:
    """The one place that repairs boxes, for metrics: same length, degenerate ones stay."""
    boxes = sanitize([(30, 40, 10, 20), (-5, -5, 700, 500), (650, 10, 700, 20)], Frame(640, 480))
    assert boxes.tolist() == [[10, 20, 30, 40], [0, 0, 640, 480], [640, 10, 640, 20]]


def test_gap_is_zero_when_touching_and_diagonal_otherwise() -> None:
    """3 right and 4 down of the corner: distance 5."""
    assert gap([(0, 0, 10, 10)], [(10, 0, 20, 10), (13, 14, 20, 20)])[0].tolist() == [0.0, 5.0]


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((0, 0, 4, 4), True),  # centre inside
        ((8, 0, 13, 4), False),  # centre at 10.5 outside, 40 % of its area inside
        ((8, 0, 12, 4), True),  # exactly half of its area, centre on the border
        ((-20, -20, 30, 30), True),  # larger than the region, centre inside
        ((20, 20, 20, 20), False),  # empty and outside
    ],
)
def test_inside(box: tuple[float, ...], expected: bool) -> None:
    assert bool(inside([box], (0, 0, 10, 10))[0]) is expected


def test_match_is_one_to_one_best_first() -> None:
    """Both predictions overlap the first reference; the better takes it, the other must take its second best
    or none.
    """
    a = [(0, 0, 10, 10), (0, 0, 10, 9)]
    b = [(0, 0, 10, 10)]
    assert match(a, b, 0.5) == [(0, 0)]
    assert match(a, [*b, (0, 0, 10, 8)], 0.5) == [(0, 0), (1, 1)]


def test_match_ties_go_to_the_lower_index() -> None:
    assert match([(0, 0, 1, 1)] * 2, [(0, 0, 1, 1)], 0.5) == [(0, 0)]


def test_nms_keeps_the_best_of_each_heap() -> None:
    """IoU of the first two is 90/110 > 0.7; the third stands alone."""
    assert nms([(0, 0, 10, 10), (0, 1, 10, 11), (50, 50, 60, 60)], [0.5, 0.9, 0.1], 0.7) == [1, 2]


def test_conversions_round_trip() -> None:
    frame = Frame(640, 480)
    boxes = np.array([[10.0, 20.0, 110.0, 220.0]])
    assert to_xywh(boxes).tolist() == [[10, 20, 100, 200]]
    assert from_xywh(to_xywh(boxes)).tolist() == boxes.tolist()
    assert from_xyxy_unit([[0.5, 0.5, 1, 1]], frame).tolist() == [[320, 240, 640, 480]]
    assert from_cxcywh_unit(to_cxcywh_unit(boxes, frame), frame) == pytest.approx(boxes)


def test_enclosing() -> None:
    assert enclosing([(0, 5, 2, 6), (1, 1, 9, 2)]) == (0, 1, 9, 6)
    with pytest.raises(ValueError, match="at least one"):
        enclosing([])
