"""Stage `score` (method 2.3-2.5): a semantic and a localisation score for every candidate and for its
refinement.

In: the regions of one image with their candidates. Out: one `ScoredCandidate` per candidate, all components
as columns. S_loc = 1/n sum_i max_j p[i, j] with p = IoU where IoU >= 0.5, else 0 (paper, section 3.3; which
index is which is our reading). S = lambda S_sem + (1 - lambda) S_loc, lambda = 0.8 (paper). The totals
written here use that lambda; stage `pair` recomputes them from the components with its own, so that another
lambda never runs a model again.
G is one set per region (annotations joined with the detector's boxes for the phrases of all K candidates), so
that the candidates of a region are comparable; the paper's wording also allows one set per candidate
(`g_scope: candidate`).
What a picture cannot have (it cannot be read or shown, it does not fit into memory, a model gives no numbers
for it) leaves its candidates unscored, with the reason.
Known gap: S_loc has no precision term. The report therefore prints boxes and words per answer beside every
score.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import median, pstdev
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from spr.boxes import Boxes, as_boxes, inside, iou_matrix, nms, sanitize
from spr.dialects import Dialect
from spr.errors import ConfigError, DataError, why_no_picture
from spr.ports import Detector, ImageTextScorer, LooksAhead
from spr.ranges import Range, Share, check_ranges
from spr.stages.pairing import Unmatched, refine
from spr.types import (
    Box,
    Description,
    Detection,
    Dropped,
    Findings,
    GroundedText,
    Region,
    Score,
    ScoredCandidate,
)

PAPER_LAMBDA = 0.8  # paper, section 3.3
# ours: a part of the score with more than this share of the weighted spread decides nearly alone
NEARLY_ALONE = 0.9


@dataclass(frozen=True, slots=True)
class ScoreConfig:
    """What counts as a reference, and how refinement treats boxes without one."""

    iou_threshold: Annotated[float, Range(above=0, most=1)] = 0.5  # paper, section 3.3
    # the paper: annotated boxes are references; ours: false leaves those that the detector finds alone
    annotated: bool = True
    # the paper's two readings conflict; ours
    detector_side: Literal["reference", "prediction", "both", "none"] = "reference"
    g_scope: Literal["region", "candidate"] = "region"  # ours: one G per region keeps candidates comparable
    detector_threshold: Share = 0.35  # ours (Grounding DINO's own default box threshold)
    detector_nms: Share = 0.7  # ours
    unmatched: Unmatched = "unbox"  # paper: "other boxes are not kept"; the phrase stays (ours)

    def __post_init__(self) -> None:
        """Raise ConfigError for values that cannot be."""
        check_ranges(self, "score")
        if self.detector_side == "none" and not self.annotated:
            raise ConfigError(
                "score: found annotated: false with detector_side 'none', expected a detector that is used"
            )
        if not self.annotated and self.detector_side == "prediction":
            raise ConfigError(
                "score: found annotated: false with detector_side 'prediction', expected 'reference' or "
                "'both': nothing else gives references"
            )


def localization_score(
    reference: ArrayLike, predicted: ArrayLike, iou_threshold: float = 0.5
) -> float | None:
    """S_loc in [0, 1] of predicted boxes (m, 4) against reference boxes (n, 4), both xyxy pixels.

    None when there is no reference; 0.0 when there is one and nothing is predicted (a real zero). Raises
    ValueError for other shapes or values that are not finite.
    """
    g, b = as_boxes(reference), as_boxes(predicted)
    if len(g) == 0:
        return None
    if len(b) == 0:
        return 0.0
    overlap = iou_matrix(g, b)
    return float(np.where(overlap >= iou_threshold, overlap, 0.0).max(axis=1).mean())


def combine(semantic: float | None, localization: float | None, lam: float = PAPER_LAMBDA) -> float | None:
    """lam * semantic + (1 - lam) * localization; None when either is None. Raises ValueError when lam is not
    in [0, 1].
    """
    if not 0.0 <= lam <= 1.0:
        raise ValueError(f"lam: found {lam}, expected a number in [0, 1]")
    if semantic is None or localization is None:
        return None
    return lam * semantic + (1.0 - lam) * localization


def join_detections(
    annotated: Sequence[Box], detections: Sequence[Detection], region: Box, config: ScoreConfig
) -> list[Box]:
    """Detector boxes that are new objects of the region: in it, confident, one per object, none that is an
    annotated object.
    """
    sure = [d for d in detections if d.score >= config.detector_threshold]
    if not sure:
        return []
    boxes = as_boxes([d.box for d in sure])
    keep = inside(boxes, region)
    if annotated:
        keep &= iou_matrix(boxes, list(annotated)).max(axis=1) < config.iou_threshold
    chosen = [sure[i] for i in np.flatnonzero(keep).tolist()]
    return (
        [chosen[i].box for i in nms([d.box for d in chosen], [d.score for d in chosen], config.detector_nms)]
        if chosen
        else []
    )


def phrases_of(texts: Sequence[GroundedText]) -> list[str]:
    """The distinct phrases of some texts, in order of first appearance, without regard to case."""
    seen: dict[str, str] = {}
    for g in texts:
        for mention in g.mentions:
            if mention.phrase is not None and mention.boxes:
                seen.setdefault(mention.phrase.casefold(), mention.phrase)
    return list(seen.values())


def predicted_boxes(g: GroundedText) -> Boxes:
    """All readable boxes of a text, sorted and clipped to its image. Shape (m, 4)."""
    return sanitize([box for mention in g.mentions for box in mention.boxes], g.frame)


def _why_unscored(g: GroundedText, reference: Sequence[Box]) -> str | None:
    """The reason why a text has no score: nothing to compare with, nothing said, or nothing readable."""
    if not reference:
        return "no_reference"
    if not g.plain.strip():
        return "no_text"
    read = any(mention.boxes for mention in g.mentions)
    broken = [
        p.kind
        for p in g.problems
        if p.kind not in ("absent_marker", "phrase_guessed", "tags_stripped", "draft_box")
    ]
    if not read and broken:
        return f"unparsed:{broken[0]}"
    if not read and any(mention.points for mention in g.mentions):
        return "unparsed:points_only"
    return None


@dataclass(frozen=True, slots=True)
class References:
    """The reference boxes of a region: the annotated ones first, then the detector's; and detector boxes that
    join the predictions.
    """

    annotated: tuple[Box, ...]
    detected: tuple[Box, ...]
    joins_predictions: tuple[Box, ...]

    @property
    def boxes(self) -> tuple[Box, ...]:
        """G, in order."""
        return self.annotated + self.detected


def references_of(region: Region, detections: Sequence[Detection], config: ScoreConfig) -> References:
    """G for a region (method 2.4), as `detector_side` has it."""
    annotated = tuple(o.box for o in region.objects) if config.annotated else ()
    if config.detector_side == "none":
        return References(annotated, (), ())
    found = tuple(join_detections(annotated, detections, region.box, config))
    on_reference = config.detector_side in ("reference", "both")
    on_prediction = config.detector_side in ("prediction", "both")
    return References(annotated, found if on_reference else (), found if on_prediction else ())


def score_text(
    g: GroundedText,
    references: References,
    cosines: tuple[float, float] | None,
    config: ScoreConfig,
    lam: float = PAPER_LAMBDA,
) -> Score:
    """The score of one text, given its cosines (with the crop, with the region embedding), or None when there
    is no semantic model.
    """
    unscored = _why_unscored(g, references.boxes)
    crop, local = cosines if cosines is not None else (None, None)
    if cosines is not None and not all(map(math.isfinite, cosines)):
        crop, local, unscored = None, None, unscored or "semantic_not_a_number"
    if crop is None and unscored is None:
        unscored = "no_semantic_score"
    semantic = (crop + local) / 2 if crop is not None and local is not None else None
    if unscored is not None:
        return Score(None, semantic, crop, local, None, unscored)
    predicted = np.concatenate([predicted_boxes(g), as_boxes(references.joins_predictions)])
    localization = localization_score(references.boxes, predicted, config.iou_threshold)
    return Score(combine(semantic, localization, lam), semantic, crop, local, localization, None)


class _NoScoreError(Exception):
    """A region whose candidates cannot be scored, with the reason."""


@contextlib.contextmanager
def _asking() -> Iterator[None]:
    """Ask a model about a picture: what goes wrong with the picture is a reason, "<kind>: <detail>"."""
    try:
        yield
    except MemoryError as e:
        raise _NoScoreError(f"out_of_memory: {e}") from e
    except (OSError, DataError, ValueError) as e:
        raise _NoScoreError(why_no_picture(e)) from e


@dataclass(slots=True)
class _Work:
    """A region on the way to its rows. `failed`: why its candidates cannot be scored."""

    region: Region
    candidates: Sequence[Description]
    texts: Sequence[GroundedText]
    phrases: Sequence[str]
    references: Sequence[References] = ()
    refined: Sequence[GroundedText] = ()
    failed: str | None = None

    @classmethod
    def of(
        cls,
        region: Region,
        candidates: Sequence[Description],
        dialect: Dialect,
        group: Sequence[str] | None = None,
    ) -> _Work:
        """The region with what its candidates say; the phrases are those of `group`, where that is given."""
        texts = [dialect.parse(c.text, region.frame) for c in candidates]
        said = texts if group is None else [dialect.parse(text, region.frame) for text in group]
        return cls(region, candidates, texts, phrases_of(said))


def _phrases(works: Sequence[_Work]) -> list[str]:
    """The distinct phrases about an image, without regard to case."""
    seen: dict[str, str] = {}
    for work in works:
        for phrase in work.phrases:
            seen.setdefault(phrase.casefold(), phrase)
    return list(seen.values())


def _refine(works: Sequence[_Work], dialect: Dialect, detector: Detector | None, config: ScoreConfig) -> None:
    """References and refinements of the regions of one image. Each phrase is asked once."""
    phrases = _phrases(works) if detector is not None and config.detector_side != "none" else []
    found: dict[str, list[Detection]] = {}
    if detector is not None and phrases:
        try:
            with _asking():
                asked = detector.detect(works[0].region.image, phrases)
            found = {p.casefold(): detections for p, detections in zip(phrases, asked, strict=True)}
        except _NoScoreError as e:
            for work in works:
                work.failed = str(e) if work.phrases else None
    for work in works:
        mine = [d for p in work.phrases for d in found.get(p.casefold(), [])]
        if not all(math.isfinite(x) for d in mine for x in (*d.box, d.score)):
            work.failed = "detector_not_a_number"
        if work.failed is None:
            _refine_region(work, found, dialect, config)


def _refine_region(
    work: _Work, found: Mapping[str, Sequence[Detection]], dialect: Dialect, config: ScoreConfig
) -> None:
    def references(g: GroundedText) -> References:
        phrases = phrases_of([g]) if config.g_scope == "candidate" else work.phrases
        return references_of(work.region, [d for p in phrases for d in found.get(p.casefold(), [])], config)

    work.references = [references(g) for g in work.texts]
    work.refined = [
        refine(g, r.boxes, dialect, work.region.frame, config.iou_threshold, config.unmatched)
        for g, r in zip(work.texts, work.references, strict=True)
    ]


def _cosines(works: Sequence[_Work], scorer: ImageTextScorer | None) -> list[dict[str, tuple[float, float]]]:
    """Per region of one image the cosines by plain text; each distinct text is encoded once."""
    plain = [
        list(dict.fromkeys(g.plain for g in (*w.texts, *w.refined) if g.plain.strip() and w.failed is None))
        for w in works
    ]
    texts = list(dict.fromkeys(text for said in plain for text in said))
    if scorer is None or not texts:
        return [{} for _ in works]
    asked = [k for k, said in enumerate(plain) if said]
    place = {text: i for i, text in enumerate(texts)}
    pairs = [(r, place[text]) for r, k in enumerate(asked) for text in plain[k]]
    try:
        with _asking():
            regions = [works[k].region.box for k in asked]
            crop, local = scorer.similarities(works[0].region.image, regions, texts, pairs)
    except _NoScoreError as e:
        for k in asked:
            works[k].failed = str(e)
        return [{} for _ in works]
    cosines = iter(zip(crop.tolist(), local.tolist(), strict=True))
    return [{text: next(cosines) for text in said} for said in plain]


def _rows(
    work: _Work, cosines: Mapping[str, tuple[float, float]], config: ScoreConfig
) -> Iterator[ScoredCandidate]:
    none = Score(None, None, None, None, None, work.failed)
    nothing = References((), (), ())
    failed = work.failed is not None
    for k, (c, g) in enumerate(zip(work.candidates, work.texts, strict=True)):
        better, r = (g, nothing) if failed else (work.refined[k], work.references[k])
        yield ScoredCandidate(
            candidate_id=c.candidate_id,
            region_id=work.region.region_id,
            index=c.index,
            text=g.text,
            score=none if failed else score_text(g, r, cosines.get(g.plain), config),
            boxes=len(predicted_boxes(g)),
            refined_text=better.text,
            refined_score=none if failed else score_text(better, r, cosines.get(better.plain), config),
            refined_boxes=len(predicted_boxes(better)),
            reference=r.boxes,
            reference_annotated=len(r.annotated),
            problems=tuple(p.kind for p in g.problems),
        )


def score_region(
    region: Region,
    candidates: Sequence[Description],
    dialect: Dialect,
    scorer: ImageTextScorer | None,
    detector: Detector | None,
    config: ScoreConfig,
    group: Sequence[str] | None = None,
) -> list[ScoredCandidate]:
    """Scores of candidates of one region and of their refinements; all unscored when its picture cannot be
    had, or not be shown to a model.

    `group`: the texts of *all* candidates of the region, where `candidates` is a part of them: the detector
    is asked for the phrases of all.
    """
    return _score_image([_Work.of(region, candidates, dialect, group)], dialect, scorer, detector, config)


def _score_image(
    works: Sequence[_Work],
    dialect: Dialect,
    scorer: ImageTextScorer | None,
    detector: Detector | None,
    config: ScoreConfig,
) -> list[ScoredCandidate]:
    _refine(works, dialect, detector, config)
    found = _cosines(works, scorer)
    return [row for work, cosines in zip(works, found, strict=True) for row in _rows(work, cosines, config)]


def _expect(model: object, asked: Mapping[str, Sequence[Any]]) -> None:
    if isinstance(model, LooksAhead):
        model.expect(asked)


def score(
    items: Sequence[tuple[Region, Sequence[Description]]],
    dialect: Dialect,
    scorer: ImageTextScorer | None,
    detector: Detector | None,
    config: ScoreConfig,
) -> tuple[list[ScoredCandidate], list[Dropped]]:
    """Scores of some regions' candidates, those of an image together; an unscored one is also listed as
    dropped, under its reason (its row stays).
    """
    works = [_Work.of(region, candidates, dialect) for region, candidates in items]
    images = [list(same) for _, same in groupby(works, key=lambda work: work.region.image)]
    if config.detector_side != "none":
        _expect(detector, {same[0].region.image: asked for same in images if (asked := _phrases(same))})
    _expect(scorer, {same[0].region.image: [work.region.box for work in same] for same in images})
    rows = [row for same in images for row in _score_image(same, dialect, scorer, detector, config)]
    unscored = [(r.candidate_id, r.score.unscored) for r in rows if r.score.unscored is not None]
    return rows, [Dropped(name, *why.split(": ", 1)) for name, why in unscored]


def spreads(rows: Iterable[ScoredCandidate], lam: float = PAPER_LAMBDA) -> Findings:
    """How far the two parts of the score differ within a region: the medians over regions of their standard
    deviations, raw.

    Lambda balances the parts only where weighted spreads are of one order (method 2.3): warns when one has
    more than NEARLY_ALONE of their sum, unless lambda itself leaves one part out.
    """
    regions: dict[str, list[tuple[float, float]]] = {}
    for r in rows:
        if r.score.semantic is not None and r.score.localization is not None:
            regions.setdefault(r.region_id, []).append((r.score.semantic, r.score.localization))
    several = [parts for parts in regions.values() if len(parts) > 1]
    if not several:
        return Findings({})
    semantic, localization = (
        median(pstdev(part) for part in column)
        for column in zip(*(zip(*parts, strict=True) for parts in several), strict=True)
    )
    figures = {"spread_semantic": semantic, "spread_localization": localization}
    weighted = {"semantic": lam * semantic, "localisation": (1 - lam) * localization}
    name, most = max(weighted.items(), key=lambda item: item[1])
    if not 0 < lam < 1 or most <= NEARLY_ALONE * sum(weighted.values()):
        return Findings(figures)
    share = most / sum(weighted.values())
    return Findings(
        figures,
        (
            f"the {name} score decides nearly alone: {share:.0%} of the weighted spread within a region "
            f"(spreads {semantic:.3f} and {localization:.3f}, "
            f"lambda {lam:g}); another pair.lam balances the two",
        ),
    )
