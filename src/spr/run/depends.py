"""What each folder of a run is made from: options and digests of inputs, compared whenever it is used.

In: a `Config`, a run. Out: an `Origin` per stage, whose inputs are checkpoints, annotation files and the
stages before it; `fresh` for a stage that is going to be read; `folders`: digests that are equal for two
configurations exactly when a folder can be shared.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from functools import cache
from typing import Any, TypeAlias

from spr.data.read import input_digests
from spr.errors import ConfigError, DataError
from spr.evaluation.results import BASE
from spr.models.weights import adapter_digest, checkpoint_digest
from spr.run.wiring import Config, dialect_of, trainings
from spr.stages.prompts import templates_with
from spr.store.folders import ADAPTER, EVALUATION, FOLDERS, ROUNDS, STAGE_FILE
from spr.store.identity import Origin, check_origin, digest_of, options
from spr.store.run import Run
from spr.training.config import TrainConfig
from spr.types import StageSummary

log = logging.getLogger(__name__)
Folder: TypeAlias = tuple[str, ...]
BEFORE: Mapping[str, tuple[str, ...]] = {  # the stages that a stage reads
    "index": (),
    "regions": ("index",),
    "describe": ("regions",),
    "score": ("describe", "regions"),
    "pair": ("score", "regions"),
    "train": ("pair",),
}
# Where data and weights lie, and how the work is done, change no row.
_PLACES = ("annotations", "images", "categories", "cache")
_HOW = (
    *("folder", "revision", "adapter", "url", "device", "concurrency", "api_key_env"),
    *("give_up_after", "unanswered"),  # what `unanswered: drop` leaves out is counted under its own reason
)


def _prompts(config: Config, names: Iterable[str]) -> dict[str, Any]:
    """The wording of the named templates."""
    templates = templates_with(config.prompts)
    return {name: asdict(templates[name]) for name in names}


def _dialect(config: Config) -> dict[str, Any]:
    """The notation with its options, wherever they come from."""
    dialect = dialect_of(config)
    return {"name": dialect.name, **dialect.options}


def _model(config: Config) -> dict[str, Any]:
    return {"model": options(config.model, _HOW), "dialect": _dialect(config), "seed": config.seed}


def settings(config: Config, stage: str) -> dict[str, Any]:
    """The options on which a stage from index to pair depends, beside the stages before it."""
    match stage:
        case "index":
            return {"data": options(config.data, (*_PLACES, "where", "accept"))}
        case "regions":
            where = {"where": config.data.where, "accept": config.data.accept}
            return {"data": where, "regions": options(config.regions), "seed": config.seed}
        case "describe":
            asked = {"describe": options(config.describe)}
            return {**_model(config), **asked, "prompts": _prompts(config, config.describe.templates)}
        case "score":
            return {
                "semantic": options(config.semantic, _HOW) if config.semantic else {},
                "detector": options(config.detector, _HOW) if config.detector else {},
                "score": options(config.score),
            }
        case "pair":
            return {
                "pair": options(config.pair),
                "prompts": _prompts(config, [config.pair.prompt]),
                "dialect": _dialect(config),
            }
    raise ValueError(f"found stage {stage!r}, expected one from index to pair")


def training_settings(config: Config, training: TrainConfig) -> dict[str, Any]:
    """The options on which a training depends. Later rounds start from its adapter and do not change it."""
    return {"train": options(training, ("rounds",)), **_model(config)}


def _weights(config: Config) -> dict[str, str]:
    """The user's model, with the adapter that it starts from."""
    found = {"model": checkpoint_digest(config.model.checkpoint, weights=config.model.kind != "endpoint")}
    if config.model.adapter:
        found["adapter"] = adapter_digest(config.model.adapter)
    return found


def sources(config: Config, stage: str) -> dict[str, str]:
    """Digests of what a stage reads from outside of the run. Raises ConfigError or DataError when it is not
    there.
    """
    match stage:
        case "index":
            return input_digests(config.data)
        case "describe" | "train":
            return _weights(config)
        case "score":
            named = {"semantic": config.semantic, "detector": config.detector}
            return {name: checkpoint_digest(part.checkpoint) for name, part in named.items() if part}
    return {}


def _sources_or_names(config: Config, stage: str) -> Any:
    """What is there by its content, what is not by its name: enough to tell two configurations apart."""
    try:
        return sources(config, stage)
    except (ConfigError, DataError):
        match stage:
            case "index":
                return [config.data.sources, config.data.categories]
            case "score":
                return [part.folder for part in (config.semantic, config.detector) if part is not None]
        return [config.model.folder, config.model.adapter]


def origin_of(
    config: Config,
    run: Run,
    stage: str,
    adapter: str | None = None,
    known: dict[str, StageSummary] | None = None,
) -> Origin:
    """What a stage (of one `adapter`: train) is made from, by this configuration and what stands before it.
    `known`: earlier stages that are known to be fresh, so that each is looked at once.

    A finished stage whose data or weights are not there any more keeps those that it had, which is said once.
    Raises DataError, ConfigError, StaleRunError, DamagedRunError.
    """
    made = (
        settings(config, stage) if adapter is None else training_settings(config, trainings(config)[adapter])
    )
    done = run.summary(*folder_of(stage, adapter))
    try:
        inputs = sources(config, stage)
    except (ConfigError, DataError) as e:
        if done is None:
            raise
        place = run.path(*folder_of(stage, adapter))
        _say_once(f"{place}: used as it is: what it was made from is gone ({e})")
        inputs = {name: value for name, value in done.inputs.items() if name not in FOLDERS}
    known = {} if known is None else known
    for name in BEFORE[stage]:
        if done is not None and not run.exists(FOLDERS[name], STAGE_FILE):
            inputs[name] = done.inputs.get(name, "")
        else:
            known[name] = known.get(name) or fresh(config, run, name, known=known)
            inputs[name] = known[name].digest
    return Origin(stage, made, inputs)


@cache
def _say_once(text: str) -> None:
    log.warning(text)


def folder_of(stage: str, adapter: str | None = None) -> Folder:
    """The folder of a stage, of one adapter where there are several."""
    return (FOLDERS[stage],) if adapter is None else (FOLDERS[stage], adapter)


def fresh(
    config: Config,
    run: Run,
    stage: str,
    adapter: str | None = None,
    known: dict[str, StageSummary] | None = None,
) -> StageSummary:
    """A finished stage that is going to be read: made from what the configuration says and from what stands
    before it. Raises DataError, StaleRunError, DamagedRunError.
    """
    done = run.finished(*folder_of(stage, adapter))
    check_origin(run, folder_of(stage, adapter), origin_of(config, run, stage, adapter, known))
    return done


def answering(config: Config, adapter: str) -> Origin:
    """What the answers of a model to a benchmark depend on, beside the benchmark. `adapter`: the digest of
    the one on top, "" for none.
    """
    weights = _weights(config)
    return Origin("evaluate", _model(config), {**weights, "adapter": adapter} if adapter else weights)


def folders(config: Config) -> dict[Folder, str]:
    """Every folder of a run, from index to the answers of its models, with a digest of all that it depends
    on.
    """
    runtime = {"shard_size": config.runtime.shard_size, "threads": config.runtime.threads}
    found: dict[Folder, str] = {}
    digest = ""
    for stage in ("index", "regions", "describe", "score", "pair"):
        made = {**settings(config, stage), "inputs": _sources_or_names(config, stage)}
        digest = digest_of({"upstream": digest, "runtime": runtime, **made})
        found[FOLDERS[stage],] = digest
    models = {BASE: digest_of({})}
    for name, training in trainings(config).items():
        made = {**training_settings(config, training), "inputs": _sources_or_names(config, "train")}
        key = digest_of({"upstream": digest, **made})
        found[ADAPTER, name] = models[name] = key
        if training.rounds > 1:
            found[ROUNDS, name] = key
            models |= {
                f"{name}-round-{n}": digest_of({"round": n, "first": key})
                for n in range(2, training.rounds + 1)
            }
    counting = {
        "limit": config.evaluate.limit,
        "bootstrap": config.evaluate.bootstrap,
        "seed": config.evaluate.seed,
    }
    asking = {**_model(config), "inputs": _sources_or_names(config, "train")}
    for benchmark in config.evaluate.benchmarks:
        for model, key in models.items():
            asked = {
                "runtime": runtime,
                "adapter": key,
                "benchmark": asdict(benchmark),
                "counting": counting,
                **asking,
            }
            found[EVALUATION, benchmark.name, model] = digest_of(asked)
    return found
