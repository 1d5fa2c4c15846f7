"""Region captioning (RefCOCOg, Visual Genome): say what is at a box; compared with all sentences written
about it.

CIDEr (in [0, 10]; papers print it times 100) on Penn Treebank tokens, with weights from the evaluated set, so
a split has its own; METEOR on request. An empty or failed answer scores 0 by the formula and is counted as
unparsed. The 95 % interval resamples images and keeps the full set's weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from spr.evaluation.cider import cider
from spr.evaluation.meteor import meteor
from spr.evaluation.protocols.base import Protocol, column, has_text, judge, length_columns
from spr.evaluation.ptb import caption_tokens
from spr.evaluation.statistics import Metric, Table, over
from spr.types import Prediction


@dataclass(frozen=True, slots=True)
class CaptionOptions:
    """Which metrics beside CIDEr."""

    meteor: bool = False  # needs Java and pycocoevalcap


def tabulate(rows: Sequence[Prediction], options: CaptionOptions) -> Table:
    """Columns and metrics of region captions."""
    said = [caption_tokens(r.plain) for r in rows]
    truth = [[caption_tokens(t) for t in r.truth] for r in rows]
    columns = {
        **length_columns(rows),
        "cider": column(cider(said, truth)),
        "read": column([has_text(r) for r in rows]),
    }
    metrics: dict[str, Metric] = {"cider": over("cider", "n")}
    if options.meteor:
        scores = meteor([" ".join(s) for s in said], [[" ".join(t) for t in group] for group in truth])
        columns["meteor"] = np.array(scores)
        metrics["meteor"] = over("meteor", "n")
    metrics |= {"parse_rate": over("read", "n"), "words_per_answer": over("words", "n")}
    return Table(columns, metrics, {})


REGION_CAPTION = Protocol(
    name="region_caption",
    prompt="region_caption",
    default_prompt="What is the object in the region {region}?",
    max_new_tokens=128,  # ours
    options=CaptionOptions,
    tabulate=tabulate,
    needs=("region", "truth"),
    is_read=has_text,
    judge=judge,
    weighs_the_set=True,
)
