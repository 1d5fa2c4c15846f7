"""Later rounds start from the adapter of the round before, share index and regions, and are evaluated under
their own names.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from spr.data.config import DataConfig
from spr.run import pipeline
from spr.run.rounds import later_rounds, round_run, round_runs
from spr.run.wiring import Config, ModelConfig, trainings
from spr.store.progress import Progress
from spr.store.run import Run
from spr.training.config import TrainConfig


def configured(rounds: int) -> Config:
    data = DataConfig(format="coco", annotations="instances.json", images="images")
    return Config("run", data, ModelConfig("model"), train=TrainConfig(rounds=rounds))


def test_each_round_starts_from_the_one_before(tmp_path: Path) -> None:
    seen: list[tuple[str, str, str | None, int]] = []

    def stage(name: str) -> object:
        return lambda config, run, progress: seen.append(
            (name, run.path("candidates"), config.model.adapter, trainings(config)["spr"].rounds)
        )

    run = Run(str(tmp_path))
    stages: Any = [stage("describe"), stage("train")]
    later_rounds(configured(3), run, Progress(), stages)
    second, third = f"{tmp_path}/rounds/spr/2", f"{tmp_path}/rounds/spr/3"
    assert seen == [
        ("describe", f"{second}/candidates", f"{tmp_path}/adapter/spr", 1),
        ("train", f"{second}/candidates", f"{tmp_path}/adapter/spr", 1),
        ("describe", f"{third}/candidates", f"{second}/adapter/spr", 1),
        ("train", f"{third}/candidates", f"{second}/adapter/spr", 1),
    ]


def test_one_round_is_the_default() -> None:
    calls: list[object] = []
    config = configured(1)
    later_rounds(config, Run("x"), Progress(), [lambda *a: calls.append(a)])
    assert calls == []
    assert round_runs(config, Run("x"), "spr") == {}


def test_index_and_regions_are_the_runs_own(tmp_path: Path) -> None:
    run = Run(str(tmp_path))
    run.write_json({"digest": "d"}, "regions", "_stage.json")
    later = round_run(run, "spr", 2)
    assert later.read_json("regions", "_stage.json") == {"digest": "d"}
    later.write_json({}, "pairs", "_stage.json")
    assert (tmp_path / "rounds" / "spr" / "2" / "pairs" / "_stage.json").exists()
    assert not run.exists("pairs")


def test_overwriting_a_stage_removes_later_rounds(tmp_path: Path) -> None:
    """They depend on everything up to the first adapter; the evaluation does not touch them."""
    run = Run(str(tmp_path))
    round_run(run, "spr", 2).write_json({}, "adapter", "spr", "_stage.json")
    pipeline.overwrite(run, "evaluate")
    assert run.exists("rounds")
    pipeline.overwrite(run, "pair")
    assert not run.exists("rounds")
