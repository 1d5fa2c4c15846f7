"""Hallucination of grounding: asked for the box of something that is not in the image, a model should give
none.

`rejected` = share of answers that were read and name no place (an explicit "none" marker, or words only); an
empty, failed or broken answer is not a rejection. `false_box_rate` = share of answers with at least one
readable box.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from spr.evaluation.protocols.base import Protocol, judge, length_columns, names_no_place
from spr.evaluation.statistics import Table, over
from spr.types import Prediction


@dataclass(frozen=True, slots=True)
class AbsentOptions:
    """There are none."""


def tabulate(rows: Sequence[Prediction], options: AbsentOptions) -> Table:
    """Columns and metrics of absent-object REC."""
    right = np.array([names_no_place(r) for r in rows], dtype=bool)
    boxed = np.array([bool(r.boxes) for r in rows], dtype=bool)
    columns = {
        **length_columns(rows),
        "rejected": right.astype(np.float64),
        "boxed": boxed.astype(np.float64),
    }
    metrics = {
        "rejected": over("rejected", "n"),
        "false_box_rate": over("boxed", "n"),
        "boxes_per_answer": over("boxes", "n"),
    }
    return Table(columns, metrics, {"rejected": right})


ABSENT_REC = Protocol(
    name="absent_rec",
    prompt="rec",
    default_prompt="Give the bounding box of this object: {expression}",
    max_new_tokens=128,  # ours
    options=AbsentOptions,
    tabulate=tabulate,
    needs=("expression",),
    is_read=lambda row: bool(row.boxes) or names_no_place(row),
    judge=judge,
)
