"""Grounded region description (what SPR trains): how many of a region's objects an answer finds, how tightly,
and how much it says.

Per answer, boxes are matched one-to-one with the region's objects, best IoU first, IoU >= t; a second box on
the same object is a false positive. precision, recall and F1 sum matched, written and true boxes over all
regions (micro); an answer without a readable box finds nothing and is counted as unparsed. `box_precision`,
`box_recall`, `box_f1` look at boxes alone; `precision`, `recall`, `f1` match only boxes whose phrase is that
of the object, without regard to case (absent where the benchmark gives no phrases). `named_recall` wants the
phrase of the matched box to name the object's category. `matched_iou` is the mean IoU of boxes
matched at the first threshold. `localization` is the mean S_loc of the training reward (method 2.4). Boxes,
words and named objects per answer stand beside them, because precision alone can be won by silence
(corrections to the method: S_loc has no precision term).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from spr.boxes import Boxes, inside, iou_matrix, match, sanitize
from spr.evaluation.metrics import THRESHOLDS, names, words
from spr.evaluation.protocols.base import Protocol, column, frame_of, has_box, judge, length_columns
from spr.evaluation.rows import DescriptionRow
from spr.evaluation.statistics import Floats, Metric, Sums, Table, divide, over
from spr.stages.scoring import localization_score
from spr.types import Prediction


@dataclass(frozen=True, slots=True)
class RegionOptions:
    """Where a box counts as found."""

    thresholds: tuple[float, ...] = THRESHOLDS


def _boxes(row: Prediction) -> tuple[Boxes, Boxes]:
    """(true, predicted) boxes of a row, sorted and clipped."""
    frame = frame_of(row)
    return sanitize(row.gt_boxes, frame), sanitize(row.boxes, frame)


def _named(row: Prediction, pairs: Sequence[tuple[int, int]]) -> int:
    """How many matched boxes carry a phrase that names their object's category."""
    return sum(names(row.phrases[j], row.truth[i]) for i, j in pairs)


def _outside(row: Prediction) -> tuple[int, int]:
    """(boxes outside the region, words of their phrases)."""
    if row.region is None or not row.boxes:
        return 0, 0
    is_in = inside(sanitize(row.boxes, frame_of(row)), row.region)
    strays = [k for k in range(len(row.boxes)) if not is_in[k]]
    return len(strays), sum(len(words(row.phrases[k])) for k in strays)


def _said(row: Prediction, true: Boxes, predicted: Boxes, threshold: float) -> int:
    """How many boxes are matched when only boxes with the phrase of the object may be: the kinds are matched
    one by one.
    """
    found = 0
    wanted, said = [p.casefold() for p in row.gt_phrases], [p.casefold() for p in row.phrases]
    for phrase in set(wanted) & set(said):
        ours, theirs = (
            [i for i, p in enumerate(wanted) if p == phrase],
            [j for j, p in enumerate(said) if p == phrase],
        )
        found += len(match(true[ours], predicted[theirs], threshold))
    return found


def _f1(matched: str, boxes: str, objects: str) -> Metric:
    def metric(sums: Sums) -> Floats:
        return divide(2 * sums[matched], sums[boxes] + sums[objects])

    return metric


def _threshold_columns(
    rows: Sequence[Prediction], boxes: Sequence[tuple[Boxes, Boxes]], threshold: float
) -> dict[str, Floats]:
    pairs = [match(true, predicted, threshold) for true, predicted in boxes]
    at = f"@{threshold:g}"
    return {
        f"matched{at}": column([len(p) for p in pairs]),
        f"named{at}": column([_named(r, p) for r, p in zip(rows, pairs, strict=True)]),
        f"phrased{at}": column([_said(r, *b, threshold) for r, b in zip(rows, boxes, strict=True)]),
    }


def tabulate(rows: Sequence[Prediction], options: RegionOptions) -> Table:
    """Columns and metrics of region descriptions."""
    boxes = [_boxes(r) for r in rows]
    outside = [_outside(r) for r in rows]
    categories = [sorted(set(r.truth)) for r in rows]
    first = [[float(iou_matrix(t, p)[i, j]) for i, j in match(t, p, options.thresholds[0])] for t, p in boxes]
    columns = {
        **length_columns(rows),
        "read": column([has_box(r) for r in rows]),
        "objects": column([len(r.gt_boxes) for r in rows]),
        "phrased_boxes": column([len(r.boxes) if r.gt_phrases else 0 for r in rows]),
        "phrased_objects": column([len(r.gt_phrases) for r in rows]),
        "outside": column([n for n, _ in outside]),
        "outside_words": column([n for _, n in outside]),
        "categories": column([len(c) for c in categories]),
        "said": column([sum(names(r.plain, c) for c in cs) for r, cs in zip(rows, categories, strict=True)]),
        "overlap": column([sum(found) for found in first]),
        "localization": column([localization_score(t, p) or 0.0 for t, p in boxes]),
    }
    metrics: dict[str, Metric] = {}
    right = {}
    for t in options.thresholds:
        columns |= _threshold_columns(rows, boxes, t)
        if any(r.gt_phrases for r in rows):
            metrics[f"precision@{t:g}"] = over(f"phrased@{t:g}", "phrased_boxes")
            metrics[f"recall@{t:g}"] = over(f"phrased@{t:g}", "phrased_objects")
            metrics[f"f1@{t:g}"] = _f1(f"phrased@{t:g}", "phrased_boxes", "phrased_objects")
        metrics[f"box_precision@{t:g}"] = over(f"matched@{t:g}", "boxes")
        metrics[f"box_recall@{t:g}"] = over(f"matched@{t:g}", "objects")
        metrics[f"box_f1@{t:g}"] = _f1(f"matched@{t:g}", "boxes", "objects")
        metrics[f"named_recall@{t:g}"] = over(f"named@{t:g}", "objects")
        right[f"box_recall@{t:g}"] = np.array(
            [c == n for c, n in zip(columns[f"matched@{t:g}"], columns["objects"], strict=True)], dtype=bool
        )
    metrics |= {
        "matched_iou": over("overlap", f"matched@{options.thresholds[0]:g}"),
        "localization": over("localization", "n"),
        "parse_rate": over("read", "n"),
        "boxes_per_answer": over("boxes", "n"),
        "objects_per_region": over("objects", "n"),
        "words_per_answer": over("words", "n"),
        "categories_named": over("said", "categories"),
        "boxes_outside": over("outside", "boxes"),
        "words_outside_per_answer": over("outside_words", "n"),
    }
    return Table(columns, metrics, right)


REGION_DESCRIPTION = Protocol(
    name="region_description",
    prompt="grounded_region",
    default_prompt="Describe the objects in the region {region} in detail, with their locations.",
    max_new_tokens=512,  # as stage describe
    options=RegionOptions,
    tabulate=tabulate,
    needs=("region", "gt_boxes", "truth"),
    phrased=True,
    is_read=has_box,
    judge=judge,
    row=DescriptionRow,
)
