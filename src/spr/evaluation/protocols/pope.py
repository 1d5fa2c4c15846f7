"""POPE: is there such an object? yes or no. accuracy, precision, recall, F1 and the share of "yes", with
"yes" as the positive class.

An answer is "no" if one of the words No, not, no stands in its first sentence (up to the first full stop,
commas dropped, cut at blanks), else "yes" [POPE's evaluate.py, Ferret's eval_pope.py]. So "None" and "isn't"
are a "yes", as published. Differs: an empty or failed answer is neither (published code takes it for a
"yes"); it is wrong and counted as unparsed. A ratio with denominator 0 is undefined, never 0 (published code
crashes).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from spr.evaluation.protocols.base import Protocol, column, has_text, judge, length_columns
from spr.evaluation.rows import AnswerRow
from spr.evaluation.statistics import Floats, Metric, Sums, Table, divide, over
from spr.types import Prediction


@dataclass(frozen=True, slots=True)
class PopeOptions:
    """There are none."""


def says(answer: str) -> str | None:
    """ "yes", "no", or None for an empty answer."""
    if not answer.strip():
        return None
    first = answer.strip().partition(".")[0].replace(",", "")
    return "no" if {"No", "not", "no"} & set(first.split(" ")) else "yes"


def _f1(sums: Sums) -> Floats:
    return divide(2 * sums["true_yes"], sums["said_yes"] + sums["yes"])


def tabulate(rows: Sequence[Prediction], options: PopeOptions) -> Table:
    """Columns and metrics of yes-no questions."""
    said = [says(r.answer) for r in rows]
    truth = [r.truth[0] for r in rows]
    right = np.array([a == b for a, b in zip(said, truth, strict=True)], dtype=bool)
    columns = {
        **length_columns(rows),
        "right": right.astype(np.float64),
        "yes": column([t == "yes" for t in truth]),
        "said_yes": column([s == "yes" for s in said]),
        "true_yes": column([s == t == "yes" for s, t in zip(said, truth, strict=True)]),
        "read": column([s is not None for s in said]),
    }
    metrics: dict[str, Metric] = {
        "accuracy": over("right", "n"),
        "precision": over("true_yes", "said_yes"),
        "recall": over("true_yes", "yes"),
        "f1": _f1,
        "said_yes": over("said_yes", "n"),
        "parse_rate": over("read", "n"),
    }
    return Table(columns, metrics, {"accuracy": right})


POPE = Protocol(
    name="pope",
    prompt="",
    default_prompt="{expression}",  # the question stands in the file
    max_new_tokens=32,  # ours
    options=PopeOptions,
    tabulate=tabulate,
    needs=("expression", "truth"),
    is_read=has_text,
    judge=judge,
    row=AnswerRow,
)
