"""What the report says about the making of the pairs: counts and reasons per stage, pairs with their pictures, training curves.

In: a run folder. Out: plain structures for the template. A stage that did not run is left out.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from markupsafe import Markup
from PIL import Image

from spr.artifacts import Run
from spr.dialects import Dialect
from spr.report.pictures import Outline, Series, bars, line_plot, marked, overlay
from spr.types import Frame, GroundedText, ScoredCandidate, TrainingPair

LoadImage = Callable[[str], Image.Image]
STAGES: Mapping[str, tuple[str, str]] = {
    "regions": ("regions", "region queries"),
    "candidates": ("describe", "descriptions"),
    "scores": ("score", "scored descriptions"),
    "pairs": ("pair", "preference pairs"),
}
ADAPTERS = "adapter"
PAIRS_SHOWN = 20


@dataclass(frozen=True, slots=True)
class StageRow:
    """One line of "the loop in numbers"."""

    name: str
    kept: int
    what: str
    seconds: float
    dropped: Mapping[str, int]
    figures: Mapping[str, float]
    warnings: Sequence[str]


@dataclass(frozen=True, slots=True)
class PairCard:
    """A pair as the report shows it."""

    title: str
    picture: Markup
    chosen: Markup
    rejected: Markup
    scores: Markup
    margin: float


def stage_rows(run: Run) -> list[StageRow]:
    """Counts, times and reasons of the finished stages, in order."""
    rows = []
    for folder, (name, what) in STAGES.items():
        summary = run.summary(folder)
        if summary is not None:
            rows.append(StageRow(name, summary.rows, what, summary.seconds, summary.dropped, summary.figures, summary.warnings))
    return rows


def answer_figures(run: Run) -> list[tuple[str, str, str]]:
    """Figures of the answers before and after refinement: (what, original, refined)."""
    if run.summary("scores") is None:
        return []
    rows = [r for r in run.iter_stage(ScoredCandidate, "scores") if r.score.unscored is None and r.refined_score.unscored is None]
    if not rows:
        return []

    def mean(values: Sequence[float | None]) -> str:
        known = [v for v in values if v is not None]
        return f"{fmean(known):.3f}" if known else "–"

    return [
        ("localisation score", mean([r.score.localization for r in rows]), mean([r.refined_score.localization for r in rows])),
        ("semantic score", mean([r.score.semantic for r in rows]), mean([r.refined_score.semantic for r in rows])),
        ("boxes per answer", mean([float(r.boxes) for r in rows]), mean([float(r.refined_boxes) for r in rows])),
        ("reference boxes per region", mean([float(len(r.reference)) for r in rows]), ""),
        ("of these from annotations", mean([float(r.reference_annotated) for r in rows]), ""),
    ]


def _spans(g: GroundedText) -> list[tuple[int, int, str]]:
    found: list[tuple[int, int, str]] = []
    for number, m in enumerate(g.mentions, start=1):
        if m.boxes and (not found or m.span[0] >= found[-1][1]):
            found.append((*m.span, str(number)))
    return found


def _outlines(g: GroundedText, kind: str) -> list[Outline]:
    return [Outline(box, kind, str(number)) for number, m in enumerate(g.mentions, start=1) for box in m.boxes]


def pair_card(pair: TrainingPair, dialect: Dialect, load_image: LoadImage) -> PairCard:
    """Region, chosen and rejected boxes on the image; texts with their mentions marked; score parts as bars."""
    frame = Frame(pair.width, pair.height)
    chosen, rejected = dialect.parse(pair.chosen, frame), dialect.parse(pair.rejected, frame)
    outlines = [Outline(pair.region, "region"), *_outlines(rejected, "rejected"), *_outlines(chosen, "chosen")]
    a, b = pair.chosen_score, pair.rejected_score
    rows = [
        ("crop", a.semantic_crop, b.semantic_crop),
        ("local", a.semantic_local, b.semantic_local),
        ("boxes", a.localization, b.localization),
        ("total", a.total, b.total),
    ]
    return PairCard(
        pair.pair_id,
        overlay(load_image(pair.image), outlines, f"region, chosen and rejected boxes of {pair.pair_id}"),
        marked(chosen.text, _spans(chosen), "chosen"),
        marked(rejected.text, _spans(rejected), "rejected"),
        bars(rows, ("chosen", "rejected")),
        pair.margin,
    )


def pair_cards(run: Run, dialect: Dialect, load_image: LoadImage) -> list[PairCard]:
    """Twenty pairs, evenly spaced over the margins, largest first."""
    if run.summary("pairs") is None:
        return []
    pairs = sorted(run.iter_stage(TrainingPair, "pairs"), key=lambda p: (-p.margin, p.pair_id))
    step = max(1, len(pairs) // PAIRS_SHOWN)
    return [pair_card(p, dialect, load_image) for p in pairs[::step][:PAIRS_SHOWN]]


def trainings(run: Run) -> list[tuple[str, list[Markup]]]:
    """Every adapter with its curves."""
    return [(name, training_plots(run, name)) for name in run.folders(ADAPTERS) if run.exists(ADAPTERS, name, "history.jsonl")]


def training_plots(run: Run, name: str) -> list[Markup]:
    """Loss, reward margin with accuracy, and log-probs by step, from the trainer's history."""
    rows = [json.loads(line) for line in run.read_bytes(ADAPTERS, name, "history.jsonl").decode().splitlines() if line.strip()]

    def series(name: str, key: str, kind: str) -> Series:
        known = [r for r in rows if r.get(key) is not None]
        return Series(name, kind, [float(r["step"]) for r in known], [float(r[key]) for r in known])

    return [
        line_plot("Loss", [series("loss", "loss", "tuned")], "step", "loss"),
        line_plot("Reward", [series("margin", "margin", "tuned"), series("accuracy", "accuracy", "base")], "step", "margin · accuracy"),
        line_plot(
            "Change of log-probability against the base model",
            [series("chosen", "chosen_shift", "chosen"), series("rejected", "rejected_shift", "rejected")],
            "step",
            "nats per answer",
            zero=True,
        ),
    ]
