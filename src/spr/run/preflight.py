"""Before the first stage touches anything: could the stages that are still to do work at all?

In: a configuration, a run, the stages that a command wants. Out: nothing, or the first error, one line. No
weights are read and no file of the run is written; a server is asked one question. What is finished needs
nothing any more, and is not looked at.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TypeAlias

from fsspec.implementations.local import LocalFileSystem
from PIL import Image

from spr.data.files import open_source
from spr.data.where import check_where
from spr.errors import EXTRAS, ConfigError, missing_extra
from spr.evaluation.results import BASE
from spr.evaluation.stage import look_at
from spr.models.weights import ADAPTER_FILES
from spr.run.pairs import need_files
from spr.run.rounds import models_of, round_run
from spr.run.wiring import Config, build_endpoint, dialect_of, image_store, sees_all, trainings
from spr.store.folders import ADAPTER, EVALUATION, FOLDERS, STAGE_FILE, STAGES
from spr.store.progress import Progress
from spr.store.run import Run
from spr.store.runtime import RuntimeConfig

Check: TypeAlias = Callable[[Config, Progress], None]
NEEDS: Mapping[str, tuple[str, ...]] = {  # extras of a stage, or of the doctor
    **dict.fromkeys(("index", "regions", "pair", "report"), ("cli", "data")),
    **dict.fromkeys(("describe", "score", "evaluate", "doctor"), ("cli", "data", "models")),
    "train": ("cli", "data", "models", "train"),
}


def unfinished(config: Config, run: Run, stage: str) -> bool:
    """Whether a stage has something left to do."""
    match stage:
        case "train":
            last = {name: training.rounds for name, training in trainings(config).items()}
            return not all(
                round_run(run, name, number).exists(ADAPTER, name, STAGE_FILE)
                for name, rounds in last.items()
                for number in range(1, rounds + 1)
            )
        case "evaluate":
            return not all(
                run.exists(EVALUATION, benchmark.name, model, STAGE_FILE)
                for benchmark in config.evaluate.benchmarks
                for model in (BASE, *models_of(config, run))
            )
        case "report" | "doctor":
            return True
    return not run.exists(FOLDERS[stage], STAGE_FILE)


def preflight(
    wanted: Iterable[tuple[Config, Run]],
    stages: Sequence[str],
    progress: Progress,
    overwrite: str | None = None,
) -> None:
    """Check what is still to do of `stages` in these runs, with `overwrite` and what follows it. What several
    runs have in common is checked once. Raises UserError, UnfinishedError.
    """
    again = STAGES[STAGES.index(overwrite) :] if overwrite is not None else ()
    found: dict[str, tuple[Check, Config]] = {}
    for config, run in wanted:
        check_place(run)
        for stage in stages:
            if stage in again or unfinished(config, run, stage):
                check_extras(stage)
                for check, sections in checks_of(config, stage, stages).items():
                    key = f"{check.__name__} {[getattr(config, section) for section in sections]}"
                    found.setdefault(key, (check, config))
    if found:
        progress.start("preflight", len(found))
    for check, config in found.values():
        check(config, progress)
        progress.advance(1)
    progress.end()


def check_place(run: Run) -> None:
    """Raise ConfigError when the run folder cannot be written."""
    fs, path = run.inner()
    if not isinstance(fs, LocalFileSystem):
        return
    place = Path(path)
    while not place.exists():
        place = place.parent
    if not place.is_dir():
        raise ConfigError(f"run: {place}: found a file, expected a folder")
    if not os.access(place, os.W_OK | os.X_OK):
        raise ConfigError(f"run: {place}: this folder cannot be written")


def check_extras(stage: str) -> None:
    """Raise MissingExtraError when a stage's packages are not installed."""
    for module, extra in EXTRAS.items():
        if extra in NEEDS[stage] and find_spec(module) is None:
            raise missing_extra(f"`spr {stage}` ({module})", extra)


# --- what the stages need -------------------------------------------------------------------------


def _annotations(config: Config, progress: Progress) -> None:
    need_files(config.data, progress)
    for name in config.data.sources:
        open_source(name, config.data.format)


def _images(config: Config, progress: Progress) -> None:
    image_store(config)
    if config.data.where.strip():
        check_where(config.data.where)


def _boxes(config: Config, progress: Progress) -> None:
    """What the stages from describe on score and refine are boxes."""
    dialect = dialect_of(config)
    if "boxes" not in dialect.contract.writes:
        raise ConfigError(
            f"model.dialect: found {dialect.name}, which writes points only, expected one with boxes: a "
            "preference pair differs in its boxes (`spr evaluate` scores points)"
        )


def _candidates(config: Config, progress: Progress) -> None:
    templates, samples = len(config.describe.templates), config.describe.samples
    if templates * samples < 2:
        raise ConfigError(
            f"describe: found {templates} template x {samples} sample, expected at least 2 descriptions of a "
            "region: a pair compares them"
        )


def _crew(config: Config, progress: Progress) -> None:
    """Those who work can be had, and see the run."""
    runtime = config.runtime
    several = runtime.executor == "ray" or runtime.workers > 1
    if several and config.run.startswith("memory://"):
        raise ConfigError(
            f"run: found {config.run}, which no other process sees, expected a disk or a URL for "
            f"runtime.workers: {runtime.workers}, runtime.executor: {runtime.executor}"
        )
    if runtime.executor == "ray":
        from spr.store.ray_workers import connect

        connect()


def _device(name: str, where: str, runtime: RuntimeConfig) -> None:
    """This machine has the device; in a cluster the actors' machines have it."""
    from spr.models.devices import SPREAD, check_devices, device_named

    if runtime.executor == "ray":
        return
    check_devices(runtime.devices)
    if name == SPREAD and runtime.workers > 1:
        raise ConfigError(
            f"{where}: found {SPREAD} with runtime.workers: {runtime.workers}, expected 1: each worker would "
            "take all accelerators"
        )
    device_named(name, where)


def _reached(config: Config, progress: Progress) -> None:
    """What answers is there: the device in process, or the server."""
    if config.model.kind == "endpoint":
        check_server(config)
    elif config.model.kind == "vllm":
        _engine(config)
    else:
        _device(config.model.device, "model.device", config.runtime)


def _engine(config: Config) -> None:
    """vLLM is installed, and its engine has the accelerators to itself."""
    from spr.models.vllm_engine import check_engine

    check_engine(config.model.engine)
    if find_spec("vllm") is None:
        raise missing_extra("model.kind: vllm", "vllm")
    if config.runtime.executor == "local" and config.runtime.workers > 1:
        raise ConfigError(
            f"runtime.workers: found {config.runtime.workers} with model.kind: vllm, expected 1: the engine "
            "takes the accelerators itself (model.engine: {tensor_parallel_size: …})"
        )


def check_server(config: Config, adapter: str | None = None) -> None:
    """The server answers a question about a picture, with `adapter` on top. Raises ConfigError,
    UnfinishedError.
    """
    describer = build_endpoint(config, image_store(config), adapter=adapter)
    describer.check(Image.new("RGB", (64, 64), "grey"))


def _adapters_served(config: Config, progress: Progress) -> None:
    """What is trained can be put on top of the model at the server, which is asked with it later."""
    if any(training.lora_variant == "dora" for training in trainings(config).values()):
        raise ConfigError(
            "train.lora_variant: found dora, which the server that is asked with the adapter does not load; "
            "expected lora or rslora, or --until train and `spr train --merge`"
        )
    if config.model.kind == "vllm":
        return
    build_endpoint(config, image_store(config)).check_loads_adapters()


def _readable(config: Config, progress: Progress) -> None:
    """The model's checkpoint is one, and whole; the doctor looks at the rest itself."""
    from spr.models.ready import check_mllm

    if config.model.kind != "endpoint":
        check_mllm(config.model.checkpoint)


def _checkpoint(config: Config, progress: Progress) -> None:
    """The model's checkpoint is one, and whole; it sees whole pictures; its starting adapter is there."""
    from spr.models.ready import check_mllm

    sees_all(config)(check_mllm(config.model.checkpoint))
    if config.model.adapter and not (Path(config.model.adapter) / ADAPTER_FILES[0]).is_file():
        raise ConfigError(f"model.adapter: {config.model.adapter}: found no {ADAPTER_FILES[0]}")


def _scoring(config: Config, progress: Progress) -> None:
    from spr.models.ready import check_detector, check_scorer

    if config.semantic is not None:
        _device(config.semantic.device, "semantic.device", config.runtime)
        check_scorer(config.semantic.checkpoint)
    if config.detector is not None and config.score.detector_side != "none":
        _device(config.detector.device, "detector.device", config.runtime)
        check_detector(config.detector.checkpoint)


def _training(config: Config, progress: Progress) -> None:
    from spr.training.loop import check_arguments

    for training in trainings(config).values():
        check_arguments(training)


def _memory(config: Config, progress: Progress) -> None:
    """What is trained fits on the device that it will be trained on."""
    from spr.training.memory import check_device

    for training in trainings(config).values():
        check_device(config.model.checkpoint, training)


def _benchmarks(config: Config, progress: Progress) -> None:
    need_files(config.evaluate, progress)
    look_at(config.evaluate, dialect_of(config))


_PICTURES: Mapping[Check, Sequence[str]] = {_images: ("data",)}
_CREW: Mapping[Check, Sequence[str]] = {_crew: ("run", "runtime")}
_REACHED: Mapping[Check, Sequence[str]] = {_reached: ("model", "runtime")}
_CHECKPOINT: Mapping[Check, Sequence[str]] = {_checkpoint: ("model",)}
CHECKS: Mapping[str, Mapping[Check, Sequence[str]]] = {  # of a stage, with the sections that each looks at
    "index": {_annotations: ("data",)},
    "regions": {**_CREW, **_PICTURES},
    "describe": {
        _boxes: ("model",),
        _candidates: ("describe",),
        **_CREW,
        **_PICTURES,
        **_REACHED,
        **_CHECKPOINT,
    },
    "score": {
        _boxes: ("model",),
        **_CREW,
        **_PICTURES,
        _scoring: ("semantic", "detector", "score", "runtime"),
    },
    "pair": {_boxes: ("model",), **_CREW},
    "train": {
        **_PICTURES,
        _training: ("train", "adapters"),
        **_CHECKPOINT,
        _memory: ("model", "train", "adapters"),
    },
    "evaluate": {**_CREW, **_REACHED, **_CHECKPOINT, _benchmarks: ("model", "evaluate")},
    "report": {},
    "doctor": {
        _boxes: ("model",),
        **_PICTURES,
        **_REACHED,
        _readable: ("model",),
        _benchmarks: ("model", "evaluate"),
    },
}


def checks_of(config: Config, stage: str, stages: Sequence[str]) -> dict[Check, Sequence[str]]:
    """The checks of a stage, one of `stages`. What a server answers needs no checkpoint here, what is trained
    does, and where the server is asked with it later, it must take it.
    """
    checks = dict(CHECKS[stage])
    asked = "evaluate" in stages or any(training.rounds > 1 for training in trainings(config).values())
    if stage == "train" and asked and config.model.kind in ("endpoint", "vllm"):
        checks[_adapters_served] = ("model", "train", "adapters")
    if stage != "train" and config.model.kind == "endpoint":
        checks.pop(_checkpoint, None)
    return checks
