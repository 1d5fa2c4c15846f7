"""`python -m spr.lab.tune "NAME: A.B=C, D.E=F" …`: compare settings on `val`, never on test.

A variant is a name with overrides of demo.yaml, those of its adapter `spr` among them: `"strong:
adapters.spr.learning_rate=1e-4, pair.lam=0.5"`. Stages that do not depend on an override are shared with the
other variants (`spr.run.ablate`); a variant of an earlier call is not run again. Out: a table in Markdown,
for docs/log.md: change of accuracy against the base in points, * = the 95 % interval excludes 0.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from spr.evaluation.config import BenchmarkConfig, EvaluationConfig
from spr.lab.demo import CONFIG
from spr.run.ablate import plan, points_of, run_variants, table
from spr.run.wiring import Config, load_config
from spr.scenes.embedded import resolve_embedded
from spr.scenes.language import WHERE
from spr.store.bars import progress_shown


def on_val(config: Config, limit: int) -> Config:
    """The configuration with its adapter `spr` alone, asked the referring expressions of `val`."""
    path, images = (
        resolve_embedded(f"embedded:val/{name}") for name in ("finetune_refcoco_val.json", "images")
    )
    val = BenchmarkConfig(
        "val", "rec", "mdetr", path, images=images, split="val", limit=limit, prompt=WHERE, max_new_tokens=8
    )
    return replace(config, adapters={"spr": config.adapters["spr"]}, evaluate=EvaluationConfig((val,)))


def overrides_of(variant: str) -> tuple[str, list[str]]:
    """The name of a variant and its overrides; a comma inside a value stays."""
    name, _, rest = variant.partition(":")
    return name.strip(), [part.strip() for part in re.split(r",(?=\s*[\w.]+=)", rest) if part.strip()]


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("variants", nargs="+", metavar="NAME: A.B=C, …")
    parser.add_argument("--run", type=Path, default=Path("runs/tune"))
    parser.add_argument("--limit", type=int, default=1200, help="expressions of val")
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[7], help="of the training; a variant runs once with each"
    )
    args = parser.parse_args(arguments)
    common = [f"run={args.run.absolute()}"]
    base = on_val(load_config(CONFIG, common), args.limit)
    settings: Mapping[str, Config] = {
        f"{name}-seed{seed}": on_val(
            load_config(CONFIG, [*common, *overrides, f"adapters.spr.seed={seed}"]), args.limit
        )
        for name, overrides in map(overrides_of, args.variants)
        for seed in args.seeds
    }
    variants = plan(base, ("variants",), settings)
    run_variants(base, variants, progress_shown())
    print(table(points_of(variants)["val"]))


if __name__ == "__main__":
    main()
