"""Region classification: what is at this box? Right when the name of the object, or a synonym, stands in the
answer.

`region_classification` asks openly; `region_choice` offers two names, "Is the object [box] of the image a <a>
or a <b>?" [Ferret, LVIS]. Clauses that begin with "no" or "not" are cut first, so that "a cup, not a bowl"
does not name a bowl [Ferret]. By default words are whole words without regard to case. `matching:
ferret_compatible` repeats Ferret's eval_lvis.py: case counts, a name may stand inside a word ("car" in
"carpet"), the cut needs no word boundary, so that " notebook," vanishes, and it happens only before a comma
or full stop.
An answer that names both choices is right in both ways of counting.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from spr.evaluation.metrics import names_any
from spr.evaluation.protocols.base import Protocol, column, has_text, judge, length_columns
from spr.evaluation.rows import AnswerRow
from spr.evaluation.statistics import Table, over
from spr.types import Prediction

_DENIED = re.compile(r"\b(?:not|no)\b[^,.;]*", re.IGNORECASE)
_FERRET_DENIED = (re.compile(r"\s+not[^,.]*[,.]"), re.compile(r"\s+no[^,.]*[,.]"))


@dataclass(frozen=True, slots=True)
class ClassificationOptions:
    """How a name is found in an answer."""

    matching: Literal["corrected", "ferret_compatible"] = "corrected"


def is_named(answer: str, truth: Sequence[str], matching: Literal["corrected", "ferret_compatible"]) -> bool:
    """Whether one of the names stands in the answer."""
    if matching == "corrected":
        return names_any(_DENIED.sub(" ", answer), truth)
    for pattern in _FERRET_DENIED:
        answer = pattern.sub("", answer)
    return any(name in answer for name in truth)


def tabulate(rows: Sequence[Prediction], options: ClassificationOptions) -> Table:
    """Columns and metrics of region classification."""
    right = np.array(
        [
            is_named(r.plain if options.matching == "corrected" else r.answer, r.truth, options.matching)
            for r in rows
        ],
        dtype=bool,
    )
    columns = {
        **length_columns(rows),
        "right": right.astype(np.float64),
        "read": column([has_text(r) for r in rows]),
    }
    metrics = {
        "accuracy": over("right", "n"),
        "parse_rate": over("read", "n"),
        "words_per_answer": over("words", "n"),
    }
    return Table(columns, metrics, {"accuracy": right})


REGION_CLASSIFICATION = Protocol(
    name="region_classification",
    prompt="region_caption",
    default_prompt="What is the object in the region {region}?",
    max_new_tokens=64,  # ours
    options=ClassificationOptions,
    tabulate=tabulate,
    needs=("region", "truth"),
    is_read=has_text,
    judge=judge,
    row=AnswerRow,
)
REGION_CHOICE = replace(
    REGION_CLASSIFICATION,
    name="region_choice",
    prompt="",
    default_prompt="Is the object {region} of the image a {a} or a {b}?",  # Ferret's model_lvis.py
    needs=("region", "truth", "choices"),
)
