"""Box metrics against slow references written from the formulas, on arbitrary boxes; laws that hold for every
answer.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spr.boxes import match, sanitize
from spr.dialects import get_dialect
from spr.evaluation.items import Item
from spr.evaluation.metrics import accuracy_at_iou
from spr.evaluation.protocols import PROTOCOLS
from spr.evaluation.protocols.many_boxes import density_f1, matched_in_order
from spr.evaluation.ptb import caption_tokens
from spr.evaluation.results import measure
from spr.types import Answer, Box, Frame, Prediction

NUMBER = st.integers(-50, 250).map(float)
BOX = st.tuples(NUMBER, NUMBER, NUMBER, NUMBER)
FRAME = Frame(200, 160)
THRESHOLD = st.sampled_from([0.1, 0.3, 0.5, 0.7, 0.9])


def slow_iou(a: Box, b: Box, frame: Frame) -> float:
    """Counted with scalars: sort, clip, intersect; areas without "+1"; an empty union overlaps by 0."""

    def clean(box: Box) -> tuple[float, float, float, float]:
        x1, x2 = sorted((box[0], box[2]))
        y1, y2 = sorted((box[1], box[3]))
        return (
            min(max(x1, 0), frame.width),
            min(max(y1, 0), frame.height),
            min(max(x2, 0), frame.width),
            min(max(y2, 0), frame.height),
        )

    p, q = clean(a), clean(b)
    inter = max(0.0, min(p[2], q[2]) - max(p[0], q[0])) * max(0.0, min(p[3], q[3]) - max(p[1], q[1]))
    union = (p[2] - p[0]) * (p[3] - p[1]) + (q[2] - q[0]) * (q[3] - q[1]) - inter
    return inter / union if union > 0 else 0.0


def row(gt: Box, boxes: tuple[Box, ...], number: int = 0) -> Prediction:
    box = boxes[0] if boxes else None
    iou = slow_iou(gt, box, FRAME) if box else None
    return Prediction(
        str(number),
        "rec",
        "",
        str(number),
        "x",
        gt,
        "x",
        box,
        iou,
        (),
        FRAME.width,
        FRAME.height,
        boxes=boxes,
    )


@given(st.lists(st.tuples(BOX, st.lists(BOX, max_size=3).map(tuple)), min_size=1, max_size=8), THRESHOLD)
def test_rec_equals_the_formula(items: list[tuple[Box, tuple[Box, ...]]], threshold: float) -> None:
    rows = [row(gt, boxes, k) for k, (gt, boxes) in enumerate(items)]
    p = PROTOCOLS["rec"]
    found = measure(rows, p, p.options(thresholds=(threshold,)), 5, 0)["values"]
    first = [slow_iou(gt, boxes[0], FRAME) if boxes else None for gt, boxes in items]
    assert found[f"acc@{threshold:g}"]["value"] == sum(v is not None and v >= threshold for v in first) / len(
        first
    )
    assert found["mean_iou"]["value"] == pytest.approx(sum(v or 0 for v in first) / len(first))
    assert (
        accuracy_at_iou([r.iou for r in rows], [threshold])[threshold] == found[f"acc@{threshold:g}"]["value"]
    ), "the column iou says the same"


@given(st.lists(BOX, max_size=4), st.lists(BOX, max_size=4), THRESHOLD)
def test_matching_is_one_to_one_and_within_the_best_possible(
    true: list[Box], written: list[Box], threshold: float
) -> None:
    """No way of matching finds more than the best over all permutations, and greedy ones find at least half
    of it.
    """
    t, w = sanitize(true, FRAME), sanitize(written, FRAME)
    pairs = [[slow_iou(a, b, FRAME) >= threshold for b in written] for a in true]
    small, large = sorted((len(true), len(written)))
    best = 0
    for chosen in itertools.permutations(range(large), small):
        hits = sum(pairs[i][j] if len(true) <= len(written) else pairs[j][i] for i, j in enumerate(chosen))
        best = max(best, hits)
    for matched in (len(match(t, w, threshold)), matched_in_order(t, w, threshold)):
        assert best / 2 <= matched <= best


@given(st.integers(0, 6), st.integers(0, 6), st.integers(1, 6))
def test_density_f1_never_exceeds_f1(matched: int, written: int, true: int) -> None:
    matched = min(matched, written, true)
    f1 = 2 * matched / (written + true) if matched else 0.0
    assert 0 <= density_f1(matched, written, true) <= f1 + 1e-12


@given(st.lists(st.floats(0, 1) | st.none(), max_size=20))
def test_accuracy_falls_with_the_threshold(ious: list[float | None]) -> None:
    found = [v for v in accuracy_at_iou(ious).values() if v is not None]
    assert found == sorted(found, reverse=True)
    assert all(0 <= v <= 1 for v in found)


@given(st.text(max_size=80), st.sampled_from(sorted(PROTOCOLS)))
def test_no_answer_breaks_a_protocol(answer: str, name: str) -> None:
    """Whatever a model says is judged and measured, and what was not read is counted."""
    from spr.evaluation.items import PhraseTruth

    item = Item(
        "1", "s", "a", 100, 100, "a dog", (0, 0, 50, 50), (0, 0, 10, 10), ((0, 0, 10, 10), ), ("yes", ), "g",
        ("a", "b"), (PhraseTruth("a dog", ((0, 0, 9, 9), )), )
    )  # fmt: skip
    p = PROTOCOLS[name]
    rows = p.judge(item, Answer(answer), name, get_dialect("ferret"))
    found = measure(rows, p, p.options(), 5, 0)
    assert found["n"] == 1
    assert found["unparsed"] == int(not p.is_read(rows[0]))
    assert all(v["value"] is None or np.isfinite(v["value"]) for v in found["values"].values())


@given(st.text(max_size=120))
def test_tokens_of_any_text(text: str) -> None:
    """Never endless, never blank, always lower case."""
    tokens = caption_tokens(text)
    assert all(t and not t.isspace() for t in tokens)
