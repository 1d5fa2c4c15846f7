"""What the report says about the evaluation: tables, plots by IoU threshold, items that changed sides.

In: metrics.json, comparison.json and predictions.parquet of a run. Out: plain structures for the template.
Numbers are taken over, never computed again, so that the report and the files cannot disagree.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup

from spr.evaluation.tables import PAPER_REC
from spr.report.pictures import Series, line_plot
from spr.store.folders import COMPARISON, EVALUATION, METRICS
from spr.store.run import Run

BEFORE, AFTER = (
    PAPER_REC.values()
)  # Ferret-7B, mean of the 8 RefCOCO/+/g splits (paper, table of accuracy by IoU threshold)
ACCURACY = re.compile(r"acc@(\d\.\d+)$")
# colours of the models that are not compared in detail, in turn
OTHERS = ("control", "region", "s3", "s4", "s5", "s6")
SHOWN = re.compile(
    r"(box_)?f1@0\.[579]$|(box_)?(precision|recall)@0\.5$|matched_iou|localization"
    r"|(boxes|words)_per_answer|categories_named|accuracy|parse_rate"
)


@dataclass(frozen=True, slots=True)
class Cell:
    """A figure, with its interval or change in small print."""

    text: str
    small: str = ""


@dataclass(frozen=True, slots=True)
class TableRow:
    """A line of a table."""

    kind: str
    cells: Sequence[Cell]


@dataclass(frozen=True, slots=True)
class TableView:
    """A table with a title and a remark."""

    title: str
    columns: Sequence[str]
    rows: Sequence[TableRow]
    note: str = ""


@dataclass(frozen=True, slots=True)
class BenchmarkView:
    """All that is shown of one benchmark."""

    title: str
    tables: Sequence[TableView]
    plot: Markup | None = None
    gain_plot: Markup | None = None


@dataclass(frozen=True, slots=True)
class Measured:
    """The files of one benchmark: metrics by model (the reference first), and the comparison."""

    name: str
    metrics: Mapping[str, Mapping[str, Any]]
    comparison: Mapping[str, Any] = field(default_factory=dict)

    @property
    def trained(self) -> str | None:
        """The model that is compared in detail: "spr", else the last one beside the base."""
        others = [name for name in self.metrics if name != "base"]
        return "spr" if "spr" in others else others[-1] if others else None

    def kind(self, model: str) -> str:
        """The colour of a model in plots."""
        if model in ("base", self.trained):
            return "base" if model == "base" else "tuned"
        others = [name for name in self.metrics if name not in ("base", self.trained)]
        return OTHERS[others.index(model) % len(OTHERS)]

    def change(self, model: str, metric: str) -> Mapping[str, Any] | None:
        """The paired difference of a model against the reference."""
        found: Mapping[str, Any] | None = (
            self.comparison.get("models", {}).get(model, {}).get("differences", {}).get(metric)
        )
        return found


def measured(run: Run) -> list[Measured]:
    """All benchmarks of the run: the referring ones first, then by name."""
    found = []
    for name in run.folders(EVALUATION):
        models = {m: run.read_json(EVALUATION, name, m, METRICS) for m in run.folders(EVALUATION, name)}
        known = {
            m: v for m, v in sorted(models.items(), key=lambda kv: (kv[0] != "base", kv[0])) if v is not None
        }
        if known:
            found.append(Measured(name, known, run.read_json(EVALUATION, name, COMPARISON) or {}))
    return sorted(
        found,
        key=lambda m: (_protocol(m) != "rec", m.name != "test" and not m.name.startswith("test_"), m.name),
    )


def _protocol(m: Measured) -> str:
    return str(next(iter(m.metrics.values())).get("protocol", ""))


def _share(metric: str) -> bool:
    """Whether a metric is a share, shown in percent."""
    return not any(word in metric for word in ("per_answer", "words", "boxes", "cider"))


def _figure(estimate: Mapping[str, Any] | None, metric: str) -> str:
    if estimate is None or estimate["value"] is None:
        return "–"
    return f"{100 * estimate['value']:.1f}" if _share(metric) else f"{estimate['value']:.2f}"


def _interval(estimate: Mapping[str, Any] | None, metric: str, sign: bool = False) -> str:
    if estimate is None or estimate["value"] is None or estimate["low"] is None:
        return ""
    scale = 100 if _share(metric) else 1
    value, low, high = (scale * estimate[k] for k in ("value", "low", "high"))
    digits = 1 if scale == 100 else 2
    return (
        f"{value:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]"
        if sign
        else f"[{low:.{digits}f}, {high:.{digits}f}]"
    )


def _rows(m: Measured, metrics: Sequence[str]) -> list[TableRow]:
    rows = []
    for model, figures in m.metrics.items():
        cells = [Cell(model, f"n {figures['n']}, unparsed {figures['unparsed']}")]
        for metric in metrics:
            estimate, change = figures["values"].get(metric), m.change(model, metric)
            cells.append(
                Cell(
                    _figure(estimate, metric),
                    _interval(change, metric, True) if change else _interval(estimate, metric),
                )
            )
        rows.append(TableRow("strong" if model == m.trained else "", cells))
    return rows


def _paper_rows(thresholds: Sequence[float]) -> list[TableRow]:
    def cell(values: Mapping[float, float], t: float) -> Cell:
        return (
            Cell(f"{values[t]:.1f}", f"{values[t] - BEFORE[t]:+.1f}" if values is AFTER else "")
            if t in values
            else Cell("–")
        )

    return [
        TableRow("paper", [Cell(name), *(cell(values, t) for t in thresholds)])
        for name, values in PAPER_REC.items()
    ]


def _rec_view(m: Measured) -> BenchmarkView:
    some = next(iter(m.metrics.values()))["values"]
    x = [float(found.group(1)) for found in map(ACCURACY.match, some) if found]
    names = [f"acc@{t:g}" for t in x]
    note = (
        "In percent. Small print: 95 % interval, or the change against the base with its interval "
        "(paired bootstrap over images)."
    )
    main = TableView(
        "Referring expressions, accuracy at IoU",
        ["", *(f"{t:g}" for t in x)],
        [*_rows(m, names), *_paper_rows(x)],
        note,
    )
    others = [name for name in some if name not in names]
    lines = [
        Series(model, m.kind(model), x, [100 * (f["values"][n]["value"] or 0.0) for n in names])
        for model, f in m.metrics.items()
    ]
    gains = [_gain(m, model, x, names) for model in m.metrics if m.change(model, names[0])]
    known = [t for t in x if t in BEFORE]
    paper = Series("paper: Ferret-7B", "paper", known, [AFTER[t] - BEFORE[t] for t in known])
    return BenchmarkView(
        f"{m.name}: referring expressions",
        [main, TableView("Beside it", ["", *(o.replace("_", " ") for o in others)], _rows(m, others))],
        line_plot("Accuracy by IoU threshold", lines, "IoU threshold", "accuracy, %"),
        line_plot("Gain over the base", [*gains, paper], "IoU threshold", "points", zero=True),
    )


def _gain(m: Measured, model: str, x: Sequence[float], names: Sequence[str]) -> Series:
    changes = [m.change(model, n) or {} for n in names]

    def points(key: str) -> list[float]:
        return [100 * float(c.get(key) or 0.0) for c in changes]

    return Series(model, m.kind(model), x, points("value"), points("low"), points("high"))


def benchmark_views(run: Run) -> list[BenchmarkView]:
    """Tables and plots of every benchmark."""
    return [view(m) for m in measured(run)]


def shown(m: Measured) -> list[str]:
    """The metrics of a benchmark that are looked at first: thresholds of REC, else those that `SHOWN` names,
    else all.
    """
    every = list(next(iter(m.metrics.values()))["values"])
    if _protocol(m) == "rec":
        return [n for n in every if ACCURACY.match(n)]
    # box alone counts less than box and phrase
    return sorted([n for n in every if SHOWN.match(n)] or every, key=lambda n: n.startswith("box_"))


def view(m: Measured) -> BenchmarkView:
    """Tables and plots of one benchmark."""
    if _protocol(m) == "rec":
        return _rec_view(m)
    columns = ["", *(n.replace("_", " ") for n in shown(m))]
    return BenchmarkView(
        f"{m.name}: {_protocol(m).replace('_', ' ')}", [TableView("", columns, _rows(m, shown(m)))]
    )


@dataclass(frozen=True, slots=True)
class Tile:
    """A figure of the first screen."""

    name: str
    value: str
    change: str
    kind: str  # up, down, or "" where the interval of the change holds 0


HEADLINE = {"acc@0.5": "IoU 0.5", "acc@0.7": "IoU 0.7", "acc@0.9": "IoU 0.9", "mean_iou": "mean IoU"}


def headline(run: Run) -> tuple[str, list[Tile]]:
    """The first referring benchmark in a few figures: what it is, and base -> trained at the loosest, a
    middle and the strictest threshold.
    """
    m = next((m for m in measured(run) if _protocol(m) == "rec" and m.trained is not None), None)
    if m is None or m.trained is None:
        return "", []
    tiles = []
    for metric, name in HEADLINE.items():
        change, before, after = (
            m.change(m.trained, metric),
            m.metrics["base"]["values"].get(metric),
            m.metrics[m.trained]["values"].get(metric),
        )
        if change is not None and change["value"] is not None:
            kind = ("up" if change["value"] > 0 else "down") if change["significant"] else ""
            tiles.append(
                Tile(
                    name,
                    f"{_figure(before, metric)} → {_figure(after, metric)}",
                    _interval(change, metric, True),
                    kind,
                )
            )
    return (
        f"{m.trained} against base, {m.name}: referring expressions, accuracy in percent and change in "
        "points with its 95 % interval",
        tiles,
    )
