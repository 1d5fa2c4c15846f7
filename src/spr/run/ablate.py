"""`spr ablate CONFIG --vary A.B=X,Y`: one configuration with some of its values varied. Nothing is computed
twice that does not depend on them.

In: a configuration, values by dotted key; several keys give every combination. Out: one run folder per
variant inside the configured run, under ablations/<keys>/, each with config.yaml and what is its own; beside
them table.md, table.json and ablation.html.

A folder that the configured run has, or an earlier variant, with an equal digest (`spr.run.depends.folders`)
is read and written there. So variants of `pair.lambda` describe and score once, and every variant shares the
base model's answers to the benchmarks.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from spr.errors import ConfigError
from spr.evaluation.results import BASE
from spr.evaluation.tables import comparison_table
from spr.report.ablation import Point, ablation_page
from spr.run import pipeline
from spr.run.adapters import do_train
from spr.run.depends import Folder, folders
from spr.run.rounds import models_of, round_run
from spr.run.wiring import Config, load_config, trainings
from spr.store.config import parse_yaml
from spr.store.crew import crew_of
from spr.store.folders import (
    ABLATIONS,
    ADAPTER,
    COMPARISON,
    EVALUATION,
    FOLDERS,
    METRICS,
    PAIRS,
    STAGE_FILE,
    STAGES,
    UNTIL_PAIR,
)
from spr.store.identity import digest_of
from spr.store.lease import BRIEFLY, sole_writer
from spr.store.progress import Named, Progress, Within
from spr.store.run import Run, SharingRun
from spr.store.workers import Job, Workers, nothing


@dataclass(frozen=True, slots=True)
class Variant:
    """One setting: its name, the configuration with it, and its run."""

    name: str
    config: Config
    run: SharingRun

    @property
    def models(self) -> list[str]:
        """What it evaluates beside the base model."""
        return models_of(self.config, self.run)


@dataclass(frozen=True, slots=True)
class Varied:
    """A key of the configuration with the values that it takes, as they were written."""

    key: str
    values: tuple[str, ...]


def varied(text: str) -> Varied:
    """`pairing.lambda=0,0.5` as a key and values, which are a list in YAML's flow form: a value may itself be
    one. Raises ConfigError.
    """
    key, sign, values = text.partition("=")
    found = parse_yaml(f"[{values}]", f"--vary {text!r}")
    if not sign or not key.strip() or not isinstance(found, list) or not found:
        raise ConfigError(f"--vary {text!r}: found no list of values, expected a.b=x,y")
    written = tuple(v if isinstance(v, str) else json.dumps(v) for v in found)
    if len(set(written)) < len(written):
        raise ConfigError(f"--vary {text!r}: found a value twice, expected different ones")
    return Varied(key.strip(), written)


def folder_name(text: str) -> str:
    """A text as the name of a folder: signs that file systems or shells treat specially become "_"."""
    return re.sub(r"[^A-Za-z0-9.,=+-]+", "_", text).strip("_.") or "_"


def plan(base: Config, where: Sequence[str], settings: Mapping[str, Config]) -> list[Variant]:
    """The variants by name, in folders `where`/<name> inside the run of `base`, with what each reads from the
    base or from a variant before it.
    """
    first = Run(base.run)
    known: dict[tuple[Folder, str], Run] = dict.fromkeys(folders(base).items(), first)
    variants: list[Variant] = []
    same: dict[str, str] = {}
    for name, config in settings.items():
        own = Run(first.path(*where, folder_name(name)))
        if own.root in (v.run.root for v in variants):
            raise ConfigError(
                f"{name}: found two settings whose folder would be {own.root}, expected different ones"
            )
        parts = folders(config)
        if (twin := same.setdefault(digest_of({"/".join(k): v for k, v in parts.items()}), name)) != name:
            raise ConfigError(
                f"{name}: found the same as {twin}, expected values that something depends on (what "
                "adapters set goes before train)"
            )
        owners = {folder: known.setdefault((folder, digest), own) for folder, digest in parts.items()}
        shared = {folder: owner for folder, owner in owners.items() if owner.root != own.root}
        config = replace(config, run=own.root)
        variants.append(Variant(name, config, SharingRun(own.root, pipeline.open_run(config).about, shared)))
    return variants


# --- running --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Training:
    """One adapter to train, with its later rounds."""

    label: str
    name: str
    config: Config  # of that adapter alone
    run: Run

    @property
    def finished(self) -> bool:
        """Whether the last round's adapter is there."""
        last = trainings(self.config)[self.name].rounds
        return round_run(self.run, self.name, last).exists(ADAPTER, self.name, STAGE_FILE)


def _train_all(base: Config, variants: Sequence[Variant], progress: Progress) -> None:
    """Every adapter that is missing: one after the other with all threads, or with several workers on a CPU,
    side by side.
    """
    # by the first round's folder, which several numbers of rounds share
    wanted: dict[str, dict[int, Training]] = {}
    for v in variants:
        for name, training in trainings(v.config).items():
            alone = replace(v.config, adapters={name: v.config.adapters[name]})
            wanted.setdefault(v.run.path(ADAPTER, name), {})[training.rounds] = Training(
                f"{v.name} {name}", name, alone, v.run
            )
    groups = [list(group.values()) for group in wanted.values()]
    missing = [group for group in groups if not all(t.finished for t in group)]
    # One accelerator has no room for several. All groups decide, not the missing ones: a killed ablation
    # goes on with as many threads per adapter, because another count rounds differently.
    if base.runtime.workers > 1 and len(groups) > 1 and missing and _on_cpu(base):
        progress.start("train", len(groups), len(groups) - len(missing))
        tasks = {k: partial(_train_here, group) for k, group in enumerate(missing)}
        with Workers(base.runtime) as workers:
            workers.work(Job(nothing, tasks, lambda k, result: progress.advance(1)))
        progress.end(f"{len(groups)} adapters")
    # what is finished is looked at too: it must be what the configuration says
    for t in (t for group in groups for t in group):
        do_train(t.config, t.run, Within(progress, t.label))


def _on_cpu(config: Config) -> bool:
    from spr.models.devices import accelerator

    return config.train.device == "cpu" or accelerator() is None


def _train_here(group: Sequence[Training], built: None) -> None:
    for t in group:
        do_train(replace(t.config, runtime=replace(t.config.runtime, workers=1)), t.run, Progress())


def run_variants(base: Config, variants: Sequence[Variant], progress: Progress) -> None:
    """Run what is missing of all variants, up to the evaluation. A killed run goes on."""
    for stage in UNTIL_PAIR:
        done: set[str] = set()
        for v in variants:
            where = v.run.path(FOLDERS[stage])
            if where not in done:
                done.add(where)
                own = v.run.owner(FOLDERS[stage]).root == v.run.root
                pipeline.DO[stage](v.config, v.run, Named(progress, f"{stage} {v.name}") if own else progress)
    pipeline.open_run(base).begin()
    for v in variants:
        v.run.begin()
    _train_all(base, variants, progress)
    with crew_of(base.runtime) as crew:
        for v in variants:
            pipeline.do_evaluate(v.config, v.run, Within(progress, v.name), crew=crew)


# --- the command ----------------------------------------------------------------------------------


def settings_of(path: Path, vary: Sequence[Varied], overrides: Sequence[str]) -> dict[str, Config]:
    """The configuration of every combination of values, by its name: the value, or `key=value` of each key
    where there are several.
    """
    found = {}
    for values in itertools.product(*(v.values for v in vary)):
        pairs = [f"{v.key}={value}" for v, value in zip(vary, values, strict=True)]
        found[values[0] if len(vary) == 1 else " ".join(pairs)] = load_config(path, [*overrides, *pairs])
    return found


def ablate(
    path: Path,
    vary: Sequence[str],
    overrides: Sequence[str],
    progress: Progress,
    overwrite: str | None = None,
) -> str:
    """Run the ablation, or finish it. Returns its table in Markdown, and where the rest is. `overwrite`: a
    stage of the variants to do again.
    """
    keys = [varied(text) for text in vary]
    if not keys or len({v.key for v in keys}) < len(keys):
        raise ConfigError(
            f"--vary: found {', '.join(v.key for v in keys) or 'nothing'}, expected one or more different "
            "keys, each once"
        )
    base = load_config(path, overrides)
    name = folder_name("+".join(v.key for v in keys))
    variants = plan(base, (ABLATIONS, name), settings_of(path, keys, overrides))
    pipeline.prepare([(v.config, v.run) for v in variants], STAGES, progress, overwrite)
    run_variants(base, variants, progress)
    for v in variants:
        pipeline.do_report(v.config, v.run, Within(progress, v.name))
    points = points_of(variants)
    title = " x ".join(v.key for v in keys)
    text = (
        "\n\n".join(
            [
                f"# {title}",
                *(f"## {benchmark}\n\n{table(found)}" for benchmark, found in points.items()),
                pairs_line(variants),
            ]
        )
        + "\n"
    )
    run = Run(base.run)
    raw = {
        b: [
            {"setting": p.setting, "model": p.model, "values": p.metrics["values"], **p.comparison}
            for p in ps
        ]
        for b, ps in points.items()
    }
    files = {
        "table.md": text,
        "table.json": json.dumps(raw, indent=2, sort_keys=True) + "\n",
        "ablation.html": ablation_page(title, points, pairs_line(variants)),
    }
    with sole_writer(run, ABLATIONS, name, patience=BRIEFLY):
        for file, content in files.items():
            run.keep_bytes(content.encode(), ABLATIONS, name, file)
    return f"{text}\n{run.path(ABLATIONS, name, 'ablation.html')}"


def points_of(variants: Sequence[Variant]) -> dict[str, list[Point]]:
    """What was measured, by benchmark: every model of every variant, the base models first where they
    differ.
    """
    found: dict[str, list[Point]] = {}
    for v in variants:
        for benchmark in (b.name for b in v.config.evaluate.benchmarks):
            where = (EVALUATION, benchmark)
            comparison = v.run.read_json(*where, COMPARISON)
            for model in (BASE, *v.models):
                about = {} if model == BASE else comparison["models"][model]
                metrics = v.run.read_json(*where, model, METRICS)
                known = [p.metrics for p in found.get(benchmark, ()) if p.model == BASE]
                if model != BASE or metrics not in known:
                    found.setdefault(benchmark, []).append(
                        Point(v.name if model != BASE or known else "", model, metrics, about)
                    )
    return found


def table(points: Sequence[Point]) -> str:
    """One benchmark: a line per setting and model, with the change against the setting's base model."""
    return comparison_table(
        {p.label: p.metrics for p in points},
        {"models": {p.label: p.comparison for p in points if p.comparison}},
    )


def pairs_line(variants: Sequence[Variant]) -> str:
    """How many pairs each setting was trained on."""
    counts = {v.name: v.run.summary(PAIRS) for v in variants}
    return "Pairs: " + " · ".join(f"{name}: {s.rows if s else 0}" for name, s in counts.items())
