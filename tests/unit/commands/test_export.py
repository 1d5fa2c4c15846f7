"""Exports hold what their trainers need: literal coordinates in the right frame, both answers, one image
each, and the run's own training, which starts as it is. The golden file holds what the real trainers trained
on (`make check-exports`).
"""

from __future__ import annotations

import io
import json
import runpy
from dataclasses import fields, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import yaml
from benchmarks.check_exports import table
from PIL import Image

from spr.commands.export import boxes_in, check_export, export_pairs, read_export
from spr.commands.trainers import EVERYWHERE, OWN_WAY, TRIED, Format, Training, start
from spr.dialects import get_dialect
from spr.errors import ConfigError, DataError
from spr.training.config import TrainConfig
from spr.types import Checkpoint, Frame, Score, TrainingPair
from tests.contract.checkpoints import build
from tests.support.export_pairs import FAMILIES, TEMPLATES, dialect_in, pairs_of, training_in
from tests.support.export_pairs import load_image as load_pattern

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "exports.json").read_text(encoding="utf-8"))

SCORE = Score(0.5, 0.3, 0.3, 0.3, 0.7)
FERRET, QWEN = get_dialect("ferret"), get_dialect("qwen2_5_vl")
PAIR = TrainingPair(
    "a#0",
    "a.png",
    200,
    100,
    (0, 0, 50, 50),
    "Describe [0, 0, 250, 500].",
    "a cat [10, 20, 30, 40].",
    "a cat [11, 20, 30, 40].",
    0.2,
    0,
    1,
    SCORE,
    SCORE,
)
FORMATS: tuple[Format, ...] = get_args(Format)
TRAINING = Training(
    "spr", Checkpoint("/models/qwen"), "qwen2_5_vl", TrainConfig(), 0, r"layers\..*\.(q_proj)"
)


def load_image(path: str) -> Image.Image:
    if path == "broken":
        raise OSError("broken")
    return Image.fromarray(np.random.default_rng(len(path)).integers(0, 255, (100, 200, 3), dtype=np.uint8))


@pytest.mark.parametrize("format", FORMATS)
def test_what_is_written_is_read_back(tmp_path: Path, format: Any) -> None:
    """Two regions of one image: the image is stored once, and its pixels are the stored ones."""
    second = replace(PAIR, pair_id="a#1", chosen="two cats [1, 2, 3, 4].")
    result = export_pairs([PAIR, second], format, tmp_path / "out", FERRET, load_image, TRAINING)
    assert (result.pairs, result.images, result.dropped) == (2, 1, ())
    rows = read_export(tmp_path / "out", format)
    assert [(r.prompt, r.chosen, r.rejected) for r in rows] == [
        (p.prompt, p.chosen, p.rejected) for p in (PAIR, second)
    ]
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(rows[0].image))), np.asarray(load_image("a.png")))
    assert boxes_in(rows[0].chosen, rows[0].image, FERRET) != boxes_in(
        rows[0].rejected, rows[0].image, FERRET
    )
    assert "2 preference pairs" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize("format", FORMATS)
def test_pixels_of_the_resized_image_get_that_image(tmp_path: Path, format: Any) -> None:
    """Qwen2.5-VL sees 200 x 100 as 196 x 112; written in that size, its own resize changes nothing and the
    numbers stay true.
    """
    answers = [f'[{{"bbox_2d": [{x}, 0, 98, 56], "label": "cat"}}]' for x in (0, 28)]
    pair = replace(PAIR, prompt="Where is the cat?", chosen=answers[0], rejected=answers[1])
    export_pairs([pair], format, tmp_path / "out", QWEN, load_image, TRAINING)
    (row,) = read_export(tmp_path / "out", format)
    assert Image.open(io.BytesIO(row.image)).size == (196, 112)
    assert QWEN.model_size(Frame(196, 112)) == (196, 112)
    # the same share of the picture as in the original
    assert boxes_in(row.chosen, row.image, QWEN) == [(0.0, 0.0, 0.5, 0.5)]


def test_the_form_of_llamafactory(tmp_path: Path) -> None:
    """What its converter asks for: sharegpt with ranking, a human turn last, one <image> per image."""
    export_pairs([PAIR], "llamafactory", tmp_path / "out", FERRET, load_image, TRAINING)
    info = json.loads((tmp_path / "out" / "dataset_info.json").read_text())["spr_pairs"]
    row = json.loads((tmp_path / "out" / info["file_name"]).read_text())[0]
    assert info["ranking"] is True
    assert row["conversations"] == [{"from": "human", "value": "<image>" + PAIR.prompt}]
    assert row["chosen"] == {"from": "gpt", "value": PAIR.chosen}
    assert (tmp_path / "out" / row["images"][0]).is_file()


def test_placeholders_in_texts_are_left_out_and_counted(tmp_path: Path) -> None:
    """ms-swift would put the chosen boxes into both answers; TRL does not know the word, so there it
    stays.
    """
    bad = replace(PAIR, pair_id="bad", rejected="a cat <bbox>.")
    result = export_pairs([PAIR, bad], "ms-swift", tmp_path / "swift", FERRET, load_image, TRAINING)
    assert [(d.item_id, d.reason) for d in result.dropped] == [("bad", "placeholder_in_text")]
    assert "placeholder_in_text: 1" in (tmp_path / "swift" / "README.md").read_text()
    assert export_pairs([PAIR, bad], "trl", tmp_path / "trl", FERRET, load_image, TRAINING).pairs == 2


def test_an_image_that_cannot_be_read_is_left_out(tmp_path: Path) -> None:
    result = export_pairs(
        [PAIR, replace(PAIR, image="broken")], "trl", tmp_path / "out", FERRET, load_image, TRAINING
    )
    assert [d.reason for d in result.dropped] == ["unreadable_image"]


def test_mistakes_of_the_user_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--format: unknown format 'trll' \(did you mean 'trl'\?\)"):
        export_pairs([PAIR], "trll", tmp_path / "out", FERRET, load_image, TRAINING)
    with pytest.raises(DataError, match="no pair is left to export \\(unreadable_image: 1\\)"):
        export_pairs([replace(PAIR, image="broken")], "trl", tmp_path / "out", FERRET, load_image, TRAINING)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("")
    with pytest.raises(DataError, match="expected a new or an empty folder"):
        export_pairs([PAIR], "trl", tmp_path / "full", FERRET, load_image, TRAINING)


def test_the_validator_finds_broken_exports(tmp_path: Path) -> None:
    """Each rule, broken once by hand."""
    out = tmp_path / "out"
    export_pairs([PAIR], "llamafactory", out, FERRET, load_image, TRAINING)
    good = json.loads((out / "pairs.json").read_text())[0]

    def broken(**changes: Any) -> None:
        (out / "pairs.json").write_text(json.dumps([{**good, **changes}]))
        check_export(out, "llamafactory", FERRET)

    with pytest.raises(DataError, match="<image> for 1 images"):
        broken(conversations=[{"from": "human", "value": PAIR.prompt}])
    with pytest.raises(DataError, match="ends with the human turn"):
        broken(conversations=[*good["conversations"], {"from": "gpt", "value": "x"}])
    with pytest.raises(DataError, match="is not there"):
        broken(images=["images/none.png"])
    with pytest.raises(DataError, match="the same text"):
        broken(rejected=good["chosen"])
    with pytest.raises(DataError, match="in none of 1 pairs do the boxes"):
        broken(rejected={"from": "gpt", "value": "the cat [10, 20, 30, 40]."})


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("checkpoints")


@pytest.mark.parametrize("family", FAMILIES)
def test_every_export_is_the_one_that_the_real_trainers_started(
    family: str, tmp_path: Path, checkpoints: Path
) -> None:
    """Settings and command letter by letter, questions and answers as the trainers had them in their batches
    after loading; a family that they do not have is refused. After a change: `make check-exports`.
    """
    checkpoint = build(family, checkpoints)
    dialect = dialect_in(family, checkpoint)
    pairs = pairs_of(dialect)
    for kind in FORMATS:
        out, found = tmp_path / kind, GOLDEN[kind].get(family)
        training = training_in(checkpoint, TEMPLATES.get((kind, family), ""))
        if found is None:
            with pytest.raises(ConfigError, match=r"--template: found none|has no chat template"):
                export_pairs(pairs, kind, out, dialect, load_pattern, training)
            continue
        export_pairs(pairs, kind, out, dialect, load_pattern, training)
        (file,) = (f for f in out.glob("train.*") if f.suffix != ".parquet")
        assert file.read_text().replace(str(checkpoint), "CHECKPOINT") == found["settings"]
        assert found["command"] in (out / "README.md").read_text()
        for row, loaded in zip(read_export(out, kind), found["rows"], strict=True):
            assert row.prompt.strip() in loaded["prompt"]
            assert row.chosen.strip() in loaded["chosen"]
            assert row.rejected.strip() in loaded["rejected"]


def test_the_table_of_the_docs_is_what_was_found() -> None:
    docs = Path(__file__).parents[3] / "docs" / "training.md"
    assert table(GOLDEN) in docs.read_text(encoding="utf-8")


def test_the_trainers_had_the_rows_that_spr_trains_on() -> None:
    """The rows that differ are known (docs/training.md): how the turn ends with GLM and LLaVA, the blank with
    which answers of LLaVA and Idefics3 begin, and LLaMA-Factory's empty thought before GLM's.
    """
    differ = {
        (kind, family)
        for kind, families in GOLDEN.items()
        for family, found in families.items()
        if not all(row["as_ours"] for row in found["rows"])
    }
    assert differ == {
        ("trl", "glm4v"),
        ("trl", "llava"),
        ("llamafactory", "glm4v"),
        ("llamafactory", "llava"),
        ("ms-swift", "glm4v"),
        ("ms-swift", "llava"),
        ("ms-swift", "idefics3"),
    }


@pytest.mark.filterwarnings(
    "ignore:.*gradient_checkpointing:FutureWarning",
    "ignore:.*`loss_type`:FutureWarning",
    "ignore:.*pin_memory:UserWarning",
)
def test_the_script_for_trl_runs(tmp_path: Path, checkpoints: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the README says, in the export's folder: the loss of a fresh adapter is ln 2."""
    checkpoint = build("llava", checkpoints)
    dialect = dialect_in("llava", checkpoint)
    export_pairs(pairs_of(dialect), "trl", tmp_path / "out", dialect, load_pattern, training_in(checkpoint))
    monkeypatch.chdir(tmp_path / "out")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    trainer = runpy.run_path("train.py")["trainer"]
    assert trainer.state.log_history[0]["loss"] == pytest.approx(np.log(2), abs=1e-5)
    assert (tmp_path / "out" / "adapter" / "adapter_model.safetensors").is_file()


def test_the_tried_version_of_trl_is_the_one_of_the_tests() -> None:
    assert version("trl") == TRIED["trl"][2]


# A value of each setting that is not its default.
OTHER: dict[str, Any] = {
    "seed": 5,
    "loss": "ipo",
    "beta": 0.3,
    "label_smoothing": 0.1,
    "sft_weight": 0.5,
    "margin_scale": 1.0,
    "coordinate_weight": 2.0,
    "rejected_coordinates": "none",
    "lora_r": 3,
    "lora_alpha": 5,
    "lora_dropout": 0.05,
    "lora_variant": "dora",
    "lora_parts": ("language", "tower"),
    "target_modules": ("q_proj",),
    "learning_rate": 1e-4,
    "weight_decay": 0.1,
    "warmup": 0.9,
    "max_grad_norm": 0.5,
    "epochs": 3,
    "batch": 8,
    "held_out": 0.1,
    "rounds": 2,
    "max_length": 999,
    "dtype": "float64",
    "quantize": "4bit",
    "save_steps": 7,
    "log_steps": 9,
    "trainer": {"adam_beta2": 0.95},
}


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("name", [f.name for f in fields(TrainConfig)])
def test_every_setting_of_a_training_is_told_or_said_to_be_missing(kind: Format, name: str) -> None:
    """None is lost: the trainer is told another thing than by default, or the README says that it is not."""
    if name in OWN_WAY:
        assert name not in EVERYWHERE
        return
    changes = {name: OTHER[name]}
    if name == "label_smoothing":
        changes["loss"] = "robust"
    config = replace(TrainConfig(), **changes)
    pattern = "another" if name in ("lora_parts", "target_modules") else TRAINING.targets
    changed = replace(TRAINING, config=config, seed=config.seed or 0, targets=pattern)
    if kind == "llamafactory" and config.loss == "robust":
        with pytest.raises(
            ConfigError, match=r"train\.loss: found robust, which LLaMA-Factory does not have"
        ):
            export_pairs([PAIR], kind, "unused", FERRET, load_image, changed)
        return
    plain, other = (start(kind, training, 100, 20_000) for training in (TRAINING, changed))
    told, missing = plain.text != other.text, any(m.startswith(f"train.{name}: ") for m in other.missing)
    assert told or missing
    assert not (name in EVERYWHERE and missing)


def test_the_readme_says_what_is_trained_and_what_is_lost(tmp_path: Path) -> None:
    training = replace(
        TRAINING,
        config=TrainConfig(lora_r=8, learning_rate=2e-5, epochs=2, coordinate_weight=2.0),
        checkpoint=Checkpoint("org/model", "v1", processor={"max_pixels": 1000}),
    )
    result = export_pairs([PAIR], "llamafactory", tmp_path / "out", FERRET, load_image, training)
    assert result.missing == ("train.coordinate_weight: 2.0", "model.processor: {'max_pixels': 1000}")
    text = (tmp_path / "out" / "README.md").read_text()
    for said in (
        "- model: org/model\n- revision: v1\n- template: qwen2_vl\n",
        "lora, rank 8, alpha 32, on all linear layers of the language model",
        "learning rate: 2e-05\n- epochs: 2",
        "pip install llamafactory==0.9.5\nllamafactory-cli train train.yaml",
        "## Not carried over\n- train.coordinate_weight: 2.0\n",
    ):
        assert said in text
    settings = yaml.safe_load((tmp_path / "out" / "train.yaml").read_text())
    assert (settings["model_revision"], settings["num_train_epochs"]) == ("v1", 2)


def test_a_template_that_only_the_user_can_say() -> None:
    llava, unknown = replace(TRAINING, model_type="llava"), replace(TRAINING, model_type="kosmos-2")
    with pytest.raises(ConfigError, match="which one of ms-swift's it is, expected one of llava1_5_hf"):
        export_pairs([PAIR], "ms-swift", "unused", FERRET, load_image, llava)
    with pytest.raises(ConfigError, match=r"'kosmos-2' does not say what LLaMA-Factory 0\.9\.5 calls it"):
        export_pairs([PAIR], "llamafactory", "unused", FERRET, load_image, unknown)
    said = start("ms-swift", replace(unknown, template="mine"), 1, 1)
    assert yaml.safe_load(said.text)["template"] == "mine"
    thinks = start("llamafactory", replace(TRAINING, model_type="qwen3_vl", thinks=True), 1, 1)
    assert yaml.safe_load(thinks.text)["template"] == "qwen3_vl"
