"""The claims of the paper, each with a verdict that follows by rule from the figures, and with the figures.

In: the answers of every row of `make results` (predictions.parquet). Out: figures of the mean over training
seeds, with paired bootstrap intervals; verdicts. A verdict says `holds`, `contradicted`, `mixed` or `not
seen` (no significant difference), and never more than the intervals do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np

from spr.evaluation.config import EvaluationConfig
from spr.evaluation.metrics import THRESHOLDS
from spr.evaluation.protocols import protocol_named
from spr.evaluation.results import BASE
from spr.evaluation.rows import read_predictions
from spr.evaluation.statistics import Bootstrap, Estimate, Floats, Mask, Metric, Sums, Table
from spr.store.config import load
from spr.store.run import Run

GROWTH = "acc@0.9 - acc@0.5"
BOXES = "box_f1@0.9"
# ours: a gain may fall by half a point from one threshold to the next and still be said to grow
NOISE = 0.005


def significant(e: Estimate) -> int:
    """1 or -1 where the 95 % interval lies above or below 0, else 0."""
    if e.low is None or e.high is None:
        return 0
    return 1 if e.low > 0 else -1 if e.high < 0 else 0


def gain_text(e: Estimate) -> str:
    """A change in points: "+16.3*"."""
    return f"{100 * (e.value or 0.0):+.1f}{'*' if significant(e) else ''}"


def with_interval(e: Estimate) -> str:
    """A change in points with its interval: "+16.3 [14.1, 18.4]"."""
    if e.low is None or e.high is None:
        return gain_text(e)
    return f"{100 * (e.value or 0.0):+.1f} [{100 * e.low:+.1f}, {100 * e.high:+.1f}]"


@dataclass(frozen=True, slots=True)
class Figures:
    """One row on one benchmark: values, and changes against the base (none for the base itself)."""

    n: int
    values: Mapping[str, Estimate]
    changes: Mapping[str, Estimate]

    def value(self, metric: str) -> float:
        """The value of a metric; nan where it is undefined."""
        found = self.values[metric].value
        return float("nan") if found is None else found

    def change(self, metric: str) -> Estimate | None:
        """The change of a metric against the base."""
        return self.changes.get(metric)


def mean_of(tables: Sequence[Table]) -> Table:
    """The table of the mean over seeds: every column's mean, item by item."""
    return replace(
        tables[0],
        columns={name: np.mean([t.columns[name] for t in tables], axis=0) for name in tables[0].columns},
    )


def _growth(table: Table) -> Table:
    """With the difference between the accuracies at the strictest and the loosest threshold as a metric."""

    def metric(sums: Sums) -> Floats:
        difference: Floats = (sums["acc@0.9"] - sums["acc@0.5"]) / sums["n"]
        return difference

    return replace(table, metrics={**table.metrics, GROWTH: metric})


def between(table: Table, some: Mask) -> Table:
    """Every metric of some of the items minus that of the others, as metrics of one table."""

    def difference(metric: Metric) -> Metric:
        return lambda sums: (
            metric({n: sums[f"1 {n}"] for n in table.columns})
            - metric({n: sums[f"0 {n}"] for n in table.columns})
        )

    columns = {
        f"{side} {name}": column * keep
        for side, keep in (("1", some), ("0", ~some))
        for name, column in table.columns.items()
    }
    return Table(columns, {name: difference(metric) for name, metric in table.metrics.items()}, {})


class Measurements:
    """All rows on all benchmarks. `pairs`: how many pairs each row was trained on, for the table."""

    def __init__(
        self,
        run: Run,
        evaluate: EvaluationConfig,
        files: Mapping[str, Mapping[str, Sequence[str]]],
        pairs: Mapping[str, str],
    ) -> None:
        self.pairs = pairs
        self._tables: dict[tuple[str, str], Table] = {}
        self._draws: dict[str, Bootstrap] = {}
        self._found: dict[tuple[str, str], Figures] = {}
        for benchmark in evaluate.benchmarks:
            protocol = protocol_named(benchmark.protocol)
            options: Any = load(protocol.options, benchmark.options)
            for row, where in files.items():
                rows = [
                    read_predictions(run, *path.split("/")[:-1]) for path in where.get(benchmark.name, ())
                ]
                if rows:
                    self._draws.setdefault(
                        benchmark.name,
                        Bootstrap([r.image for r in rows[0]], evaluate.bootstrap, evaluate.seed),
                    )
                    table = mean_of([protocol.tabulate(r, options) for r in rows])
                    self._tables[row, benchmark.name] = _growth(table) if protocol.name == "rec" else table

    def has(self, row: str, benchmark: str) -> bool:
        """Whether the row was asked that benchmark."""
        return (row, benchmark) in self._tables

    def of(self, row: str, benchmark: str) -> Figures:
        """The figures of a row."""
        key = row, benchmark
        if key not in self._found:
            table = self._tables[key]
            everything = np.ones(len(table.columns["n"]), dtype=bool)
            values = self._draws[benchmark].estimates([(table, everything)])
            self._found[key] = Figures(
                len(everything), values, {} if row == BASE else self.difference(row, BASE, benchmark)
            )
        return self._found[key]

    def difference(self, row: str, other: str, benchmark: str) -> Mapping[str, Estimate]:
        """Every metric of a row minus that of another, paired."""
        everything = np.ones(len(self._tables[row, benchmark].columns["n"]), dtype=bool)
        ours, theirs = self._tables[row, benchmark], self._tables[other, benchmark]
        return self._draws[benchmark].differences([(ours, everything)], [(theirs, everything)])

    def more_where(
        self, row: str, other: str, benchmark: str, column: str
    ) -> tuple[float, Mapping[str, Estimate]]:
        """How much more a row gains over another where a column is above its median than elsewhere; and the
        median.
        """
        ours, theirs = self._tables[row, benchmark], self._tables[other, benchmark]
        median = float(np.median(ours.columns[column]))
        some = ours.columns[column] > median
        everything = np.ones(len(some), dtype=bool)
        return median, self._draws[benchmark].differences(
            [(between(ours, some), everything)], [(between(theirs, some), everything)]
        )

    def everything(self) -> dict[str, Any]:
        """All figures, for results.json: {benchmark: {row: {n, values, changes}}}."""
        found: dict[str, Any] = {}
        for row, benchmark in self._tables:
            found.setdefault(benchmark, {})[row] = asdict(self.of(row, benchmark))
        return found


# --- the claims -----------------------------------------------------------------------------------

HOLDS, MIXED, NOT_SEEN, CONTRADICTED = "Holds", "Mixed", "Not seen", "Contradicted"


@dataclass(frozen=True, slots=True)
class Claim:
    """A claim, the verdict, and what it stands on."""

    title: str
    verdict: str
    text: str


METHODS = {"spr_paper": "plain DPO", "spr": "our setting"}


def _accuracies(changes: Mapping[str, Estimate]) -> list[Estimate]:
    return [changes[f"acc@{t:g}"] for t in THRESHOLDS]


def _row_of(changes: Mapping[str, Estimate]) -> str:
    """Changes at all thresholds: "-0.5 / -0.6 / +0.1 / +3.2* / +10.1*"."""
    return " / ".join(gain_text(e) for e in _accuracies(changes))


def _better(changes: Mapping[str, Estimate]) -> str:
    """The verdict of "this is better": significantly so at a threshold and at none worse; the opposite; or
    neither.
    """
    signs = {significant(e) for e in _accuracies(changes)}
    if 1 in signs:
        return HOLDS if -1 not in signs else MIXED
    return CONTRADICTED if -1 in signs else NOT_SEEN


def _together(found: Mapping[str, str]) -> str:
    """One verdict where all are the same, else each with what it is about."""
    if len(set(found.values())) == 1:
        return next(iter(found.values()))
    text = "; ".join(f"{name}: {verdict.lower()}" for name, verdict in found.items())
    return text[0].upper() + text[1:]


def grows(m: Measurements) -> Claim:
    """(a) The gain grows with the IoU threshold."""
    parts, found = [], {}
    for row, name in METHODS.items():
        changes = m.of(row, "test").changes
        gains = [e.value or 0.0 for e in _accuracies(changes)]
        rising = all(after >= before - NOISE for before, after in pairwise(gains))
        found[name] = (CONTRADICTED, NOT_SEEN, HOLDS if rising else MIXED)[1 + significant(changes[GROWTH])]
        parts.append(
            f"{name} {_row_of(changes)}; the gain at 0.9 minus that at 0.5 is "
            f"{with_interval(changes[GROWTH])}"
        )
    text = (
        "At IoU 0.5 / 0.6 / 0.7 / 0.8 / 0.9: "
        + "; ".join(parts)
        + ". Paper: +1.0 / +1.1 / +1.7 / +3.1 / +9.0."
    )
    return Claim("(a) The gain grows with the IoU threshold", _together(found), text)


def against_sft(m: Measurements) -> Claim:
    """(b) Preference training gains more than imitation of the chosen answers."""
    parts, found = [], {}
    for row, name in METHODS.items():
        changes, shifted = (m.difference(row, "sft_chosen", benchmark) for benchmark in ("test", "shifted"))
        found[name] = _better(changes)
        parts.append(f"{name} {_row_of(changes)}, shifted {_row_of(shifted)}")
    text = (
        "Minus SFT on the chosen answers (the same answers, as many steps, at the rate of our setting): "
        + "; ".join(parts)
        + ". Paper: +1.02 points at 0.5 for DPO, +0.44 for SFT."
    )
    return Claim("(b) Preference training gains more than SFT on the chosen answers", _together(found), text)


def of_lambda(m: Measurements) -> Claim:
    """(c) Lambda 0.8 is better than either score alone."""
    changes = {
        row.replace("_", " "): m.difference("spr_paper", row, "test")
        for row in ("lambda_0", "lambda_0.5", "lambda_1")
    }
    text = "Plain DPO with lambda 0.8, minus " + "; minus ".join(
        f"{name}: {_row_of(c)}" for name, c in changes.items()
    )
    found = {f"against {name}": _better(changes[name]) for name in ("lambda 0", "lambda 1")}
    return Claim(
        "(c) Lambda 0.8 is better than either score alone",
        _together(found),
        text + ". The paper finds 0 and 1 clearly worse.",
    )


def of_refinement(m: Measurements) -> Claim:
    """(d) Refinement helps, most for several objects."""
    parts, found = [], {}
    for row, name in METHODS.items():
        changes = m.difference(row, f"{row}_original", "test")
        found[name] = _better(changes)
        described = m.difference(row, f"{row}_original", "test_describe")[BOXES]
        median, more = m.more_where(row, f"{row}_original", "test_describe", "objects")
        found[f"{name}, most for several objects"] = (CONTRADICTED, NOT_SEEN, HOLDS)[
            1 + significant(more[BOXES])
        ]
        parts.append(
            f"{name} {_row_of(changes)}; box F1 of descriptions at 0.9 {with_interval(described)}; "
            f"regions of more than {median:.0f} objects gain {with_interval(more[BOXES])} more of it than "
            "the others"
        )
    return Claim(
        "(d) Refinement helps, most for several objects",
        _together(found),
        "With minus without: " + "; ".join(parts) + ".",
    )


def keeps(m: Measurements) -> Claim:
    """(e) Other abilities are kept."""
    parts, found = [], {}
    for row, name in METHODS.items():
        described = m.of(row, "test_describe")
        watched = {
            "what-is-at": m.of(row, "test_what_is_at").changes["accuracy"],
            "F1 of descriptions at 0.5": described.changes["f1@0.5"],
        }
        lost = [what for what, e in watched.items() if significant(e) < 0]
        found[name] = f"loses {', '.join(lost)}" if lost else HOLDS
        figures = [f"{what} {with_interval(e)}" for what, e in watched.items()]
        for key, what in (("boxes_per_answer", "boxes"), ("words_per_answer", "words")):
            figures.append(
                f"{described.value(key):.2f} {what} an answer ({described.changes[key].value or 0.0:+.2f})"
            )
        parts.append(f"{name} {', '.join(figures)}")
    text = (
        "Change against the base: "
        + "; ".join(parts)
        + ". `exists` says nothing here: the base answers yes to everything."
    )
    return Claim("(e) Other abilities are kept", _together(found), text)


def under_shift(m: Measurements) -> Claim:
    """(f) The gain holds on the shifted test."""
    changes = {name: m.of(row, "shifted").changes for row, name in METHODS.items()}
    text = "; ".join(f"{name} {_row_of(c)}" for name, c in changes.items())
    return Claim(
        "(f) The gain holds on the shifted test",
        _together({name: _better(c) for name, c in changes.items()}),
        f"At IoU 0.5 … 0.9: {text}.",
    )


def verdicts(m: Measurements) -> list[Claim]:
    """All claims in order."""
    return [grows(m), against_sft(m), of_lambda(m), of_refinement(m), keeps(m), under_shift(m)]
