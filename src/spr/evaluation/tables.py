"""Tables that people read: one model's metrics; all models beside each other, for REC by threshold and beside
the paper's row.

In: metrics.json and comparison.json as mappings. Out: Markdown. Every table says n and how many answers were
not read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from spr.dialects.explain import counted

# Paper, table of Acc by IoU: mean of the eight splits of RefCOCO, RefCOCO+ and RefCOCOg.
PAPER_REC: Mapping[str, Mapping[float, float]] = {
    "paper: Ferret-7B": {0.5: 83.91, 0.6: 81.28, 0.7: 76.72, 0.8: 67.02, 0.9: 43.25},
    "paper: Ferret-7B + SPR": {0.5: 84.93, 0.6: 82.36, 0.7: 78.42, 0.8: 70.09, 0.9: 52.21},
}
_PLAIN_NUMBERS = (
    "boxes_per_answer",
    "objects_per_region",
    "words_per_answer",
    "words_outside_per_answer",
    "cider",
)


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown, without a line break at its end."""
    lines = (header, ["---"] * len(header), *rows)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _shown(metric: str, value: float | None, sign: bool = False) -> str:
    """A share in percent, other numbers as they are; "–" where there is none."""
    if value is None:
        return "–"
    number = value if metric in _PLAIN_NUMBERS else 100 * value
    return f"{number:+.2f}" if sign else f"{number:.2f}"


def estimate_text(metric: str, estimate: Mapping[str, Any]) -> str:
    """The value with its interval: "84.9 [83.1, 86.4]"."""
    text = _shown(metric, estimate["value"])
    if estimate["low"] is None:
        return text
    return f"{text} [{_shown(metric, estimate['low'])}, {_shown(metric, estimate['high'])}]"


def metrics_table(metrics: Mapping[str, Any]) -> str:
    """One model on one benchmark: metrics down, splits and groups across. Shares in percent."""
    parts: dict[str, Mapping[str, Any]] = {"all": metrics}
    if len(metrics["splits"]) > 1:
        parts |= metrics["splits"]
    parts |= metrics["groups"]
    names = list(metrics["values"])
    rows = [[count, *(str(p[count]) for p in parts.values())] for count in ("n", "unparsed")]
    rows += [[name, *(estimate_text(name, p["values"][name]) for p in parts.values())] for name in names]
    text = markdown_table(["", *parts], rows)
    if "mean_over_splits" in metrics:
        means = [f"{name} {estimate_text(name, e)}" for name, e in metrics["mean_over_splits"].items()]
        text += "\n\nmean over splits: " + " · ".join(means)
    return text + problem_list({"": metrics})


def problem_list(models: Mapping[str, Mapping[str, Any]]) -> str:
    """What was wrong with how many answers of each model, as a list below a table; empty where nothing was:
    "- base: 12 of 300: fractions where whole units are meant". A model without a name is not named.
    """
    lines = [
        f"- {model}: {line}" if model else f"- {line}"
        for model, metrics in models.items()
        for line in counted(metrics.get("details", {}), metrics["n"])
    ]
    return "\n\nproblems of the answers\n\n" + "\n".join(lines) if lines else ""


def _thresholds(metrics: Mapping[str, Any]) -> list[str]:
    return [name for name in metrics["values"] if name.startswith(("acc@", "upper_bound_acc@"))]


def _columns(metrics: Mapping[str, Any]) -> list[str]:
    """What is compared: every threshold of REC, else all metrics."""
    return _thresholds(metrics) if metrics["protocol"] == "rec" else list(metrics["values"])


def _paper_rows(columns: Sequence[str]) -> list[list[str]]:
    rows = []
    for name, values in PAPER_REC.items():
        cells = [
            f"{values[t]:.2f}" if c.startswith("acc@") and (t := float(c[4:])) in values else ""
            for c in columns
        ]
        rows.append([name, *cells, "8 splits", ""])
    return rows


def comparison_table(
    models: Mapping[str, Mapping[str, Any]], comparison: Mapping[str, Any], columns: Sequence[str] = ()
) -> str:
    """All models on one benchmark, with the change against the reference in brackets; * where its 95 %
    interval excludes 0.

    `columns` are the metrics to show; by default every threshold of REC, else all.
    """
    first = next(iter(models.values()))
    columns = columns or _columns(first)
    mean = "mean_over_splits" in first
    rows = _paper_rows(columns) if first["protocol"] == "rec" else []
    for model, metrics in models.items():
        values = metrics["mean_over_splits"] if mean else metrics["values"]
        about = comparison["models"].get(model)
        changes = about["mean_over_splits" if mean else "differences"] if about else {}
        cells = []
        for name in columns:
            change = changes.get(name)
            said = (
                f" ({_shown(name, change['value'], sign=True)}{'*' if change['significant'] else ''})"
                if change and change["value"] is not None
                else ""
            )
            cells.append(_shown(name, values[name]["value"]) + said)
        rows.append([model, *cells, str(metrics["n"]), str(metrics["unparsed"])])
    return markdown_table(
        [f"{first['protocol']}{', mean over splits' if mean else ''}", *columns, "n", "unparsed"], rows
    )
