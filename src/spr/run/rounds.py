"""Rounds (`train.rounds: N`): describe with the adapter of the round before, score, pair, and train on.

In: a run whose first round is trained. Out: rounds/<adapter>/2 … N inside it, each with the folders of a run;
index and regions are the run's own. The reference of a later round is the adapter it starts from (its loss
starts at ln 2 again), and each round's `_stage.json` says so. The paper trains one round; rounds are ours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from spr.run.wiring import Config, trainings
from spr.store.folders import ADAPTER, INDEX, REGIONS, ROUNDS
from spr.store.progress import Progress, Within
from spr.store.run import Run, SharingRun

SHARED = (INDEX, REGIONS)


def round_run(run: Run, name: str, number: int) -> Run:
    """The folder of a round of an adapter, which reads index and regions from the run it belongs to; round 1
    is the run itself.
    """
    return (
        run
        if number == 1
        else SharingRun(run.path(ROUNDS, name, str(number)), owners={(folder,): run for folder in SHARED})
    )


def later_rounds(
    config: Config, run: Run, progress: Progress, stages: Sequence[Callable[[Config, Run, Progress], None]]
) -> None:
    """Rounds 2 … N of every adapter: each runs `stages` (describe, score, pair, train) with the adapter of
    the round before.
    """
    for name, training in trainings(config).items():
        for number in range(2, training.rounds + 1):
            later = round_run(run, name, number)
            model = replace(config.model, adapter=round_run(run, name, number - 1).path(ADAPTER, name))
            inner = replace(
                config, run=later.root, model=model, adapters={name: {**config.adapters[name], "rounds": 1}}
            )
            for stage in stages:
                stage(inner, later, Within(progress, f"{name} round {number}"))


def models_of(config: Config, run: Run) -> list[str]:
    """The models that a run evaluates beside the base: its adapters, each with its later rounds."""
    return [model for name in trainings(config) for model in (name, *round_runs(config, run, name))]


def round_runs(config: Config, run: Run, name: str) -> Mapping[str, Run]:
    """Model names of the later rounds of a model for the evaluation, with their folders: spr-round-2 … Empty
    for the base model.
    """
    training = trainings(config).get(name)
    return (
        {f"{name}-round-{n}": round_run(run, name, n) for n in range(2, training.rounds + 1)}
        if training
        else {}
    )
