"""What the report says about the making of the pairs: counts and reasons per stage, pairs with their
pictures, training curves.

In: a run folder. Out: plain structures for the template. A stage that did not run is left out.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from markupsafe import Markup
from PIL import Image

from spr.report.pictures import Series, line_plot
from spr.store.folders import ADAPTER, CANDIDATES, PAIRS, REGIONS, SCORES
from spr.store.run import Run
from spr.types import ScoredCandidate

LoadImage = Callable[[str], Image.Image]
STAGES: Mapping[str, tuple[str, str]] = {
    REGIONS: ("regions", "region queries"),
    CANDIDATES: ("describe", "descriptions"),
    SCORES: ("score", "scored descriptions"),
    PAIRS: ("pair", "preference pairs"),
}


@dataclass(frozen=True, slots=True)
class StageRow:
    """One line of "the loop in numbers"."""

    name: str
    kept: int
    what: str
    dropped: Mapping[str, int]
    figures: Mapping[str, object]
    warnings: Sequence[str]


def stage_rows(run: Run) -> list[StageRow]:
    """Counts and reasons of the finished stages, in order."""
    rows = []
    for folder, (name, what) in STAGES.items():
        summary = run.summary(folder)
        if summary is not None:
            rows.append(
                StageRow(
                    name,
                    summary.rows,
                    what,
                    summary.dropped,
                    summary.figures,
                    summary.warnings,
                )
            )
    return rows


def answer_figures(run: Run) -> list[tuple[str, str, str]]:
    """Figures of the answers before and after refinement: (what, original, refined)."""
    if run.summary(SCORES) is None:
        return []
    rows = [
        r
        for r in run.iter_stage(ScoredCandidate, SCORES)
        if r.score.unscored is None and r.refined_score.unscored is None
    ]
    if not rows:
        return []

    def mean(values: Sequence[float | None]) -> str:
        known = [v for v in values if v is not None]
        return f"{fmean(known):.3f}" if known else "–"

    return [
        (
            "localisation score",
            mean([r.score.localization for r in rows]),
            mean([r.refined_score.localization for r in rows]),
        ),
        (
            "semantic score",
            mean([r.score.semantic for r in rows]),
            mean([r.refined_score.semantic for r in rows]),
        ),
        (
            "boxes per answer",
            mean([float(r.boxes) for r in rows]),
            mean([float(r.refined_boxes) for r in rows]),
        ),
        ("reference boxes per region", mean([float(len(r.reference)) for r in rows]), ""),
        ("of these from annotations", mean([float(r.reference_annotated) for r in rows]), ""),
    ]


def trainings(run: Run) -> list[tuple[str, list[Markup]]]:
    """Every adapter with its curves."""
    return [
        (name, training_plots(run, name))
        for name in run.folders(ADAPTER)
        if run.exists(ADAPTER, name, "history.jsonl")
    ]


def training_plots(run: Run, name: str) -> list[Markup]:
    """Loss (also of the pairs that are held out), reward margin with accuracy, and log-probs by step."""

    def lines(file: str) -> list[dict[str, Any]]:
        if not run.exists(ADAPTER, name, file):
            return []
        text = run.read_bytes(ADAPTER, name, file).decode()
        return [json.loads(line) for line in text.splitlines() if line.strip()]

    rows, held = lines("history.jsonl"), lines("held_out.jsonl")

    def series(name: str, key: str, kind: str, rows: Sequence[Mapping[str, Any]] = rows) -> Series:
        known = [r for r in rows if r.get(key) is not None]
        return Series(name, kind, [float(r["step"]) for r in known], [float(r[key]) for r in known])

    return [
        line_plot(
            "Loss",
            [series("loss", "loss", "tuned"), *([series("held out", "loss", "base", held)] if held else [])],
            "step",
            "loss",
        ),
        line_plot(
            "Reward",
            [series("margin", "margin", "tuned"), series("accuracy", "accuracy", "base")],
            "step",
            "margin · accuracy",
        ),
        line_plot(
            "Change of log-probability against the base model",
            [series("chosen", "chosen_shift", "chosen"), series("rejected", "rejected_shift", "rejected")],
            "step",
            "nats per answer",
            zero=True,
        ),
    ]
