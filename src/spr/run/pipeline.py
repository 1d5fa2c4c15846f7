"""The stages in order, each reading the folders before it and writing its own.

    index -> regions -> describe -> score -> pair -> train -> evaluate -> report

In: a `Config` and a stage name. Out: files in the run folder. Every stage can be run alone once those before
it are finished; a finished stage is not run again; one that was made from something else is refused until
`--overwrite STAGE`, which also redoes what depends on it.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from itertools import groupby
from typing import Any, TypeAlias

import yaml

from spr.data.full_paths import FullPaths
from spr.data.index import build_index, open_index
from spr.errors import ConfigError, DataError, unknown_name
from spr.evaluation.results import BASE
from spr.evaluation.stage import evaluate_all
from spr.run.depends import answering_section, section, training_section
from spr.run.rounds import later_rounds, round_runs
from spr.run.wiring import (
    Config,
    build_describer,
    build_detector,
    build_scorer,
    dialect_of,
    image_store,
    trainings,
)
from spr.stages.describe import describe, look_at_answers
from spr.stages.pairing import differences, make_pairs
from spr.stages.prompts import templates_with
from spr.stages.regions import draw_regions, select_images
from spr.stages.scoring import score, spreads
from spr.store.executor import Stage, run_stage
from spr.store.folders import (
    ADAPTER,
    CANDIDATES,
    EVALUATION,
    FOLDERS,
    INDEX,
    JOURNAL,
    PAIRS,
    REGIONS,
    REPORT,
    ROUNDS,
    SCORES,
    STAGE_FILE,
    STAGES,
)
from spr.store.identity import claim, upstream_digest, versions
from spr.store.progress import Named, Progress
from spr.store.run import Run
from spr.store.workers import ShardResult, Workers, set_threads
from spr.training.config import TrainConfig, TrainResult
from spr.types import Description, Dropped, ImageRecord, Region, ScoredCandidate, TrainingPair

ScoredRegion: TypeAlias = tuple[Region, list[Description]]


def check_stage(name: str) -> str:
    """The stage's name, or ConfigError listing the known ones (verbs; folder names are not accepted)."""
    if name not in STAGES:
        raise ConfigError(unknown_name("stage", name, STAGES))
    return name


def overwrite(run: Run, stage: str) -> None:
    """Remove what a stage made, and all that depends on it."""
    for name in STAGES[STAGES.index(check_stage(stage)) :]:
        run.remove(FOLDERS[name])
    if STAGES.index(stage) <= STAGES.index("train"):
        run.remove(ROUNDS)


def open_run(config: Config) -> Run:
    """The run folder, with the configuration and the environment written into it."""
    run = Run(config.run)
    described = {
        "config.yaml": yaml.safe_dump(asdict(config), sort_keys=False, allow_unicode=True).encode(),
        "environment.json": (
            json.dumps({**versions(), "platform": platform.platform()}, indent=2) + "\n"
        ).encode(),
    }
    for name, content in described.items():
        run.keep_bytes(content, name)
    return run


def _texts(value: object) -> list[str]:
    """All texts in a section of the configuration."""
    if isinstance(value, Mapping):
        value = list(value.values())
    return (
        [text for inner in value for text in _texts(inner)]
        if isinstance(value, list | tuple)
        else [value]
        if isinstance(value, str)
        else []
    )


def _need_files(section: Any, progress: Progress) -> None:
    """Files of the embedded world are written when a stage first needs them."""
    from spr.scenes.embedded import ensure_world

    ensure_world(_texts(asdict(section)), progress.start, progress.advance, progress.end)


# --- index and regions ----------------------------------------------------------------------------


def do_index(config: Config, run: Run, progress: Progress) -> None:
    """Annotations -> run/index (Parquet)."""
    about = section(config, "index")
    digest = claim(run, "index", (INDEX,), about)
    if run.read_json(INDEX, STAGE_FILE) is not None:
        return
    _need_files(config.data, progress)
    progress.start("index", 0)
    summary = build_index(config.data, run.path(INDEX), progress=progress.advance)
    run.write_json(
        {"stage": "index", "digest": digest, "config": about, **asdict(summary), "versions": versions()},
        INDEX,
        STAGE_FILE,
    )
    progress.end(
        f"{summary.images} images, {summary.annotations} boxes, {sum(summary.rejected.values())} set aside"
    )


def _regions_work(config: Config, index_path: str) -> Callable[[Sequence[ImageRecord]], ShardResult[Region]]:
    index, store = open_index(index_path), image_store(config)

    def work(images: Sequence[ImageRecord]) -> ShardResult[Region]:
        boxes = index.annotations_of([image.image_id for image in images])
        kept: list[Region] = []
        dropped: list[Dropped] = []
        for image in images:
            rows, lost = draw_regions(image, boxes.get(image.image_id, ()), config.regions, config.seed)
            if (
                rows
                and config.regions.verify
                and (problem := store.problem(image.path, image.width, image.height, config.data.accept))
            ):
                rows, lost = [], [Dropped(image.image_id, problem.reason, problem.detail)]
            kept += rows
            dropped += lost
        return kept, dropped

    return work


def do_regions(config: Config, run: Run, progress: Progress) -> None:
    """Index -> run/regions."""
    upstream = upstream_digest(run, "index")
    path = run.path(INDEX)
    stage = Stage(
        "regions",
        (REGIONS,),
        {"upstream": upstream, **section(config, "regions")},
        Region,
        partial(_regions_work, config, path),
    )
    images = select_images(open_index(path).images(config.data.where), config.regions, config.seed)
    summary = run_stage(run, stage, images, config.runtime, progress)
    if summary.rows == 0:
        reasons = (
            ", ".join(f"{reason}: {n}" for reason, n in summary.dropped.items())
            or "no image passes data.where"
        )
        raise DataError(f"{run.path(REGIONS)}: no region is left ({reasons})")


# --- describe, score, pair ------------------------------------------------------------------------


def _journal(config: Config) -> str | None:
    """Where a server's answers are kept until their stage is finished; None where a run folder takes no
    appended lines.
    """
    return None if "://" in config.run else Run(config.run).path(JOURNAL)


def _describe_work(
    config: Config, adapter: str | None
) -> Callable[[Sequence[Region]], ShardResult[Description]]:
    dialect = dialect_of(config)
    describer, templates = (
        build_describer(config, image_store(config), adapter, journal=_journal(config)),
        templates_with(config.prompts),
    )
    return lambda regions: describe(regions, describer, dialect, config.describe, config.seed, templates)


def do_describe(config: Config, run: Run, progress: Progress) -> None:
    """Regions -> run/candidates."""
    stage = Stage(
        "describe",
        (CANDIDATES,),
        {"upstream": upstream_digest(run, "regions"), **section(config, "describe")},
        Description,
        partial(_describe_work, config, None),
        {"batching": config.model.batching}
        if config.model.kind == "hf"
        else {"reproducible": "no: the server draws the samples"},
        look=partial(look_at_answers, dialect=dialect_of(config), config=config.describe),
    )
    run_stage(run, stage, run.read_stage(Region, REGIONS), config.runtime, progress)
    run.remove(JOURNAL)


def _score_work(config: Config) -> Callable[[Sequence[list[ScoredRegion]]], ShardResult[ScoredCandidate]]:
    store = image_store(config)
    dialect, scorer, detector = dialect_of(config), build_scorer(config, store), build_detector(config, store)

    def work(images: Sequence[list[ScoredRegion]]) -> ShardResult[ScoredCandidate]:
        return score([item for image in images for item in image], dialect, scorer, detector, config.score)

    return work


def _by_region(rows: Iterable[Any]) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for row in rows:
        found.setdefault(row.region_id, []).append(row)
    return found


def do_score(config: Config, run: Run, progress: Progress) -> None:
    """Candidates -> run/scores. The unit of work is an image with all its regions, so that batches do not
    depend on the shards.
    """
    candidates = _by_region(run.iter_stage(Description, CANDIDATES))
    regions = run.read_stage(Region, REGIONS)
    images = [
        [(r, candidates.get(r.region_id, [])) for r in group]
        for _, group in groupby(regions, key=lambda r: r.image_id)
    ]
    stage = Stage(
        "score",
        (SCORES,),
        {"upstream": upstream_digest(run, "describe"), **section(config, "score")},
        ScoredCandidate,
        partial(_score_work, config),
        look=partial(spreads, lam=config.pair.lam),
    )
    run_stage(run, stage, images, config.runtime, progress)


def _pair_work(
    config: Config,
) -> Callable[[Sequence[tuple[Region, list[ScoredCandidate]]]], ShardResult[TrainingPair]]:
    dialect, templates = dialect_of(config), templates_with(config.prompts)
    return lambda items: make_pairs(items, dialect, config.pair, templates)


def do_pair(config: Config, run: Run, progress: Progress) -> None:
    """Scores -> run/pairs."""
    scored = _by_region(run.iter_stage(ScoredCandidate, SCORES))
    items = [(r, scored.get(r.region_id, [])) for r in run.iter_stage(Region, REGIONS)]
    stage = Stage(
        "pair",
        (PAIRS,),
        {"upstream": upstream_digest(run, "score"), **section(config, "pair")},
        TrainingPair,
        partial(_pair_work, config),
        look=partial(differences, dialect=dialect_of(config)),
    )
    summary = run_stage(run, stage, items, config.runtime, progress)
    if summary.rows == 0:
        reasons = ", ".join(f"{reason}: {n}" for reason, n in summary.dropped.items())
        raise DataError(f"{run.path(PAIRS)}: no pair is left ({reasons})")


# --- train, evaluate, report ----------------------------------------------------------------------


def do_train(config: Config, run: Run, progress: Progress) -> None:
    """Pairs -> run/adapter/<name>, each a normal PEFT adapter; then the later rounds, if the configuration
    asks for them.
    """
    upstream = upstream_digest(run, "pair")
    for name, training in trainings(config).items():
        folder = (ADAPTER, name)
        about = {"upstream": upstream, **training_section(config, training)}
        digest = claim(run, "train", folder, about)
        if run.read_json(*folder, STAGE_FILE) is None:
            pairs = run.read_stage(TrainingPair, PAIRS)
            result = train_on(config, pairs, run.path(*folder), training, Named(progress, f"train {name}"))
            row = {
                "stage": "train",
                "digest": digest,
                "config": about,
                **asdict(result),
                "versions": versions(),
            }
            run.write_json(row, *folder, STAGE_FILE)
    later_rounds(config, run, progress, (do_describe, do_score, do_pair, do_train))


def train_on(
    config: Config, pairs: Sequence[TrainingPair], out: str, training: TrainConfig, progress: Progress
) -> TrainResult:
    """Train one adapter into the folder `out`, going on where an interrupted training stands."""
    from spr.training.trainer import train

    # training is one process: it gets the threads of all workers
    set_threads(config.runtime.workers * config.runtime.threads)
    return train(
        pairs,
        config.model.checkpoint,
        out,
        training,
        image_store(config).load,
        dialect_of(config),
        progress=progress,
        seed=config.seed if training.seed is None else training.seed,
        adapter=config.model.adapter,
    )


def do_evaluate(
    config: Config,
    run: Run,
    progress: Progress,
    models: Sequence[str] = (BASE, "adapter"),
    workers: Workers | None = None,
) -> None:
    """Benchmarks x models -> run/evaluation/<benchmark>/<model>/. A model is "base" or the name of an
    adapter; "adapter" means all of them.
    """
    trained = trainings(config)
    unknown = [m for m in models if m not in (BASE, "adapter", *trained)]
    if unknown:
        raise ConfigError("--models: " + unknown_name("model", unknown[0], [BASE, *trained, "adapter"]))
    adapters: dict[str, str | None] = {}
    digests: dict[str, str] = {}
    for name in dict.fromkeys(m for given in models for m in (trained if given == "adapter" else (given,))):
        adapters[name] = None if name == BASE else run.path(ADAPTER, name)
        digests[name] = "" if name == BASE else upstream_digest(run, "train", name)
        for later_name, later in round_runs(config, run, name).items():
            adapters[later_name], digests[later_name] = (
                later.path(ADAPTER, name),
                upstream_digest(later, "train", name),
            )
    if config.model.kind == "endpoint" and (
        named := [name for name, adapter in adapters.items() if adapter is not None]
    ):
        raise ConfigError(
            f"model.kind: found 'endpoint' with the adapter {named[0]}, which the server does not have; "
            "expected --models base, or 'hf', or a server "
            "of the weights that `spr train --merge DIR` writes"
        )
    _need_files(config.evaluate, progress)
    dialect = dialect_of(config)
    makers = {
        name: partial(build_describer, config, FullPaths(), adapter, journal=_journal(config))
        for name, adapter in adapters.items()
    }
    identity = {name: {"adapter": digests[name], **answering_section(config)} for name in adapters}
    evaluate_all(
        run, EVALUATION, config.evaluate, dialect, makers, identity, config.runtime, progress, workers
    )
    run.remove(JOURNAL)


def do_report(config: Config, run: Run, progress: Progress) -> None:
    """The finished run -> run/report.html."""
    from spr.report.build import build_report

    progress.start("report", 1)
    page = build_report(run, dialect_of(config), image_store(config).load, FullPaths().load, config.label)
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


def run_pipeline(config: Config, progress: Progress, until: str = "report") -> Run:
    """All stages up to and including `until`; finished ones are left as they are."""
    run = open_run(config)
    for name in STAGES[: STAGES.index(check_stage(until)) + 1]:
        DO[name](config, run, progress)
    return run
