"""The page of an ablation: tables and plots of every benchmark, one line per setting, and the change against
the base by setting.

In: metrics.json and comparison.json of every setting as mappings. Out: one self-contained HTML file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from markupsafe import Markup

from spr.report.page import render
from spr.report.pictures import Series, line_plot
from spr.report.results import Measured, shown, view


@dataclass(frozen=True, slots=True)
class Point:
    """One model of one setting on one benchmark, with its comparison against the setting's base model (none
    for a base model).
    """

    setting: str  # "" for a base model that all settings share
    model: str
    metrics: Mapping[str, Any]
    comparison: Mapping[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """How tables call it."""
        return f"{self.setting} {self.model}".strip()


def ablation_page(title: str, points: Mapping[str, Sequence[Point]], note: str) -> str:
    """The page. `title`: the keys that were varied."""
    measured = [
        Measured(
            name,
            {p.label: p.metrics for p in found},
            {"models": {p.label: p.comparison for p in found if p.comparison}},
        )
        for name, found in points.items()
    ]
    plots = {
        m.name: [
            plot for model in _models(points[m.name]) for plot in by_setting(m, points[m.name], model, title)
        ]
        for m in measured
    }
    return render(
        Path(__file__).with_name("ablation.html.j2"),
        f"Ablation: {title}",
        note=note,
        benchmarks=[(view(m), plots[m.name]) for m in measured],
    )


def _models(points: Sequence[Point]) -> list[str]:
    return list(dict.fromkeys(p.model for p in points if p.comparison))


def by_setting(m: Measured, points: Sequence[Point], model: str, x_label: str) -> list[Markup]:
    """The change of a model against the base by setting, a line for each of the first five metrics."""
    there = [p for p in points if p.model == model and p.comparison]
    series = []
    for k, metric in enumerate(shown(m)[:5]):
        changes = [m.change(p.label, metric) for p in there]
        known = [
            (float(i), c)
            for i, c in enumerate(changes)
            if c is not None and c["value"] is not None and c["low"] is not None
        ]
        value, low, high = ([100 * float(c[key]) for _, c in known] for key in ("value", "low", "high"))
        series.append(Series(metric, f"t{k}", [x for x, _ in known], value, low, high))
    return [
        line_plot(
            f"{model}: change against the base",
            series,
            x_label,
            "points",
            zero=True,
            names=[p.setting for p in there],
        )
    ]
