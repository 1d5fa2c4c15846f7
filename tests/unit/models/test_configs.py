"""The ready configurations are read as strictly as a user's, and say what they should."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from spr.dialects import Frame
from spr.errors import ConfigError, DialectError
from spr.run.depends import settings
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


def test_a_contract_of_ones_own_is_a_dialect() -> None:
    """What no family writes can be said, and stands for the stages as any other name does."""
    given = "model.dialect={base: qwen3_vl, scale: 1024, order: yxyx}"
    config = load_config(CONFIGS / "objects365_qwen3_vl.yaml", [given])
    dialect = dialect_of(config)
    assert dialect.box_text((0, 100, 200, 400), Frame(400, 400)) == '{"bbox_2d": [256, 0, 1024, 512]}'
    plain = load_config(CONFIGS / "objects365_qwen3_vl.yaml", ["model.dialect=qwen3_vl"])
    assert settings(config, "pair") != settings(plain, "pair"), "another contract makes other pairs"


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ("{base: qwen3_vl, scale: big}", DialectError, "model.dialect: qwen3_vl.scale: found 'big'"),
        ("{scale: 3}", DialectError, "model.dialect: found scale, expected base"),
        (
            "{base: qwen2_5_vl, max_pixels: 9000}",
            ConfigError,
            "found max_pixels here and in model.dialect_opt",
        ),
        ("[qwen3_vl]", ConfigError, "model.dialect"),
    ],
)
def test_a_contract_that_cannot_be_is_one_line(given: str, error: type[Exception], message: str) -> None:
    changes = [f"model.dialect={given}", "model.dialect_options={max_pixels: 8000}"]
    with pytest.raises(error, match=message) as caught:
        load_config(CONFIGS / "objects365_qwen3_vl.yaml", changes if "max" in given else changes[:1])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "given", ["qwen2_5_vl", "{base: qwen2_5_vl, order: yxyx}", "{base: qwen3_vl, frame: resized}"]
)
def test_a_resized_frame_takes_its_sizes_from_the_processor(given: str, tmp_path: Path) -> None:
    """Also where the dialect is said: the class's defaults are seldom the checkpoint's."""
    sizes = {"size": {"shortest_edge": 784, "longest_edge": 12544}, "patch_size": 14, "merge_size": 2}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(sizes))

    def size(*more: str) -> tuple[int, int]:
        changes = [f"model.dialect={given}", f"model.folder={tmp_path}", *more]
        return dialect_of(load_config(CONFIGS / "objects365_qwen2_5_vl.yaml", changes)).model_size(
            Frame(640, 480)
        )

    assert size() == (112, 84)
    assert size("model.processor={size: {shortest_edge: 784, longest_edge: 50176}}") == (252, 168)
    assert size("model.dialect_options={max_pixels: 1003520}") == (644, 476), "what is said counts"
