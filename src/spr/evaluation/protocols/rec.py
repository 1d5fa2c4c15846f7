"""REC: the box of a referring expression. Acc@t = share of items whose box reaches IoU t; an answer without a
readable box is wrong.

First box of the answer, IoU >= t [Ferret, Qwen-VL, InternVL, Kosmos-2, lmms-eval, VLMEvalKit]. Options:
strict > [Shikra, Ref-L4]; GIoU [MDETR on RefExp]; the best of all boxes named, which uses the truth and is
therefore an upper bound and named so; `sweep` adds mAcc over 0.50, 0.55 … 0.95 [Ref-L4]; `points` adds
point_in_box, the share of items whose first point lies in the true box, its sides included.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from spr.boxes import giou_matrix, iou_matrix, sanitize
from spr.evaluation.metrics import THRESHOLDS, Comparison, hits, paired_ious
from spr.evaluation.protocols.base import Protocol, column, frame_of, has_box, judge, length_columns
from spr.evaluation.statistics import Metric, Table, over
from spr.types import Prediction

SWEEP = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)  # Ref-L4, as literal numbers


@dataclass(frozen=True, slots=True)
class RecOptions:
    """How boxes count."""

    thresholds: tuple[float, ...] = THRESHOLDS
    comparison: Comparison = ">="
    overlap: Literal["iou", "giou"] = "iou"
    box: Literal["first", "best"] = "first"  # "best" is an upper bound: it looks at the truth
    sweep: bool = False  # mAcc of Ref-L4
    points: bool = False  # point_in_box, for models that point: it says nothing about boxes


def overlaps(row: Prediction, options: RecOptions) -> float | None:
    """The overlap that counts for a row, or None when no box was read."""
    if row.gt is None or not row.boxes:
        return None
    boxes = sanitize(row.boxes if options.box == "best" else row.boxes[:1], frame_of(row))
    truth = sanitize([row.gt], frame_of(row))
    matrix = iou_matrix(truth, boxes) if options.overlap == "iou" else giou_matrix(truth, boxes)
    return float(matrix.max())


def points_into(row: Prediction) -> bool:
    """Whether the first point of a row lies in the true box."""
    if row.gt is None or not row.points:
        return False
    x, y = row.points[0]
    x1, y1, x2, y2 = sanitize([row.gt], frame_of(row))[0]
    return bool(x1 <= x <= x2 and y1 <= y <= y2)


def all_overlaps(rows: Sequence[Prediction], options: RecOptions) -> list[float | None]:
    """`overlaps` of every row; the common way of counting is done for all at once."""
    if (options.overlap, options.box) != ("iou", "first"):
        return [overlaps(r, options) for r in rows]
    chosen = [(k, r.gt, r.boxes[0], frame_of(r)) for k, r in enumerate(rows) if r.gt is not None and r.boxes]
    found = paired_ious(
        [c[1] for c in chosen], [c[2] for c in chosen], [(c[3].width, c[3].height) for c in chosen]
    )
    values: list[float | None] = [None] * len(rows)
    for (k, *_), value in zip(chosen, found.tolist(), strict=True):
        values[k] = value
    return values


def tabulate(rows: Sequence[Prediction], options: RecOptions) -> Table:
    """Columns and metrics of REC."""
    values = all_overlaps(rows, options)
    columns = {
        **length_columns(rows),
        "read": column([v is not None for v in values]),
        "iou": column([v if v is not None else 0.0 for v in values]),
    }
    metrics: dict[str, Metric] = {}
    right = {}
    prefix = "acc" if options.box == "first" else "upper_bound_acc"
    for t in options.thresholds:
        name = f"{prefix}@{t:g}"
        right[name] = hits(values, t, options.comparison)
        columns[name] = right[name].astype(np.float64)
        metrics[name] = over(name, "n")
    if options.sweep:
        columns["sweep"] = (
            np.mean([hits(values, t, options.comparison) for t in SWEEP], axis=0) if rows else np.zeros(0)
        )
        metrics["macc"] = over("sweep", "n")
    if options.points:
        right["point_in_box"] = np.array([points_into(r) for r in rows], dtype=bool)
        columns["point_in_box"] = right["point_in_box"].astype(np.float64)
        columns["pointed"] = column([bool(r.points) for r in rows])
        metrics["point_in_box"] = over("point_in_box", "n")
        metrics["point_rate"] = over("pointed", "n")
    metrics[f"mean_{options.overlap}"] = over("iou", "n")
    metrics[f"mean_{options.overlap}_read"] = over("iou", "read")
    metrics["parse_rate"] = over("read", "n")
    metrics["boxes_per_answer"] = over("boxes", "n")
    metrics["words_per_answer"] = over("words", "n")
    return Table(columns, metrics, right)


REC = Protocol(
    name="rec",
    prompt="rec",
    default_prompt="Give the bounding box of this object: {expression}",
    max_new_tokens=128,  # ours
    options=RecOptions,
    tabulate=tabulate,
    needs=("expression", "gt"),
    is_read=has_box,
    judge=judge,
)
