"""`python -m spr.scenes.tune VARIANT …`: compare training settings on `val`, never on test.

A variant is a name with overrides of the `train` section, e.g. `strong:learning_rate=1e-4,sft_weight=1`. The pairs are those of `--run` (made by
`python -m spr.scenes.results` or `spr run`); each variant trains one adapter and answers the referring expressions of `val`.
Out: a line per variant with the change of accuracy against the base in points (* = the 95 % interval excludes 0), appended to RUN/tune.jsonl.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from spr import pipeline
from spr.artifacts import Run
from spr.config import apply_overrides, load
from spr.data.full_paths import FullPaths
from spr.evaluation.config import BenchmarkConfig
from spr.evaluation.items import by_image
from spr.evaluation.metrics import THRESHOLDS
from spr.evaluation.protocols.base import judge, question
from spr.evaluation.protocols.rec import RecOptions, tabulate
from spr.evaluation.readers import read_benchmark
from spr.evaluation.statistics import Bootstrap
from spr.executor import Progress, set_threads
from spr.scenes.demo import CONFIG
from spr.scenes.embedded import ensure_world, world_folder
from spr.scenes.files import SplitFiles
from spr.scenes.language import WHERE
from spr.training.config import TrainConfig
from spr.types import Prediction, Query, Sampling, TrainingPair
from spr.wiring import Config, build_describer, dialect_of, load_config


def answers(config: Config, adapter: str | None, limit: int) -> list[Prediction]:
    """Greedy answers of the model with an adapter to the referring expressions of `val`."""
    files = SplitFiles(world_folder() / "val", "val")
    ensure_world([str(files.coco)], lambda what, n: None, lambda n: None, lambda: None)
    items, _ = read_benchmark(BenchmarkConfig("val", "rec", "mdetr", str(files.expressions), images=str(files.images), split="val", limit=limit))
    dialect = dialect_of(config)
    queries = [Query(i.item_id, i.image, i.width, i.height, question(WHERE, i, dialect), group=i.image) for image in by_image(items) for i in image]
    found = build_describer(config, FullPaths(), adapter).answer(queries, Sampling(1, 0.0, 1.0, 8))
    ordered = [i for image in by_image(items) for i in image]
    return [judge(item, given[0], "rec", dialect)[0] for item, given in zip(ordered, found, strict=True)]


def try_variant(config: Config, name: str, section: TrainConfig | None, seed: int, limit: int, pairs_limit: int | None) -> list[Prediction]:
    """Train a variant (None: the base itself) and answer."""
    set_threads(1)
    if section is None:
        return answers(config, None, limit)
    out = Run(config.run).path("tune", name)
    pairs = Run(config.run).read_stage(TrainingPair, "pairs")[:pairs_limit]
    pipeline.train_on(replace(config, runtime=replace(config.runtime, workers=1)), pairs, out, section, seed, Progress())
    return answers(config, out, limit)


def line(name: str, base: Sequence[Prediction], rows: Sequence[Prediction]) -> dict[str, Any]:
    """Accuracy of a variant and its change against the base, in points."""
    draws, everything = Bootstrap([r.image for r in base]), np.ones(len(base), dtype=bool)
    after, before = tabulate(rows, RecOptions()), tabulate(base, RecOptions())
    values, changes = draws.estimates([(after, everything)]), draws.differences([(after, everything)], [(before, everything)])
    return {"name": name, "n": len(rows), **{f"{t:g}": (asdict(values[f"acc@{t:g}"]), asdict(changes[f"acc@{t:g}"])) for t in THRESHOLDS}}


def shown(row: dict[str, Any]) -> str:
    """A line of the table."""
    cells = []
    for t in THRESHOLDS:
        value, change = row[f"{t:g}"]
        star = "*" if change["low"] > 0 or change["high"] < 0 else " "
        cells.append(f"{100 * value['value']:5.1f} ({100 * change['value']:+5.1f}{star})")
    return f"{row['name']:24}" + " ".join(cells)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("variants", nargs="*", metavar="NAME:A=B,…")
    parser.add_argument("--run", type=Path, default=Path("runs/demo"))
    parser.add_argument("--limit", type=int, default=1200, help="expressions of val")
    parser.add_argument("--pairs", type=int, help="the first PAIRS pairs only")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C", dest="overrides", help="other overrides of demo.yaml")
    parser.add_argument("--processes", type=int, default=2)
    args = parser.parse_args(arguments)
    config = load_config(CONFIG, [f"run={args.run.absolute()}", *args.overrides])
    sections: dict[str, TrainConfig | None] = {"base": None}
    for variant in args.variants:
        name, _, settings = variant.partition(":")
        sections[name] = load(TrainConfig, apply_overrides(asdict(config.train), [s for s in settings.split(",") if s]), name)
    print(f"{'':24}" + " ".join(f"{t:>14}" for t in THRESHOLDS))
    base: list[Prediction] = []
    early: dict[str, list[Prediction]] = {}  # finished before the base was
    with ProcessPoolExecutor(args.processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        waiting = {pool.submit(try_variant, config, n, s, args.seed, args.limit, args.pairs): n for n, s in sections.items()}
        for future in as_completed(waiting):
            early[waiting[future]] = future.result()
            base = early.get("base", base)
            for name in list(early) if base else ():
                row, section = line(name, base, early.pop(name)), sections[name]
                print(shown(row), flush=True)
                with (args.run / "tune.jsonl").open("a", encoding="utf-8") as f:
                    f.write(json.dumps({**row, "settings": asdict(section) if section is not None else None}) + "\n")


if __name__ == "__main__":
    main()
