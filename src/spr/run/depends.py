"""What each folder of a run depends on: the sections that its stage is claimed with, and a digest of these
with all that stands before them.

In: a `Config`. Out: mappings that go into `_config.json`; digests, equal for two configurations exactly when
the folder can be shared.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any, TypeAlias

from spr.evaluation.results import BASE
from spr.run.wiring import Config, dialect_of, trainings
from spr.stages.prompts import templates_with
from spr.store.folders import ADAPTER, EVALUATION, FOLDERS, ROUNDS
from spr.store.identity import digest_of
from spr.training.config import TrainConfig

Folder: TypeAlias = tuple[str, ...]


def model_identity(config: Config) -> dict[str, Any]:
    """What of the model's section changes an answer."""
    keep = asdict(config.model)
    for name in ("concurrency", "api_key_env"):
        keep.pop(name)
    return keep


def _prompts(config: Config, names: Iterable[str]) -> dict[str, Any]:
    """The wording of the named templates."""
    templates = templates_with(config.prompts)
    return {name: asdict(templates[name]) for name in names}


def section(config: Config, stage: str) -> dict[str, Any]:
    """What a stage from index to pair depends on, beside the stages before it."""
    match stage:
        case "index":
            # these change no row of it
            return {k: v for k, v in asdict(config.data).items() if k not in ("where", "accept", "cache")}
        case "regions":
            return {
                "where": config.data.where,
                "accept": config.data.accept,
                "regions": asdict(config.regions),
                "seed": config.seed,
            }
        case "describe":
            return {
                "model": model_identity(config),
                "dialect": dialect_of(config).name,
                "describe": asdict(config.describe),
                "prompts": _prompts(config, config.describe.templates),
                "seed": config.seed,
            }
        case "score":
            return {
                "semantic": asdict(config.semantic) if config.semantic else None,
                "detector": asdict(config.detector) if config.detector else None,
                "score": asdict(config.score),
            }
        case "pair":
            return {
                "pair": asdict(config.pair),
                "prompts": _prompts(config, [config.pair.prompt]),
                "dialect": dialect_of(config).name,
            }
    raise ValueError(f"found stage {stage!r}, expected one from index to pair")


def training_section(config: Config, training: TrainConfig) -> dict[str, Any]:
    """What a training depends on, beside the pairs. Later rounds start from its adapter and do not
    change it.
    """
    return {
        "train": {k: v for k, v in asdict(training).items() if k != "rounds"},
        "model": model_identity(config),
        "seed": config.seed,
    }


def answering_section(config: Config) -> dict[str, Any]:
    """What the answers of a model to a benchmark depend on, beside its adapter and the benchmark."""
    return {"model": model_identity(config), "dialect": dialect_of(config).name, "seed": config.seed}


def folders(config: Config) -> dict[Folder, str]:
    """Every folder of a run, from index to the answers of its models, with a digest of all that it depends
    on.
    """
    runtime = {"shard_size": config.runtime.shard_size, "threads": config.runtime.threads}
    found: dict[Folder, str] = {}
    digest = ""
    for stage in ("index", "regions", "describe", "score", "pair"):
        digest = digest_of({"upstream": digest, "runtime": runtime, **section(config, stage)})
        found[FOLDERS[stage],] = digest
    models = {BASE: digest_of({})}
    for name, training in trainings(config).items():
        key = digest_of({"upstream": digest, **training_section(config, training)})
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
    for benchmark in config.evaluate.benchmarks:
        for model, key in models.items():
            asked = {
                "runtime": runtime,
                "adapter": key,
                "benchmark": asdict(benchmark),
                "counting": counting,
                **answering_section(config),
            }
            found[EVALUATION, benchmark.name, model] = digest_of(asked)
    return found
