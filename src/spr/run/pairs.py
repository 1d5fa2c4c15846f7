"""From annotations to pairs: index, regions, describe, score, pair.

In: a `Config`, a run. Out: the folders of these stages. What a stage makes of a shard is a function of its
items alone; models are built in the process that works on it.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

from spr.data.index import build_index, index_files, open_index
from spr.run.depends import origin_of
from spr.run.reading import (
    ChosenImages,
    ImageItems,
    PairItems,
    RegionItems,
    ScoredImage,
    ScoredRegion,
    SeenRegion,
)
from spr.run.wiring import Config, build_describer, build_detector, build_scorer, dialect_of, image_store
from spr.stages.describe import describe, look_at_answers
from spr.stages.pairing import differences, make_pairs
from spr.stages.prompts import templates_with
from spr.stages.regions import draw_regions
from spr.stages.scoring import score, spreads
from spr.store.digests import digest
from spr.store.executor import Stage, once, run_stage, summary_of, write_times
from spr.store.files import cache_folder
from spr.store.folders import CANDIDATES, INDEX, JOURNAL, PAIRS, REGIONS, SCORES
from spr.store.identity import hold_origin
from spr.store.progress import Progress, counted
from spr.store.run import Run
from spr.store.workers import overlapping
from spr.types import (
    Description,
    Dropped,
    ImageRecord,
    Region,
    ScoredCandidate,
    ShardResult,
    StageSummary,
    TrainingPair,
)


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


def need_files(section: Any, progress: Progress) -> None:
    """Files of the embedded world are written when a stage first needs them."""
    from spr.scenes.embedded import ensure_world

    ensure_world(_texts(asdict(section)), progress.start, progress.advance, progress.end)


# --- index and regions ----------------------------------------------------------------------------


def do_index(config: Config, run: Run, progress: Progress) -> None:
    """Annotations -> run/index (Parquet)."""
    need_files(config.data, progress)
    origin = origin_of(config, run, "index")

    def make() -> StageSummary:
        begin = time.monotonic()
        progress.start("index", 0)
        counts = build_index(config.data, run.path(INDEX), progress.advance, origin.digest)
        hold_origin(run, (INDEX,), origin)
        run.begin()
        summary = summary_of(origin, index_files(run.path(INDEX)), counts.images, counts.rejected)
        write_times(run, begin, INDEX)
        run.write_summary(summary, asdict(counts), INDEX)
        lost = sum(counts.rejected.values())
        progress.end(f"{counts.images} images, {counts.annotations} boxes, {lost} set aside")
        if lost:
            progress.tell(f"index: set aside: {counted(counts.rejected)}")
        return summary

    if not once(run, (INDEX,), origin, make)[1]:
        check_index(run)


def check_index(run: Run) -> None:
    """Raise DataError when the index is not finished, DamagedRunError when a table is not the one that was
    written.
    """
    listed, found = run.finished(INDEX).shards, {file.name: file for file in index_files(run.path(INDEX))}
    for file in listed:
        if found.get(file.name) != file:
            raise run.damaged("is not the table that was written", INDEX, file.name)


def _regions_work(config: Config, index_path: str) -> Callable[[Sequence[ImageRecord]], ShardResult[Region]]:
    index, store = open_index(index_path), image_store(config)

    def work(images: Sequence[ImageRecord]) -> ShardResult[Region]:
        boxes = index.annotations_of([image.image_id for image in images])
        expected = store.watch.expect((image.path for image in images), {})
        kept: list[Region] = []
        dropped: list[Dropped] = []
        for image in images:
            rows, lost = draw_regions(image, boxes.get(image.image_id, ()), config.regions, config.seed)
            if rows and config.regions.verify:
                problem = store.problem(image.path, image.width, image.height, config.data.accept)
                if problem is not None:
                    rows, lost = [], [Dropped(image.image_id, problem.reason, problem.detail)]
            kept += rows
            dropped += lost
        return ShardResult(kept, dropped, images=expected.new())

    return work


def do_regions(config: Config, run: Run, progress: Progress) -> None:
    """Index -> run/regions."""
    stage = Stage(
        origin_of(config, run, "regions"),
        (REGIONS,),
        Region,
        partial(_regions_work, config, run.path(INDEX)),
        name=lambda image: image.image_id,
    )
    check_index(run)
    index = open_index(run.path(INDEX))
    images = ChosenImages(index, config.data.where, config.regions, config.seed)
    summary = run_stage(run, stage, images, config.runtime, progress)
    if summary.rows == 0:
        raise run.nothing_left("region", counted(summary.dropped) or "no image passes data.where", REGIONS)


# --- describe, score, pair ------------------------------------------------------------------------


def journal_of(config: Config) -> str:
    """Where a server's answers are kept until their stage is finished: in the run, or in this machine's cache
    where the run is at a URL, which takes no appended lines.
    """
    if "://" in config.run:
        return str(cache_folder() / JOURNAL / digest(config.run.encode())[:16])
    return Run(config.run).path(JOURNAL)


def forget_journal(config: Config) -> None:
    """Remove the journal: everything that it holds is in a finished stage."""
    shutil.rmtree(journal_of(config), ignore_errors=True)


def _describe_work(
    config: Config,
) -> Callable[[Sequence[SeenRegion]], ShardResult[Description]]:
    dialect, store = dialect_of(config), image_store(config)
    describer = build_describer(config, store, journal=journal_of(config))
    templates = templates_with(config.prompts)

    def work(items: Sequence[SeenRegion]) -> ShardResult[Description]:
        known = {region.image: digest for region, digest in items if digest}
        expected = store.watch.expect((region.image for region, _ in items), known)
        regions = [region for region, _ in items]
        found = describe(regions, describer, dialect, config.describe, config.seed, templates)
        return replace(found, images=expected.new())

    return overlapping(work, describer)


def do_describe(config: Config, run: Run, progress: Progress) -> None:
    """Regions -> run/candidates."""
    drawn_elsewhere = {"endpoint": "the server", "vllm": "vLLM's engine"}.get(config.model.kind)
    notes = (
        {"reproducible": f"no: {drawn_elsewhere} draws the samples"}
        if drawn_elsewhere
        else {"batching": config.model.batching}
    )
    stage = Stage(
        origin_of(config, run, "describe"),
        (CANDIDATES,),
        Description,
        partial(_describe_work, config),
        notes,
        name=lambda item: item[0].region_id,
        look=partial(look_at_answers, dialect=dialect_of(config), config=config.describe),
    )
    summary = run_stage(run, stage, RegionItems(run), config.runtime, progress)
    forget_journal(config)
    if summary.rows == 0:
        raise run.nothing_left("description", counted(summary.dropped), CANDIDATES)


def _score_work(config: Config) -> Callable[[Sequence[ScoredImage]], ShardResult[ScoredCandidate]]:
    store = image_store(config)
    dialect, scorer, detector = (
        dialect_of(config),
        build_scorer(config, store),
        build_detector(config, store),
    )

    def work(images: Sequence[ScoredImage]) -> ShardResult[ScoredCandidate]:
        known = {regions[0][0].image: digest for digest, regions in images if digest}
        expected = store.watch.expect((regions[0][0].image for _, regions in images), known)
        found = score(
            [item for _, image in images for item in image], dialect, scorer, detector, config.score
        )
        return ShardResult(*found, images=expected.new())

    return work


def do_score(config: Config, run: Run, progress: Progress) -> None:
    """Candidates -> run/scores. The unit of work is an image with all its regions, so that batches do not
    depend on the shards.
    """
    stage = Stage(
        origin_of(config, run, "score"),
        (SCORES,),
        ScoredCandidate,
        partial(_score_work, config),
        name=lambda image: image[1][0][0].image_id,
        look=partial(spreads, lam=config.pair.lam),
    )
    summary = run_stage(run, stage, ImageItems(run), config.runtime, progress)
    if sum(summary.dropped.values()) >= summary.rows:  # an unscored row stays, and is counted as dropped
        raise run.nothing_left("scored description", counted(summary.dropped), SCORES)


def _pair_work(
    config: Config,
) -> Callable[[Sequence[ScoredRegion]], ShardResult[TrainingPair]]:
    dialect, templates = dialect_of(config), templates_with(config.prompts)
    return lambda items: ShardResult(*make_pairs(items, dialect, config.pair, templates))


def do_pair(config: Config, run: Run, progress: Progress) -> None:
    """Scores -> run/pairs."""
    stage = Stage(
        origin_of(config, run, "pair"),
        (PAIRS,),
        TrainingPair,
        partial(_pair_work, config),
        name=lambda item: item[0].region_id,
        look=partial(differences, dialect=dialect_of(config)),
    )
    summary = run_stage(run, stage, PairItems(run), config.runtime, progress)
    if summary.rows == 0:
        raise run.nothing_left("pair", counted(summary.dropped), PAIRS)
