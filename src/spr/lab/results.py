"""`make results`: every claim of the paper on the embedded world, against controls, three training seeds
each; writes docs/results.md.

In: demo.yaml beside this file. Out: runs/results (a run folder whose variants stand in rows/<row>-seed<n>/,
as those of `spr ablate` do) with rows.json (where the answers of every row are); docs/results.md with its
plots; docs/results.json. A killed run goes on.

The regions and the descriptions of the first round are the same for every row, and so are the questions; a
row says what differs.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from spr.errors import DataError
from spr.evaluation.metrics import THRESHOLDS
from spr.evaluation.results import BASE
from spr.evaluation.tables import PAPER_REC, markdown_table
from spr.lab.demo import CONFIG, LABEL, QUICK
from spr.lab.verdicts import Figures, Measurements, gain_text, verdicts, with_interval
from spr.report.pictures import Series, plot_file
from spr.run.ablate import Variant, plan, run_variants
from spr.run.wiring import Config, load_config
from spr.store.bars import progress_shown
from spr.store.folders import EVALUATION, PAIRS, PREDICTIONS
from spr.store.run import Run

SEEDS = (7, 8, 9)
REC, OTHERS = ("test", "shifted"), ("test_describe", "test_what_is_at")
ROWS = "rows"


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table: a training of demo.yaml (`adapter`) with changes to sections. `rec_only`: not
    asked for its other abilities.
    """

    name: str
    label: str
    adapter: str
    train: Mapping[str, Any] = field(default_factory=dict)
    pair: Mapping[str, Any] = field(default_factory=dict)
    score: Mapping[str, Any] = field(default_factory=dict)
    rec_only: bool = False

    @property
    def model(self) -> str:
        """The name under which evaluation knows it."""
        rounds = self.train.get("rounds", 1)
        return self.adapter if rounds == 1 else f"{self.adapter}-round-{rounds}"

    def config(self, base: Config, seed: int) -> Config:
        """The configuration of the row, of which the training alone has the seed."""
        benchmarks = tuple(b for b in base.evaluate.benchmarks if b.name in REC or not self.rec_only)
        return replace(
            base,
            score=replace(base.score, **self.score),
            pair=replace(base.pair, **self.pair),
            adapters={self.adapter: {**base.adapters[self.adapter], **self.train, "seed": seed}},
            evaluate=replace(base.evaluate, benchmarks=benchmarks),
        )


SFT = {"loss": "sft", "sft_weight": 0.0, "rejected_coordinates": "all"}
TABLE = (
    Row("spr_paper", "plain DPO, as the paper has it", "spr_paper"),
    Row("spr_paper_original", "- without refinement", "spr_paper", pair={"chosen": "original"}),
    Row("lambda_0", "- lambda 0 (boxes alone)", "spr_paper", pair={"lam": 0.0}, rec_only=True),
    Row("lambda_0.5", "- lambda 0.5", "spr_paper", pair={"lam": 0.5}, rec_only=True),
    Row("lambda_1", "- lambda 1 (meaning alone)", "spr_paper", pair={"lam": 1.0}, rec_only=True),
    Row("spr", "our setting", "spr"),
    Row("spr_original", "- without refinement", "spr", pair={"chosen": "original"}),
    Row("spr_no_detector", "- detector off", "spr", score={"detector_side": "none"}, rec_only=True),
    Row(
        "spr_no_annotations",
        "- annotations off: what the detector finds alone",
        "spr",
        score={"annotated": False},
    ),
    Row("spr_two_rounds", "- two rounds (twice the steps)", "spr", train={"rounds": 2}),
    Row("sft_chosen", "SFT on the chosen answers", "spr", train=SFT),
    Row(
        "sft_annotated",
        "SFT on the annotations of the same regions",
        "spr",
        train=SFT,
        pair={"chosen": "annotated"},
    ),
)


def variant_name(row: str, seed: int) -> str:
    """The folder of a row and seed."""
    return f"{row}-seed{seed}"


def settings(base: Config, seeds: Sequence[int]) -> dict[str, Config]:
    """Every row with every seed, by name."""
    return {variant_name(row.name, seed): row.config(base, seed) for row in TABLE for seed in seeds}


def answers_of(
    variants: Sequence[Variant], seeds: Sequence[int], run: Run
) -> dict[str, dict[str, list[str]]]:
    """Where the answers are, in the run: {row: {benchmark: [a file per seed]}}; the base model's stand
    once.
    """
    by_name = {v.name: v for v in variants}
    found: dict[str, dict[str, list[str]]] = {BASE: {}}
    for row in TABLE:
        for seed in seeds:
            v = by_name[variant_name(row.name, seed)]
            for b in v.config.evaluate.benchmarks:
                for model, key in ((BASE, BASE), (row.model, row.name)):
                    path = v.run.path(EVALUATION, b.name, model, PREDICTIONS).removeprefix(f"{run.root}/")
                    files = found.setdefault(key, {}).setdefault(b.name, [])
                    if path not in files:
                        files.append(path)
    return found


# --- the page -------------------------------------------------------------------------------------


def _cell(f: Figures, metric: str) -> str:
    change = f.change(metric)
    value = f"{100 * f.value(metric):.1f}"
    return value if change is None else f"{value} ({gain_text(change)})"


def rec_table(found: Measurements, benchmark: str) -> str:
    """The paper's two rows, then ours; * where the 95 % interval of the change excludes 0."""
    before, after = PAPER_REC.items()
    rows = [
        [before[0], *(f"{before[1][t]:.1f}" for t in THRESHOLDS), ""],
        [
            after[0],
            *(f"{after[1][t]:.1f} ({after[1][t] - before[1][t]:+.1f})" for t in THRESHOLDS),
            "10k images",
        ],
    ]
    for name, label in labels():
        rows.append(
            [
                label,
                *(_cell(found.of(name, benchmark), f"acc@{t:g}") for t in THRESHOLDS),
                found.pairs.get(name, ""),
            ]
        )
    return markdown_table(["accuracy at IoU", *(f"{t}" for t in THRESHOLDS), "pairs"], rows)


def interval_table(found: Measurements, benchmark: str) -> str:
    """Every row's change against the base, in points, with its 95 % interval."""
    changes = [(label, found.of(name, benchmark).changes) for name, label in labels() if name != BASE]
    rows = [[label, *(with_interval(c[f"acc@{t:g}"]) for t in THRESHOLDS)] for label, c in changes]
    return markdown_table(["change at IoU", *(f"{t}" for t in THRESHOLDS)], rows)


def labels() -> Iterator[tuple[str, str]]:
    """Every row with what the table calls it."""
    yield BASE, "**embedded model, base**"
    for row in TABLE:
        yield row.name, row.label if row.label.startswith("-") else f"**{row.label}**"


ABILITIES = {
    "test_describe": ("f1@0.5", "f1@0.7", "f1@0.9", "matched_iou", "boxes_per_answer", "words_per_answer"),
    "test_what_is_at": ("accuracy",),
}


def ability_table(found: Measurements) -> str:
    """Other abilities, over the seeds: one line per model, one column per figure."""
    columns = [(b, figure) for b, figures in ABILITIES.items() for figure in figures]
    header = ["", *(f"{b.removeprefix('test_')}: {figure}".replace("_", " ") for b, figure in columns)]
    asked = [(name, label) for name, label in labels() if found.has(name, OTHERS[0])]
    return markdown_table(
        header,
        [
            [label, *(f"{found.of(name, b).value(figure):.3f}" for b, figure in columns)]
            for name, label in asked
        ],
    )


PLOTTED = {
    "spr": ("our setting", "tuned"),
    "spr_paper": ("plain DPO", "region"),
    "sft_chosen": ("SFT on the chosen answers", "control"),
    "spr_original": ("our setting without refinement", "rejected"),
}
TITLES = {"test": "Test", "shifted": "Shifted test (denser scenes, other backgrounds and sizes)"}


def plots(found: Measurements) -> dict[str, str]:
    """SVG files by name: the gain by threshold on both tests, the main rows beside the paper's."""
    before, after = PAPER_REC.values()
    files = {}
    for benchmark in REC:
        series = [Series("paper: Ferret-7B", "paper", THRESHOLDS, [after[t] - before[t] for t in THRESHOLDS])]
        for row, (name, kind) in PLOTTED.items():
            changes = found.of(row, benchmark).changes
            value, low, high = (
                [100 * float(getattr(changes[f"acc@{t:g}"], key) or 0.0) for t in THRESHOLDS]
                for key in ("value", "low", "high")
            )
            series.append(Series(name, kind, THRESHOLDS, value, low, high))
        files[f"results_{benchmark}.svg"] = plot_file(
            f"Gain over the base: {benchmark}", series, "IoU threshold", "points", zero=True
        )
    return files


def page(found: Measurements, seeds: Sequence[int], label: str) -> str:
    """docs/results.md."""
    parts = ["# Results on the embedded world", ""]
    parts += [
        "Printed by `make results`; do not edit by hand. `python docs/results_table.py` computes the "
        "tables again from the answers."
    ]
    parts += ["", f"**{label}**"] if label else []
    seeded = f"mean of {len(seeds)} training seeds" if len(seeds) > 1 else "one training seed"
    for benchmark, title in TITLES.items():
        parts += [
            "",
            f"## {title}",
            "",
            f"{found.of(BASE, benchmark).n} referring expressions, {seeded}; change against the base in "
            "points,",
        ]
        parts += [
            "\\* = its 95 % interval (paired bootstrap over images) excludes 0.",
            "",
            rec_table(found, benchmark),
        ]
        parts += [
            "",
            f"![gain by threshold](results_{benchmark}.svg)",
            "",
            "The changes with their intervals:",
            "",
            interval_table(found, benchmark),
        ]
    parts += ["", "## Other abilities", "", ability_table(found), "", "## The claims", ""]
    for claim in verdicts(found):
        parts += [f"### {claim.title}", "", f"**{claim.verdict}.** {claim.text}", ""]
    return "\n".join(parts)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line of `make results`."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, help="run folder; default: runs/results, or runs/results-quick")
    parser.add_argument(
        "--docs",
        type=Path,
        help="folder of results.md, its plots and results.json; default: docs, or the run folder when quick",
    )
    parser.add_argument("--quick", action="store_true", help="one seed, a tenth of the data")
    args = parser.parse_args(arguments)
    out = args.out or Path("runs") / ("results-quick" if args.quick else "results")
    docs: Path = args.docs or (out if args.quick else Path("docs"))
    seeds = SEEDS[:1] if args.quick else SEEDS
    base = load_config(CONFIG, [f"run={out.absolute()}", *(QUICK if args.quick else ())])
    variants = plan(base, (ROWS,), settings(base, seeds))
    run_variants(base, variants, progress_shown())
    run = Run(base.run)
    files = answers_of(variants, seeds, run)
    run.write_json([{"row": row, "answers": answers} for row, answers in files.items()], "rows.json")
    found = Measurements(run, base.evaluate, files, pairs_of(variants, seeds))
    text = page(found, seeds, LABEL if args.quick else "")
    print(text)
    for name, content in {
        "results.md": text,
        "results.json": json.dumps(found.everything()) + "\n",
        **plots(found),
    }.items():
        (docs / name).write_text(content, encoding="utf-8")


def pairs_of(variants: Sequence[Variant], seeds: Sequence[int]) -> dict[str, str]:
    """How many pairs each row was trained on, in its first round."""
    counts = {}
    for row in TABLE:
        v = next(v for v in variants if v.name == variant_name(row.name, seeds[0]))
        summary = v.run.summary(PAIRS)
        if summary is None:
            raise DataError(f"{v.run.path(PAIRS)}: found no finished pairs")
        counts[row.name] = str(summary.rows)
    return counts


if __name__ == "__main__":
    main()
