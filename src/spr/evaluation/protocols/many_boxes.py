"""One expression, any number of boxes, possibly none (HumanRef, gRefCOCO).

Per item at threshold t: recall = matched / true, precision = matched / written, DensityF1 = F1 * min(1, true
/ written); averaged over items [HumanRef's recall_precision_densityf1.py: its density ratios are both over
the persons in the image, which cancel]. Matching goes through the true boxes in their order; each takes the
free written box it overlaps most, IoU >= t [same]. An answer without a readable box has 0 for all three.
`…@0.5:0.95` is the mean over ten thresholds; the official code walks np.arange(0.5, 1, 0.05), whose
0.6000000000000001 fails an IoU of 0.6; ours are literal numbers. Items without any true box are apart:
`rejected` is the share of them that got a readable answer without boxes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from spr.boxes import iou_matrix, sanitize
from spr.evaluation.protocols.base import Protocol, column, frame_of, judge, length_columns, names_no_place
from spr.evaluation.protocols.rec import SWEEP
from spr.evaluation.statistics import Floats, Metric, Table, over
from spr.types import Prediction


@dataclass(frozen=True, slots=True)
class ManyOptions:
    """Where a box counts as found."""

    thresholds: tuple[float, ...] = (0.5,)
    sweep: bool = True


def matched_in_order(true: ArrayLike, written: ArrayLike, threshold: float) -> int:
    """How many true boxes, in their order, find a free written box with IoU >= threshold (each takes the
    best; ties the first).
    """
    overlap = iou_matrix(true, written)
    free = list(range(overlap.shape[1]))
    found = 0
    for row in overlap:
        reached = [j for j in free if row[j] >= threshold]
        if reached:
            free.remove(max(reached, key=lambda j: float(row[j])))
            found += 1
    return found


def density_f1(matched: int, written: int, true: int) -> float:
    """F1 * min(1, true / written); 0 when nothing matches."""
    if matched == 0:
        return 0.0
    return 2 * matched / (written + true) * min(1.0, true / written)


def _item(row: Prediction, threshold: float) -> tuple[float, float, float]:
    """(recall, precision, DensityF1) of a row that has true boxes."""
    if not row.boxes:
        return 0.0, 0.0, 0.0
    frame = frame_of(row)
    matched = matched_in_order(sanitize(row.gt_boxes, frame), sanitize(row.boxes, frame), threshold)
    return (
        matched / len(row.gt_boxes),
        matched / len(row.boxes),
        density_f1(matched, len(row.boxes), len(row.gt_boxes)),
    )


_NAMES = ("recall", "precision", "density_f1")


def _columns(rows: Sequence[Prediction], thresholds: Sequence[float], suffix: str) -> dict[str, Floats]:
    """Each of the three, averaged over the thresholds; 0 for items without true boxes, which the denominators
    leave out.
    """
    values = np.array(
        [[_item(r, t) if r.gt_boxes else (0.0, 0.0, 0.0) for t in thresholds] for r in rows]
    ).reshape(len(rows), len(thresholds), 3)
    mean = values.mean(axis=1)
    return {f"{name}@{suffix}": mean[:, k] for k, name in enumerate(_NAMES)}


def tabulate(rows: Sequence[Prediction], options: ManyOptions) -> Table:
    """Columns and metrics of expressions with any number of boxes."""
    columns = {
        **length_columns(rows),
        "present": column([bool(r.gt_boxes) for r in rows]),
        "absent": column([not r.gt_boxes for r in rows]),
    }
    metrics: dict[str, Metric] = {}
    right = {}
    ladders = {f"{t:g}": (t,) for t in options.thresholds} | ({"0.5:0.95": SWEEP} if options.sweep else {})
    for suffix, thresholds in ladders.items():
        columns |= _columns(rows, thresholds, suffix)
        metrics |= {f"{name}@{suffix}": over(f"{name}@{suffix}", "present") for name in _NAMES}
    for t in options.thresholds:
        right[f"density_f1@{t:g}"] = columns[f"density_f1@{t:g}"] >= 1.0
    refused = np.array([not r.gt_boxes and names_no_place(r) for r in rows], dtype=bool)
    right["rejected"] = refused
    columns["rejected"] = refused.astype(np.float64)
    metrics |= {
        "rejected": over("rejected", "absent"),
        "boxes_per_answer": over("boxes", "n"),
        "words_per_answer": over("words", "n"),
    }
    return Table(columns, metrics, right)


MANY_BOXES = Protocol(
    name="many_boxes",
    prompt="rec",
    default_prompt="Give the bounding box of each object that fits: {expression}",
    max_new_tokens=512,  # ours
    options=ManyOptions,
    tabulate=tabulate,
    needs=("expression",),
    is_read=lambda row: bool(row.boxes) or (not row.gt_boxes and names_no_place(row)),
    judge=judge,
)
