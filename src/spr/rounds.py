"""Rounds (`train.rounds: N`): describe with the adapter of the round before, score, pair, and train on.

In: a run whose first round is trained. Out: rounds/2 … rounds/N inside it, each with the folders of a run; index and regions are the run's own.
The reference of a later round is the adapter it starts from (its loss starts at ln 2 again), and each round's `_stage.json` says so.
The paper trains one round; rounds are ours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from spr.artifacts import Run
from spr.executor import Progress
from spr.wiring import Config

FOLDER = "rounds"
SHARED = ("index", "regions")
ADAPTER = "adapter"


@dataclass(frozen=True, slots=True)
class LaterRun(Run):
    """A round's folder, which reads index and regions from the run it belongs to."""

    first: Run

    def path(self, *parts: str) -> str:
        """The path of something inside the round."""
        return self.first.path(*parts) if parts and parts[0] in SHARED else Run.path(self, *parts)

    def _inner(self, *parts: str) -> tuple[Any, str]:
        return self.first._inner(*parts) if parts and parts[0] in SHARED else Run._inner(self, *parts)


def round_run(run: Run, number: int) -> Run:
    """The folder of a round; round 1 is the run itself."""
    return run if number == 1 else LaterRun(run.path(FOLDER, str(number)), run)


def later_rounds(config: Config, run: Run, progress: Progress, stages: Sequence[Callable[[Config, Run, Progress], None]]) -> None:
    """Rounds 2 … N: each runs `stages` (describe, score, pair, train) with the adapter of the round before."""
    for number in range(2, config.train.rounds + 1):
        later = round_run(run, number)
        model = replace(config.model, adapter=round_run(run, number - 1).path(ADAPTER))
        inner = replace(config, run=later.root, model=model, train=replace(config.train, rounds=1))
        for stage in stages:
            stage(inner, later, progress)


def round_runs(config: Config, run: Run) -> Mapping[str, Run]:
    """Model names of the later rounds for the evaluation, with their folders: spr-round-2 …"""
    return {f"spr-round-{n}": round_run(run, n) for n in range(2, config.train.rounds + 1)}
