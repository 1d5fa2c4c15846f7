"""Exports hold what their trainers need: literal coordinates in the right frame, both answers, one image
each; TRL itself loads one and trains.
"""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from spr.commands.export import boxes_in, check_export, export_pairs, read_export
from spr.dialects import get_dialect
from spr.errors import ConfigError, DataError
from spr.types import Frame, Score, TrainingPair

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
FORMATS = ("trl", "llamafactory", "ms-swift")


def load_image(path: str) -> Image.Image:
    if path == "broken":
        raise OSError("broken")
    return Image.fromarray(np.random.default_rng(len(path)).integers(0, 255, (100, 200, 3), dtype=np.uint8))


@pytest.mark.parametrize("format", FORMATS)
def test_what_is_written_is_read_back(tmp_path: Path, format: Any) -> None:
    """Two regions of one image: the image is stored once, and its pixels are the stored ones."""
    second = replace(PAIR, pair_id="a#1", chosen="two cats [1, 2, 3, 4].")
    result = export_pairs([PAIR, second], format, tmp_path / "out", FERRET, load_image)
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
    export_pairs([pair], format, tmp_path / "out", QWEN, load_image)
    (row,) = read_export(tmp_path / "out", format)
    assert Image.open(io.BytesIO(row.image)).size == (196, 112)
    assert QWEN.model_size(Frame(196, 112)) == (196, 112)
    # the same share of the picture as in the original
    assert boxes_in(row.chosen, row.image, QWEN) == [(0.0, 0.0, 0.5, 0.5)]


@pytest.mark.filterwarnings(
    "ignore:.*gradient_checkpointing:FutureWarning", "ignore:.*`loss_type`:FutureWarning"
)
def test_trl_loads_it_and_trains_a_step(tmp_path: Path) -> None:
    """The parquet file as it is, through datasets' own loader and DPOTrainer's collator; the loss of a fresh
    adapter is ln 2.
    """
    from datasets import load_dataset
    from trl import DPOConfig, DPOTrainer

    from spr.models.loading import load_mllm
    from spr.training.adapter import attach
    from spr.training.config import TrainConfig
    from tests.contract.checkpoints import build

    export_pairs(
        [PAIR, replace(PAIR, pair_id="a#1", image="bb.png")], "trl", tmp_path / "out", FERRET, load_image
    )
    data = load_dataset(
        "parquet",
        data_files=str(tmp_path / "out" / "train.parquet"),
        split="train",
        cache_dir=str(tmp_path / "cache"),
    )
    assert isinstance(data[0]["images"][0], Image.Image)
    model, processor = load_mllm(str(build("llava", tmp_path)))
    settings = {
        "max_length": None,
        "bf16": False,
        "gradient_checkpointing": False,
        "use_cpu": True,
        "report_to": "none",
        "disable_tqdm": True,
    }
    args = DPOConfig(
        str(tmp_path / "adapter"),
        **settings,
        max_steps=1,
        per_device_train_batch_size=2,
        logging_steps=1,
        save_strategy="no",
    )
    trainer = DPOTrainer(
        attach(model, TrainConfig()), args=args, train_dataset=data, processing_class=processor
    )
    trainer.train()
    assert trainer.state.log_history[0]["loss"] == pytest.approx(np.log(2), abs=1e-5)


def test_the_form_of_llamafactory(tmp_path: Path) -> None:
    """What its converter asks for: sharegpt with ranking, a human turn last, one <image> per image."""
    export_pairs([PAIR], "llamafactory", tmp_path / "out", FERRET, load_image)
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
    result = export_pairs([PAIR, bad], "ms-swift", tmp_path / "swift", FERRET, load_image)
    assert [(d.item_id, d.reason) for d in result.dropped] == [("bad", "placeholder_in_text")]
    assert "placeholder_in_text: 1" in (tmp_path / "swift" / "README.md").read_text()
    assert export_pairs([PAIR, bad], "trl", tmp_path / "trl", FERRET, load_image).pairs == 2


def test_an_image_that_cannot_be_read_is_left_out(tmp_path: Path) -> None:
    result = export_pairs([PAIR, replace(PAIR, image="broken")], "trl", tmp_path / "out", FERRET, load_image)
    assert [d.reason for d in result.dropped] == ["unreadable_image"]


def test_mistakes_of_the_user_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--format: unknown format 'trll' \(did you mean 'trl'\?\)"):
        export_pairs([PAIR], "trll", tmp_path / "out", FERRET, load_image)
    with pytest.raises(DataError, match="no pair is left to export \\(unreadable_image: 1\\)"):
        export_pairs([replace(PAIR, image="broken")], "trl", tmp_path / "out", FERRET, load_image)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("")
    with pytest.raises(DataError, match="expected a new or an empty folder"):
        export_pairs([PAIR], "trl", tmp_path / "full", FERRET, load_image)


def test_the_validator_finds_broken_exports(tmp_path: Path) -> None:
    """Each rule, broken once by hand."""
    out = tmp_path / "out"
    export_pairs([PAIR], "llamafactory", out, FERRET, load_image)
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
