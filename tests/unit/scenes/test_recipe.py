"""The recipe's loop resumes exactly; the tokenizer keeps every text of the world; the masks of packed turns do what they say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from spr.dialects import get_dialect
from spr.scenes.architectures import build_mllm
from spr.scenes.loop import Schedule, train_stage
from spr.scenes.objectives import InstructTrainer, Turn, loosen, turns_of
from spr.scenes.vocabulary import build_tokenizer
from spr.scenes.world import SIZE, draw_scene
from spr.types import Frame


def _loss_of(model: nn.Module):
    def loss_at(step: int) -> tuple[torch.Tensor, dict[str, float]]:
        x = torch.randn(8, 4, generator=torch.Generator().manual_seed(step))
        loss = (model(x) - x.sum(1, keepdim=True)).square().mean()
        return loss, {"loss2": loss.item()}

    return loss_at


def test_a_stopped_stage_goes_on_bit_for_bit(tmp_path: Path) -> None:
    schedule = Schedule(20, 1e-2, warmup=3)

    def model() -> nn.Module:
        torch.manual_seed(0)
        return nn.Linear(4, 1)

    whole, parts = model(), model()
    train_stage("s", whole, _loss_of(whole), schedule, tmp_path / "whole")
    train_stage("s", parts, _loss_of(parts), schedule, tmp_path / "parts", stop_after=7)
    resumed = model()  # as after a kill: a fresh model that finds the state on disk
    train_stage("s", resumed, _loss_of(resumed), schedule, tmp_path / "parts")
    assert torch.equal(whole.weight, resumed.weight)
    train_stage("s", resumed, _loss_of(resumed), schedule, tmp_path / "parts")  # a finished stage does nothing
    assert torch.equal(whole.weight, resumed.weight)


@pytest.mark.parametrize("index", range(5))
def test_every_text_of_the_world_survives_the_tokenizer(index: int) -> None:
    tokenizer = build_tokenizer()
    for turn in turns_of(draw_scene(7, "train", index).objects, np.random.default_rng(index), loose=True, counts=(3, 5, 3)):
        text = f"{turn.question} ASSISTANT: {turn.answer}"
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids) == text


def test_answers_are_written_as_ferret_writes_them() -> None:
    """The recipe's own writer and the dialect read the same boxes, up to the official truncation of one unit."""
    ferret, frame = get_dialect("ferret"), Frame(SIZE, SIZE)
    objects = draw_scene(7, "train", 0).objects
    for turn in turns_of(objects, np.random.default_rng(0), loose=False):
        boxes = [b for m in ferret.parse(turn.answer, frame).mentions for b in m.boxes]
        for box in boxes:
            assert any(np.abs(np.array(box) - o.box).max() <= 1.0 * SIZE / 999 + 1 for o in objects)


def test_loosened_boxes_grow_on_average_and_stay_in_the_image() -> None:
    rng = np.random.default_rng(0)
    boxes = np.array([loosen((80.0, 80.0, 140.0, 120.0), rng) for _ in range(500)])
    assert boxes.min() >= 0
    assert boxes.max() <= SIZE
    growth = (boxes[:, 2] - boxes[:, 0]).mean() / 60.0
    assert growth == pytest.approx(1.14, abs=0.02)  # 7 % on each side


def test_turns_in_one_row_do_not_see_each_other() -> None:
    """Packed turns must give the loss of separate rows: changing the second answer cannot change what the first one gets."""
    torch.manual_seed(0)
    model, processor = build_mllm()
    trainer = InstructTrainer(model.eval(), processor.tokenizer, blur=0.0)
    pixels = torch.randn(1, 3, 112, 112)
    first = Turn("Where is the cat?", "the cat [1, 2, 3, 4].")

    def of_first(second: Turn) -> torch.Tensor:
        with torch.no_grad():
            log_probs, _ = trainer.answer_log_probs(pixels, trainer.rows([[first, second]]))
        return log_probs[: len(processor.tokenizer(f" {first.answer}</s>", add_special_tokens=False)["input_ids"])]

    a, b = of_first(Turn("Where is the dog?", "the dog [5, 6, 7, 8].")), of_first(Turn("Where is the pig?", "the pig [900, 901, 990, 991]."))
    assert torch.equal(a, b)  # same shapes, so not even rounding may differ
