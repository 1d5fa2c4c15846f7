"""`make results`: SPR against its controls on the embedded world, three training seeds each; prints docs/results.md.

    spr         our setting, spr_paper: plain DPO as the paper has it; both as in configs/demo.yaml
    control     supervised fine-tuning on the chosen answers: the same answers, as many steps

In: nothing. Out: runs/results (one run folder: pairs are made once, each adapter has a folder, all models stand in evaluation/), docs/results.md and
docs/results.json. A killed run goes on. The pairs, and so the questions, are the same for every row; only the training differs.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from spr import pipeline
from spr.artifacts import Run
from spr.cli import BarProgress
from spr.evaluation.metrics import THRESHOLDS
from spr.evaluation.protocols.rec import RecOptions, tabulate
from spr.evaluation.rows import read_predictions
from spr.evaluation.statistics import Bootstrap
from spr.evaluation.tables import PAPER_REC
from spr.evaluation.tables import line as _line
from spr.executor import Progress, claim
from spr.scenes.demo import CONFIG
from spr.training.config import TrainConfig, TrainResult
from spr.types import Prediction, TrainingPair
from spr.wiring import Config, load_config, trainings

SEEDS = (7, 8, 9)
SHIFTED, TEST = "shifted", "test"


def variants(config: Config) -> Mapping[str, TrainConfig]:
    """The trainings that are compared. All see the same pairs for as many steps."""
    found = trainings(config)
    return {**found, "control": replace(found["spr"], loss="sft", sft_weight=0.0, rejected_coordinates="all")}


@dataclass(frozen=True, slots=True)
class Row:
    """Accuracy and change against the base by threshold, in points; the interval is that of the mean over seeds."""

    name: str
    n: int
    accuracy: Mapping[float, float]
    change: Mapping[float, tuple[float, float, float]]  # mean, low, high


def folder_of(name: str, seed: int) -> str:
    """Adapter and model name of a training."""
    return name if seed == SEEDS[0] else f"{name}-seed{seed}"


def _train_one(config: Config, out: str, section: TrainConfig, seed: int) -> TrainResult:
    pairs = Run(config.run).read_stage(TrainingPair, "pairs")
    return pipeline.train_on(replace(config, runtime=replace(config.runtime, workers=1)), pairs, out, section, seed, Progress())


def train_all(config: Config, run: Run, progress: Progress) -> dict[str, str]:
    """Train what is missing, one process per worker. Returns the digest of every model by name."""
    upstream = pipeline.upstream_digest(run, "pair")
    digests = {"base": ""}
    missing: dict[str, tuple[TrainConfig, int]] = {}
    for name, section in variants(config).items():
        for seed in SEEDS:
            model = folder_of(name, seed)
            digests[model] = claim(run, "train", ("adapter", model), {"upstream": upstream, "train": asdict(section), "seed": seed})
            if not run.exists("adapter", model, "_stage.json"):
                missing[model] = (section, seed)
    progress.start("train", len(digests) - 1, len(digests) - 1 - len(missing))
    with ProcessPoolExecutor(config.runtime.workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        waiting = {pool.submit(_train_one, config, run.path("adapter", m), *how): m for m, how in missing.items()}
        for future in as_completed(waiting):
            model = waiting[future]
            run.write_json({"stage": "train", "digest": digests[model], **asdict(future.result())}, "adapter", model, "_stage.json")
            progress.advance(1)
    progress.end(f"{len(digests) - 1} adapters")
    return digests


def rec_row(run: Run, benchmark: str, name: str) -> Row:
    """Accuracy over seeds against the base: hits averaged over seeds per item, then a paired bootstrap over images."""
    base = _predictions(run, benchmark, "base")
    before = tabulate(base, RecOptions())
    models = [tabulate(_predictions(run, benchmark, folder_of(name, s)), RecOptions()) for s in SEEDS] if name != "base" else [before]
    after = replace(before, columns={key: np.mean([m.columns[key] for m in models], axis=0) for key in before.columns})
    draws, everything = Bootstrap([r.image for r in base]), np.ones(len(base), dtype=bool)
    values = draws.estimates([(after, everything)])
    changes = draws.differences([(after, everything)], [(before, everything)])
    accuracy, change = {}, {}
    for t in THRESHOLDS:
        found = changes[f"acc@{t:g}"]
        accuracy[t] = 100 * (values[f"acc@{t:g}"].value or 0.0)
        change[t] = (100 * (found.value or 0.0), 100 * (found.low or 0.0), 100 * (found.high or 0.0))
    return Row(name, len(base), accuracy, change)


def _predictions(run: Run, benchmark: str, model: str) -> list[Prediction]:
    return read_predictions(run, "evaluation", benchmark, model)


LABELS = {
    "base": "embedded model, base",
    "spr": "+ SPR, our setting",
    "spr_paper": "+ SPR, plain DPO as in the paper",
    "control": "+ SFT on the chosen answers (control)",
}


def table(rows: Sequence[Row]) -> str:
    """The paper's two rows, then ours; * where the 95 % interval of the change excludes 0."""
    lines = [_line(["REC accuracy at IoU", *(f"{t}" for t in THRESHOLDS)]), _line(["---"] * 6)]
    before, after = PAPER_REC.items()
    lines.append(_line([before[0], *(f"{before[1][t]:.1f}" for t in THRESHOLDS)]))
    lines.append(_line([after[0], *(f"{after[1][t]:.1f} ({after[1][t] - before[1][t]:+.1f})" for t in THRESHOLDS)]))
    for row in rows:
        cells = []
        for t in THRESHOLDS:
            mean, low, high = row.change[t]
            star = "*" if low > 0 or high < 0 else ""
            cells.append(f"{row.accuracy[t]:.1f}" + (f" ({mean:+.1f}{star})" if row.name != "base" else ""))
        lines.append(_line([LABELS[row.name], *cells]))
    return "\n".join(lines)


def ability_table(run: Run, names: Sequence[str], benchmarks: Mapping[str, Sequence[str]]) -> str:
    """Other abilities, mean over seeds: one line per model, one column per (benchmark, figure)."""
    columns = [(b, figure) for b, figures in benchmarks.items() for figure in figures]
    lines = [_line(["", *(f"{b}: {figure}" for b, figure in columns)]), _line(["---"] * (len(columns) + 1))]
    for name in names:
        cells = []
        for b, figure in columns:
            values = [_figure(run, b, folder_of(name, s), figure) for s in (SEEDS if name != "base" else SEEDS[:1])]
            known = [v for v in values if v is not None]
            cells.append(f"{np.mean(known):.3f}" if known else "–")
        lines.append(_line([LABELS[name], *cells]))
    return "\n".join(lines)


def _figure(run: Run, benchmark: str, model: str, figure: str) -> float | None:
    value: float | None = run.read_json("evaluation", benchmark, model, "metrics.json")["values"].get(figure, {}).get("value")
    return value


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line of `make results`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/results"))
    parser.add_argument("--docs", type=Path, default=Path("docs"), help="folder of results.md and results.json")
    args = parser.parse_args(arguments)
    config = load_config(CONFIG, [f"run={args.out.absolute()}"])
    progress = BarProgress()
    run = pipeline.run_pipeline(config, progress, until="pair")
    digests = train_all(config, run, progress)
    adapters = {name: None if name == "base" else run.path("adapter", name) for name in digests}
    pipeline.evaluate_adapters(config, run, adapters, digests, progress)
    names = ["base", *variants(config)]
    rows = {b: [rec_row(run, b, name) for name in names] for b in (TEST, SHIFTED)}
    text = report(run, rows, names)
    print(text)
    (args.docs / "results.md").write_text(text, encoding="utf-8")
    raw = {b: [asdict(r) for r in found] for b, found in rows.items()}
    (args.docs / "results.json").write_text(json.dumps(raw, indent=2) + "\n", encoding="utf-8")


ABILITIES = {
    "test_describe": ("f1@0.5", "f1@0.7", "f1@0.9", "box_f1@0.9", "matched_iou", "boxes_per_answer"),
    "test_what_is_at": ("accuracy",),
}


def report(run: Run, rows: Mapping[str, Sequence[Row]], names: Sequence[str]) -> str:
    """docs/results.md."""
    parts = ["# Results on the embedded world", "", "Printed by `make results`; do not edit by hand.", ""]
    for benchmark, found in rows.items():
        title = {TEST: "Test", SHIFTED: "Shifted test (denser scenes, other backgrounds and sizes)"}[benchmark]
        parts += [f"## {title}", "", f"{found[0].n} expressions; mean of {len(SEEDS)} training seeds; change against the base in points.", ""]
        parts += ["\\* = the 95 % interval of the change (paired bootstrap over images) excludes 0.", "", table(found), ""]
    parts += ["## Other abilities", "", ability_table(run, names, ABILITIES), ""]
    return "\n".join(parts)


if __name__ == "__main__":
    main()
