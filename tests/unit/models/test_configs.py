"""The ready configurations are read as strictly as a user's, and say what they should."""

from __future__ import annotations

from pathlib import Path

import pytest

from spr.errors import ConfigError
from spr.run.wiring import dialect_of, load_config

CONFIGS = Path(__file__).parents[3] / "configs"
READY = sorted(CONFIGS.glob("objects365_*.yaml"))


def test_there_are_the_four_of_the_issue() -> None:
    assert [p.stem for p in READY] == [
        "objects365_internvl3",
        "objects365_llava_onevision",
        "objects365_qwen2_5_vl",
        "objects365_qwen3_vl",
    ]


@pytest.mark.parametrize("path", READY, ids=lambda p: p.stem)
def test_a_ready_configuration_loads(path: Path) -> None:
    config = load_config(path)
    assert config.semantic is not None
    assert config.semantic.folder == "openai/clip-vit-large-patch14-336"
    assert config.detector is not None
    assert config.detector.folder == "IDEA-Research/grounding-dino-base"
    # the paper's
    assert (config.pair.lam, config.score.iou_threshold, config.regions.max_images) == (0.8, 0.5, 10_000)
    assert config.data.strip_folders == 2
    assert len(config.evaluate.benchmarks[0].paths) == 8


@pytest.mark.parametrize("path", READY, ids=lambda p: p.stem)
def test_every_number_says_where_it_comes_from(path: Path) -> None:
    """A number of the method without a source or the word "ours" beside it is a hidden constant."""
    section = ""
    for line in path.read_text(encoding="utf-8").splitlines():
        if line and not line[0].isspace():
            section = line.partition(":")[0]
        key, _, value = line.partition(":")
        number = value.partition("#")[0].strip()
        if (
            section in ("regions", "describe", "score", "pair", "train")
            and number.replace(".", "", 1).replace("e-", "", 1).isdigit()
        ):
            assert "#" in value, f"{path.name}: {key.strip()} {number}"


def test_an_unverified_frame_is_named_in_the_file() -> None:
    config = load_config(CONFIGS / "objects365_llava_onevision.yaml")
    assert not dialect_of(config).contract.verified


def test_a_hub_name_that_is_not_here_asks_for_the_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(
        ConfigError, match=r"found no config.json with a model_type in 'Qwen/Qwen2.5-VL-7B-Instruct'"
    ):
        dialect_of(load_config(CONFIGS / "objects365_qwen2_5_vl.yaml"))
