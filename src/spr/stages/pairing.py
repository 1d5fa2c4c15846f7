"""Stage `pair` (method 2.5): refine candidates and choose (best refined, worst original) for every region.

In: the scored candidates of a region. Out: one training pair, or a reason why there is none.
Refinement: a box with IoU >= 0.5 to a reference box becomes that reference box, one-to-one and best IoU
first; other boxes are not kept, their phrase stays (paper, section 3.4; one-to-one and the fate of the phrase
are ours). The text is written again in the model's own notation.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import SequenceMatcher
from statistics import median
from typing import Literal, TypeAlias

from numpy.typing import ArrayLike

from spr.boxes import as_boxes, match, sanitize
from spr.dialects import Dialect
from spr.dialects.base import splice
from spr.dialects.layout import Cut, cut_spans
from spr.ranges import Amount, Share, check_ranges
from spr.stages.prompts import CANONICAL, TEMPLATES, Template, question, with_article
from spr.types import (
    Box,
    Candidate,
    Dropped,
    Findings,
    Frame,
    GroundedText,
    Pair,
    Region,
    Score,
    ScoredCandidate,
    Span,
    TrainingPair,
)

Unmatched: TypeAlias = Literal["unbox", "drop_clause", "keep"]
Chosen: TypeAlias = Literal["refined", "original", "annotated"]


@dataclass(frozen=True, slots=True)
class PairConfig:
    """What makes a pair. Changing any of it never runs a model again."""

    lam: Share = field(default=0.8, metadata={"also": "lambda"})  # paper, section 3.3
    # the paper; ours, for comparison: the best answer as written | the annotated objects of the region in its
    # place
    chosen: Chosen = "refined"
    min_margin: Amount = 0.05  # ours: smaller gaps are noise of the scores
    # ours: refinement may not win by silence; share of the rejected answer's boxes
    min_chosen_boxes: Share = 0.5
    prompt: str = CANONICAL  # ours: the policy must learn to answer the plain question

    def __post_init__(self) -> None:
        """Raise ConfigError for values that cannot be."""
        check_ranges(self, "pair")


# ours: pairs whose answers differ in a smaller share of their words are dangerous under DPO (method 2.5)
NEARLY_EQUAL = 0.1


def refine(
    g: GroundedText,
    reference: ArrayLike,
    dialect: Dialect,
    frame: Frame,
    iou_threshold: float = 0.5,
    unmatched: Unmatched = "unbox",
) -> GroundedText:
    """The text with its boxes replaced by the reference boxes (n, 4) they match; `unmatched` says what
    becomes of the others.

    "unbox": the box goes, the phrase stays (default) · "drop_clause": the clause around it goes too, unless
    another box of it stays · "keep": the box stays as it was. Raises DialectError when the notation cannot
    say it.
    """
    slots = [(m, b) for m, mention in enumerate(g.mentions) for b in range(len(mention.boxes))]
    references = as_boxes(reference)
    boxes = sanitize([g.mentions[m].boxes[b] for m, b in slots], frame)
    matched = {slots[i]: j for i, j in match(boxes, references, iou_threshold)}
    edits: dict[tuple[int, int], Box | None] = {}
    for slot in slots:
        if slot in matched:
            x1, y1, x2, y2 = references[matched[slot]].tolist()
            edits[slot] = (x1, y1, x2, y2)
        elif unmatched != "keep":
            edits[slot] = None
    if unmatched == "drop_clause":
        emptied = {
            m
            for m, mention in enumerate(g.mentions)
            if mention.boxes
            and not mention.points
            and all(edits[m, b] is None for b in range(len(mention.boxes)))
        }
        if emptied:
            return _drop_clauses(g, emptied, edits, dialect, frame)
    return dialect.replace_boxes(g, edits, frame)


def _clause(g: GroundedText, m: int) -> Span:
    """The clause of mention m with its separator: from the box before it, or the nearest of `, . ; :`, to its
    end. The first clause of a text goes with the separator after it.
    """
    text, (start, end) = g.text, g.mentions[m].span
    least = max((mention.span[1] for mention in g.mentions if mention.span[1] <= start), default=0)
    while start > least and text[start - 1] not in ",.;:\n":
        start -= 1
    if start > least and text[start - 1] in ",.;:":
        return start - 1, end
    after = re.compile(r"\s*(?:[,;:]|and\b)\s*").match(text, end) if not text[:start].strip() else None
    return start, after.end() if after else end


def _drop_clauses(
    g: GroundedText,
    emptied: set[int],
    edits: dict[tuple[int, int], Box | None],
    dialect: Dialect,
    frame: Frame,
) -> GroundedText:
    """Cut the clauses of mentions that lose all their boxes, where no other mention stands in them; then edit
    the rest.
    """
    raw = dialect.layout(g.text).mentions
    cuts: list[Cut] = []
    gone: set[int] = set()
    kept = [mention.span for m, mention in enumerate(g.mentions) if m not in emptied]
    for m in sorted(emptied):
        if raw[m].clause:  # the notation says what a clause is
            cuts += raw[m].clause
            gone.add(m)
            continue
        start, end = _clause(g, m)
        if not any(s < end and start < e for s, e in kept):
            cuts.append((start, end))
            gone.add(m)
    edited = dialect.replace_boxes(g, edits, frame)
    if not cuts:
        return edited
    # Cut in the original, then read again: mentions keep their order, so the remaining edits only need new
    # mention numbers.
    again = dialect.parse(splice(g.text, [(span, "") for span in cut_spans(cuts)]), frame)
    left = [m for m in range(len(g.mentions)) if m not in gone]
    if [g.mentions[m].boxes for m in left] != [mention.boxes for mention in again.mentions]:
        return edited  # the cut would change how the rest is read: unbox instead
    number = {m: n for n, m in enumerate(left)}
    return dialect.replace_boxes(
        again, {(number[m], b): box for (m, b), box in edits.items() if m in number}, frame
    )


def with_lambda(score: Score, lam: float) -> Score:
    """The same components with another lambda."""
    if score.semantic is None or score.localization is None or score.unscored is not None:
        return score
    return replace(score, total=lam * score.semantic + (1.0 - lam) * score.localization)


def _finite(total: float | None) -> float | None:
    return total if total is not None and math.isfinite(total) else None


def choose_pair(item_id: str, candidates: Sequence[Candidate], min_margin: float = 0.05) -> Pair | Dropped:
    """Best refined against worst original answer of one region; ties go to the lower candidate index.

    Dropped reasons: too_few_scored (fewer than two originals, or no refinement, with a score), same_text,
    small_margin (gap < min_margin). A total that is not finite is no score.
    """
    ranked = sorted(candidates, key=lambda c: c.index)
    originals = [(total, c) for c in ranked if (total := _finite(c.original.total)) is not None]
    refined = [(total, c) for c in ranked if (total := _finite(c.refined.total)) is not None]
    if len(originals) < 2 or not refined:
        return Dropped(
            item_id,
            "too_few_scored",
            f"{len(originals)} of {len(candidates)} candidates have a score, expected at least 2",
        )
    worst_total, worst = min(originals, key=lambda pair: pair[0])
    best_total, best = max(refined, key=lambda pair: pair[0])
    if best.refined_text == worst.text:
        return Dropped(item_id, "same_text")
    if best_total - worst_total < min_margin:
        return Dropped(item_id, "small_margin", f"{best_total - worst_total:.4f} < {min_margin}")
    return Pair(best.refined_text, worst.text, best.index, worst.index)


def pair_region(
    region: Region,
    scored: Sequence[ScoredCandidate],
    dialect: Dialect,
    config: PairConfig,
    templates: Mapping[str, Template] = TEMPLATES,
) -> TrainingPair | Dropped:
    """The training pair of a region: the canonical prompt with the two answers.

    Dropped reasons: those of `choose_pair`; boxes_lost (the chosen answer has fewer than min_chosen_boxes
    times the boxes of the rejected one).
    """
    if config.chosen == "original":
        scored = [
            replace(c, refined_text=c.text, refined_score=c.score, refined_boxes=c.boxes) for c in scored
        ]
    rows = {c.index: c for c in scored}
    candidates = {
        c.index: Candidate(
            c.index,
            c.text,
            c.refined_text,
            with_lambda(c.score, config.lam),
            with_lambda(c.refined_score, config.lam),
        )
        for c in scored
    }
    pair = choose_pair(region.region_id, list(candidates.values()), config.min_margin)
    if isinstance(pair, Dropped):
        return pair
    boxes, before = rows[pair.chosen_index].refined_boxes, rows[pair.rejected_index].boxes
    if boxes < config.min_chosen_boxes * before:
        return Dropped(region.region_id, "boxes_lost", f"chosen {boxes}, rejected {before}")
    chosen, rejected = candidates[pair.chosen_index].refined, candidates[pair.rejected_index].original
    found = TrainingPair(
        pair_id=region.region_id,
        image=region.image,
        width=region.width,
        height=region.height,
        region=region.box,
        prompt=question(config.prompt, region, dialect, templates),
        chosen=pair.chosen,
        rejected=pair.rejected,
        margin=(chosen.total or 0.0) - (rejected.total or 0.0),
        chosen_index=pair.chosen_index,
        rejected_index=pair.rejected_index,
        chosen_score=chosen,
        rejected_score=rejected,
        reference=rows[pair.rejected_index].reference,
    )
    return (
        replace(found, chosen=annotated(region, dialect), chosen_score=_ANNOTATED, margin=0.0)
        if config.chosen == "annotated"
        else found
    )


_ANNOTATED = Score(None, None, None, None, None, "annotated")


def annotated(region: Region, dialect: Dialect) -> str:
    """What an annotator would say: the objects of a region from left to right, with their boxes. Raises
    DialectError when the notation cannot.
    """
    ordered = sorted(region.objects, key=lambda o: o.box[0] + o.box[2])
    parts: list[str | tuple[str, list[Box]]] = []
    for k, o in enumerate(ordered):
        parts += [(" and " if k == len(ordered) - 1 else ", ")] if k else []
        parts.append((with_article(o.category), [o.box]))
    return dialect.compose([*parts, "."], region.frame)


def make_pairs(
    items: Sequence[tuple[Region, Sequence[ScoredCandidate]]],
    dialect: Dialect,
    config: PairConfig,
    templates: Mapping[str, Template] = TEMPLATES,
) -> tuple[list[TrainingPair], list[Dropped]]:
    """Pairs of some regions, and the regions without one."""
    results = [pair_region(region, candidates, dialect, config, templates) for region, candidates in items]
    return [r for r in results if isinstance(r, TrainingPair)], [r for r in results if isinstance(r, Dropped)]


def difference(a: str, b: str) -> float:
    """Share of the words and numbers of two texts that are not part of their common subsequences, in
    [0, 1].
    """
    first, second = (re.findall(r"\w+", text) for text in (a, b))
    return 1.0 - SequenceMatcher(None, first, second, autojunk=False).ratio()


def differences(pairs: Iterable[TrainingPair], dialect: Dialect) -> Findings:
    """How far chosen and rejected answers differ: medians over the pairs, with boxes and without. Warns when
    they are nearly equal (method 2.5).
    """
    whole, plain = [], []
    for p in pairs:
        frame = Frame(p.width, p.height)
        whole.append(difference(p.chosen, p.rejected))
        plain.append(difference(dialect.parse(p.chosen, frame).plain, dialect.parse(p.rejected, frame).plain))
    if not whole:
        return Findings({})
    figures = {"differing_words": median(whole), "differing_words_without_boxes": median(plain)}
    advice = "plain DPO can unlearn both; use sft_weight: 1 with rejected_coordinates: none, or loss: sft"
    warnings = []
    if figures["differing_words"] < NEARLY_EQUAL:
        warnings.append(
            f"the answers of a pair are nearly equal: {figures['differing_words']:.0%} of their words "
            f"differ (median); {advice}"
        )
    elif figures["differing_words_without_boxes"] == 0:
        warnings.append(f"in most pairs the answers say the same and differ in coordinates only; {advice}")
    return Findings(figures, tuple(warnings))
