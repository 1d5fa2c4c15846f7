"""The stages in order, each reading the folders before it and writing its own.

    index -> regions -> describe -> score -> pair -> train -> evaluate -> report

In: a `Config` and a stage name. Out: files in the run folder. Every stage can be run alone once those before
it are finished; a finished stage is not run again; one that was made from something else is refused until
`--overwrite STAGE`, which also redoes what depends on it.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial

import yaml

from spr.data.full_paths import FullPaths
from spr.errors import ConfigError, DataError, unknown_name
from spr.evaluation.results import BASE
from spr.evaluation.stage import evaluate_all
from spr.models.served_adapter import check_takes_adapters
from spr.ports import Describer
from spr.run.adapters import check_adapter, do_train
from spr.run.depends import answering, fresh
from spr.run.doctor import look_before
from spr.run.pairs import (
    do_describe,
    do_index,
    do_pair,
    do_regions,
    do_score,
    forget_journal,
    journal_of,
    need_files,
)
from spr.run.preflight import check_server, preflight
from spr.run.rounds import round_runs
from spr.run.wiring import Config, build_describer, dialect_of, image_store, trainings
from spr.store.folders import ADAPTER, EVALUATION, FOLDERS, REPORT, ROUNDS, STAGE_FILE, STAGES, UNTIL_PAIR
from spr.store.identity import versions
from spr.store.lease import BRIEFLY, check_idle, sole_writer
from spr.store.progress import Progress
from spr.store.run import Run
from spr.store.workers import Crew
from spr.types import StageSummary

ALL = (BASE, "adapter")  # the models of an evaluation: the base, and every adapter


def check_stage(name: str) -> str:
    """The stage's name, or ConfigError listing the known ones (verbs; folder names are not accepted)."""
    if name not in STAGES:
        raise ConfigError(unknown_name("stage", name, STAGES))
    return name


def overwrite(run: Run, stage: str) -> None:
    """Remove what a stage made, and all that depends on it. Raises BusyError when somebody works there."""
    folders = [FOLDERS[name] for name in STAGES[STAGES.index(check_stage(stage)) :]]
    if STAGES.index(stage) <= STAGES.index("train"):
        folders.append(ROUNDS)
    for folder in folders:
        check_idle(run, folder)
    for folder in folders:
        run.remove(folder)


def config_text(config: Config) -> str:
    """The configuration as YAML: defaults, overrides and paths as they hold."""
    return yaml.safe_dump(asdict(config), sort_keys=False, allow_unicode=True)


def begin(
    config: Config, stages: Sequence[str], progress: Progress, overwrite_stage: str | None = None
) -> Run:
    """The run folder, once everything that these stages need is there (`spr.run.preflight`); only then is
    `overwrite_stage` removed.
    """
    run = open_run(config)
    prepare([(config, run)], stages, progress, overwrite_stage)
    return run


def prepare(
    runs: Sequence[tuple[Config, Run]],
    stages: Sequence[str],
    progress: Progress,
    overwrite_stage: str | None = None,
) -> None:
    """What `begin` does, for several runs at once. Of a run that shares folders only its own are removed."""
    if overwrite_stage is not None:
        check_stage(overwrite_stage)
    preflight(runs, stages, progress, overwrite_stage)
    if overwrite_stage is not None:
        for config, _ in runs:
            overwrite(Run(config.run), overwrite_stage)


def open_run(config: Config) -> Run:
    """The run folder. The configuration and the environment are written into it with the first result: a
    command that is refused changes nothing.
    """
    about = {
        "config.yaml": config_text(config).encode(),
        "environment.json": (
            json.dumps({**versions(), "platform": platform.platform()}, indent=2) + "\n"
        ).encode(),
    }
    return Run(config.run, about)


# --- evaluate, report -----------------------------------------------------------------------------


def models_asked(config: Config, models: Sequence[str] = ALL) -> list[str]:
    """The names of the models that are evaluated. Raises ConfigError for an unknown one, or one that cannot
    be asked.
    """
    trained = trainings(config)
    unknown = [m for m in models if m not in (*ALL, *trained)]
    if unknown:
        raise ConfigError("--models: " + unknown_name("model", unknown[0], [*ALL, *trained]))
    asked = list(dict.fromkeys(m for given in models for m in (trained if given == "adapter" else (given,))))
    named = [name for name in asked if name != BASE]
    if config.model.kind == "endpoint" and named:
        check_takes_adapters(config.model.server)
    return asked


def do_evaluate(
    config: Config,
    run: Run,
    progress: Progress,
    models: Sequence[str] = ALL,
    crew: Crew | None = None,
) -> None:
    """Benchmarks x models -> run/evaluation/<benchmark>/<model>/. A model is "base" or the name of an
    adapter; "adapter" means all of them.
    """
    asked = models_asked(config, models)
    adapters: dict[str, str | None] = {}
    digests: dict[str, str] = {}
    known: dict[str, StageSummary] = {}
    for name in asked:
        adapters[name] = None if name == BASE else run.path(ADAPTER, name)
        if name != BASE:
            fresh(config, run, "train", name, known)
            digests[name] = check_adapter(run, ADAPTER, name).digest
        for later_name, later in round_runs(config, run, name).items():
            adapters[later_name] = later.path(ADAPTER, name)
            digests[later_name] = check_adapter(later, ADAPTER, name).digest
    need_files(config.evaluate, progress)
    dialect = dialect_of(config)
    makers = {
        name: partial(_answering, config, adapter, journal_of(config)) for name, adapter in adapters.items()
    }
    origins = {name: answering(config, digests.get(name, "")) for name in adapters}
    _check_served(config, run, adapters)
    evaluate_all(run, EVALUATION, config.evaluate, dialect, makers, origins, config.runtime, progress, crew)
    forget_journal(config)


def _check_served(config: Config, run: Run, adapters: Mapping[str, str | None]) -> None:
    """Have a server load the adapters that it is going to be asked with, before it is asked anything."""
    if config.model.kind != "endpoint":
        return
    names = [benchmark.name for benchmark in config.evaluate.benchmarks]
    for model, folder in adapters.items():
        if folder is not None and not all(run.exists(EVALUATION, b, model, STAGE_FILE) for b in names):
            check_server(config, folder)


def _answering(config: Config, adapter: str | None, journal: str | None, store: FullPaths) -> Describer:
    return build_describer(config, store, adapter, journal=journal)


def do_report(config: Config, run: Run, progress: Progress) -> None:
    """The finished run -> run/report.html."""
    from spr.report.build import build_report

    if not any(run.exists(FOLDERS[stage], STAGE_FILE) for stage in UNTIL_PAIR):
        raise DataError(
            f"{run.root}: found no finished stage, expected something to report; run `spr run` first"
        )
    progress.start("report", 1)
    page = build_report(run, dialect_of(config), image_store(config).load, FullPaths().load, config.label)
    with sole_writer(run, patience=BRIEFLY):
        run.begin()
        run.keep_bytes(page.encode(), REPORT)
    progress.end(run.path(REPORT))


DO: Mapping[str, Callable[[Config, Run, Progress], None]] = {
    "index": do_index,
    "regions": do_regions,
    "describe": do_describe,
    "score": do_score,
    "pair": do_pair,
    "train": do_train,
    "evaluate": do_evaluate,
    "report": do_report,
}


def run_pipeline(
    config: Config, progress: Progress, until: str = "report", overwrite_stage: str | None = None
) -> Run:
    """All stages up to and including `until`; finished ones are left as they are."""
    stages = STAGES[: STAGES.index(check_stage(until)) + 1]
    if "evaluate" in stages:
        models_asked(config)
    run = begin(config, stages, progress, overwrite_stage)
    for name in stages:
        if name == "describe":
            look_before(config, run, progress)
        DO[name](config, run, progress)
    return run
