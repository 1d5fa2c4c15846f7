"""From pairs to adapters: stage `train`, one folder per adapter, and their later rounds."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial

from spr.models.weights import ADAPTER_FILES
from spr.run.depends import origin_of
from spr.run.pairs import do_describe, do_pair, do_score
from spr.run.rounds import later_rounds
from spr.run.wiring import Config, dialect_of, image_store, seed_of, trainings
from spr.store.digests import file_digest
from spr.store.executor import once, summary_of, write_times
from spr.store.folders import ADAPTER, CANDIDATES, PAIRS, REGIONS
from spr.store.identity import Origin, hold_origin
from spr.store.lease import first_rank
from spr.store.progress import Progress, Within
from spr.store.run import Run
from spr.store.runtime import set_threads
from spr.training.config import TrainConfig, TrainResult
from spr.types import StageFile, StageSummary, TrainingPair


def do_train(config: Config, run: Run, progress: Progress) -> None:
    """Pairs -> run/adapter/<name>, each a normal PEFT adapter; then the later rounds, if the configuration
    asks for them.
    """
    known: dict[str, StageSummary] = {}
    for name, training in trainings(config).items():
        origin = origin_of(config, run, "train", name, known)
        make = partial(_train_adapter, config, run, name, training, origin, Within(progress, name))
        if not once(run, (ADAPTER, name), origin, make, together=True)[1]:
            check_adapter(run, ADAPTER, name)
    later_rounds(config, run, progress, (do_describe, do_score, do_pair, do_train))


def _train_adapter(
    config: Config, run: Run, name: str, training: TrainConfig, origin: Origin, progress: Progress
) -> StageSummary:
    begin, where = time.monotonic(), (ADAPTER, name)
    pairs, seen = run.read_stage(TrainingPair, PAIRS), run.image_digests((REGIONS,), (CANDIDATES,))
    if first_rank():
        hold_origin(run, where, origin)
        run.begin()
    result = train_on(config, pairs, run.path(*where), training, progress, seen)
    files = adapter_files(run, *where) if first_rank() else ()  # rank 0 may still be writing
    summary = summary_of(origin, files, result.pairs, result.dropped, warnings=result.warnings)
    if first_rank():
        more = asdict(result)
        write_times(run, begin, *where, images_encoded=more.pop("images_encoded"))
        del more["seconds"]
        run.write_summary(summary, more, *where)
    return summary


def adapter_files(run: Run, *where: str) -> tuple[StageFile, ...]:
    """The files of a trained adapter with their checksums."""
    return tuple(
        StageFile(file, None, file_digest(run.path(*where, file)))
        for file in ADAPTER_FILES
        if run.exists(*where, file)
    )


def check_adapter(run: Run, *where: str) -> StageSummary:
    """The summary of a trained adapter. Raises DataError when it is not finished, DamagedRunError when it is
    not the one that was written.
    """
    summary = run.finished(*where)
    if adapter_files(run, *where) != summary.shards:
        raise run.damaged("is not the adapter that was trained", *where)
    return summary


def train_on(
    config: Config,
    pairs: Sequence[TrainingPair],
    out: str,
    training: TrainConfig,
    progress: Progress,
    seen: Mapping[str, str],
) -> TrainResult:
    """Train one adapter into the folder `out`, going on where an interrupted training stands. `seen`: digests
    of the images that earlier stages opened.
    """
    from spr.training.trainer import train

    # training is one process: it gets the threads of all workers
    set_threads(config.runtime.workers * config.runtime.threads)
    store = image_store(config)
    store.watch.expect(seen, seen)
    return train(
        pairs,
        config.model.checkpoint,
        out,
        training,
        store.load,
        dialect_of(config),
        progress=progress,
        seed=seed_of(config, training),
        adapter=config.model.adapter,
    )
