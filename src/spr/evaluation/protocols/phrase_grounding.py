"""Phrase grounding (Flickr30k Entities): a sentence's phrases, each with its box; R@1 = share of phrases
whose first box reaches IoU t.

MERGED: against the box around all boxes of the phrase's chain [Ferret]. ANY: against the best of them [MDETR
"separate"]. `upper_bound` takes the best of all boxes written for the phrase, so it looks at the truth.
One question per sentence, one row per phrase. A written phrase is a query's when both are equal in lower case
without punctuation [Ferret]. Where the notation does not mark where a phrase begins (Ferret, Shikra, …), it
is a query's when the text before the box ENDS with the query. Of several queries that end it the longest has
it. Two queries with the same words take the written ones in order; Ferret's own script gives both the first.
No match = a miss, counted as `unmatched`; an answer without a readable box is unparsed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from spr.boxes import enclosing, iou_matrix, sanitize
from spr.dialects import Dialect
from spr.evaluation.items import Item
from spr.evaluation.metrics import THRESHOLDS, hits
from spr.evaluation.protocols.base import Protocol, column, frame_of, full_id, judge, length_columns, overlap
from spr.evaluation.statistics import Metric, Table, over
from spr.types import Answer, Box, GroundedText, Mention, Prediction


@dataclass(frozen=True, slots=True)
class PhraseOptions:
    """Where a box counts as found."""

    thresholds: tuple[float, ...] = THRESHOLDS


def plain_words(text: str) -> tuple[str, ...]:
    """Lower case, apostrophes and sentence punctuation as blanks, other punctuation dropped [Ferret's
    comparison of phrases].
    """
    spaced = re.sub(r"['\",.;:!?|]", " ", text.casefold())
    return tuple(re.sub(r"[^\w\s]", "", spaced).split())


def _said(g: GroundedText, mention: Mention) -> tuple[tuple[str, ...], bool]:
    """(words, whether their beginning is a guess): the marked phrase, or all text of the answer before the
    box.
    """
    start, end = mention.span
    guessed = any(p.kind == "phrase_guessed" and p.span[0] < end and start < p.span[1] for p in g.problems)
    if not guessed or mention.phrase is None:
        return plain_words(mention.phrase or ""), False
    at = g.text.find(mention.phrase, start, end)
    return plain_words(g.text[: at + len(mention.phrase)][-400:]), True


def _fits(said: tuple[str, ...], guessed: bool, query: tuple[str, ...]) -> bool:
    if not query:
        return False
    return said[-len(query) :] == query if guessed else said == query


def assign(g: GroundedText, queries: Sequence[str]) -> list[tuple[Box, ...]]:
    """The boxes written for each query phrase, in order; () = no match."""
    wanted = [plain_words(q) for q in queries]
    owned: dict[tuple[str, ...], list[tuple[Box, ...]]] = {}
    for mention in g.mentions:
        said, guessed = _said(g, mention)
        fitting = [q for q in wanted if _fits(said, guessed, q)]
        if mention.boxes and fitting:
            owned.setdefault(max(fitting, key=len), []).append(mention.boxes)
    return _shared(wanted, owned)


def _shared(
    wanted: Sequence[tuple[str, ...]], owned: Mapping[tuple[str, ...], Sequence[tuple[Box, ...]]]
) -> list[tuple[Box, ...]]:
    """The boxes of each query; queries of the same words take the written phrases in order."""
    found: list[tuple[Box, ...]] = []
    for k, query in enumerate(wanted):
        mine = owned.get(query, [])
        alike = wanted.count(query)
        if alike == 1 or len(mine) <= 1:
            found.append(tuple(box for boxes in mine for box in boxes))
        else:
            found.append(mine[min(wanted[:k].count(query), len(mine) - 1)])
    return found


def judge_phrases(item: Item, answer: Answer, protocol: str, dialect: Dialect) -> list[Prediction]:
    """A row per phrase of the sentence."""
    whole = judge(item, answer, protocol, dialect)[0]
    boxes_of = assign(dialect.parse(answer.text, item.frame), [p.phrase for p in item.phrases])
    return _rows(item, whole, boxes_of)


def spread_boxes(item: Item, whole: Prediction) -> list[Prediction]:
    """A row per phrase of the sentence, from boxes and the phrase of each (`whole.phrases`)."""
    owned: dict[tuple[str, ...], list[tuple[Box, ...]]] = {}
    for phrase, box in zip(whole.phrases, whole.boxes, strict=True):
        owned.setdefault(plain_words(phrase), []).append((box,))
    return _rows(item, whole, _shared([plain_words(p.phrase) for p in item.phrases], owned))


def _rows(item: Item, whole: Prediction, boxes_of: Sequence[tuple[Box, ...]]) -> list[Prediction]:
    rows = []
    for k, (truth, boxes) in enumerate(zip(item.phrases, boxes_of, strict=True)):
        merged = enclosing(truth.boxes)
        box = boxes[0] if boxes else None
        missed = ("unmatched",) if whole.boxes and not boxes else ()
        rows.append(
            replace(
                whole,
                item_id=f"{full_id(item)}/{k}",
                expression=truth.phrase,
                gt=merged,
                gt_boxes=truth.boxes,
                box=box,
                boxes=boxes,
                phrases=(truth.phrase,) * len(boxes),
                iou=overlap(merged, box, item.frame),
                problems=whole.problems + missed,
                group=truth.group,
            )
        )
    return rows


def _overlaps(row: Prediction, truth: Sequence[Box], every: bool) -> float | None:
    if not row.boxes:
        return None
    frame = frame_of(row)
    return float(
        iou_matrix(sanitize(truth, frame), sanitize(row.boxes if every else row.boxes[:1], frame)).max()
    )


def _merged(row: Prediction) -> Box:
    return row.gt if row.gt is not None else enclosing(row.gt_boxes)


def tabulate(rows: Sequence[Prediction], options: PhraseOptions) -> Table:
    """Columns and metrics of phrase grounding."""
    kinds = {
        "r1_merged": [_overlaps(r, [_merged(r)], False) for r in rows],
        "r1_any": [_overlaps(r, r.gt_boxes, False) for r in rows],
        "upper_bound_merged": [_overlaps(r, [_merged(r)], True) for r in rows],
    }
    columns = {**length_columns(rows), "matched": column([bool(r.boxes) for r in rows])}
    metrics: dict[str, Metric] = {}
    right = {}
    for kind, values in kinds.items():
        for t in options.thresholds:
            name = f"{kind}@{t:g}"
            right[name] = hits(values, t)
            columns[name] = right[name].astype(np.float64)
            metrics[name] = over(name, "n")
    metrics["matched"] = over("matched", "n")
    return Table(columns, metrics, {name: r for name, r in right.items() if not name.startswith("upper")})


def is_read(row: Prediction) -> bool:
    """Whether the answer had any readable box, for this phrase or another."""
    return bool(row.boxes) or "unmatched" in row.problems


PHRASE_GROUNDING = Protocol(
    name="phrase_grounding",
    prompt="phrase_grounding",
    default_prompt="Give the bounding box of each of these: {phrases}",
    max_new_tokens=512,  # ours
    options=PhraseOptions,
    tabulate=tabulate,
    needs=("expression", "phrases"),
    is_read=is_read,
    judge=judge_phrases,
    phrased=True,
    spread=spread_boxes,
)
