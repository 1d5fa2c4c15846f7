"""The recipe's loop resumes exactly; the tokenizers keep every text; the shipped checkpoints are what the
code builds.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import nn

from spr.boxes import iou
from spr.dialects import get_dialect
from spr.errors import ConfigError
from spr.scenes.embedded import CHECKPOINTS, checkpoint_folder
from spr.scenes.language import PROMPTS, description, names
from spr.scenes.recipe.__main__ import STAGES, main
from spr.scenes.recipe.architectures import PIXELS, build_clip, build_mllm, build_owl, load_tower
from spr.scenes.recipe.loop import Schedule, Workshop, train_stage
from spr.scenes.recipe.mllm import Rows, loss_of
from spr.scenes.recipe.questions import loosened, turns
from spr.scenes.recipe.vocabulary import build_tokenizer
from spr.scenes.world import scene_of
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
    # a finished stage does nothing
    train_stage("s", resumed, _loss_of(resumed), schedule, tmp_path / "parts")
    assert torch.equal(whole.weight, resumed.weight)


def test_every_text_survives_the_tokenizer() -> None:
    """What the world says, and what it never says: byte-level BPE is lossless on any text. A box is four
    tokens.
    """
    tokenizer, dialect = build_tokenizer(), get_dialect("florence2")
    scene = scene_of("test", 0)
    frame = Frame(*scene.image.size)
    answer = dialect.compose(
        [p if isinstance(p, str) else (p[0], [p[1]]) for p in description(scene.things)], frame
    )
    question = PROMPTS["objects"].text.format(
        region=dialect.box_text(scene.things[0].box, frame), names=names(scene.things)
    )
    for text in (answer, question, "Wo ist der Hund? 狗在哪里 🐕\n\ta  b"):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text
    assert len(tokenizer("<loc_0><loc_10><loc_999><loc_500>", add_special_tokens=False)["input_ids"]) == 4


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_the_shipped_checkpoint_is_what_the_code_builds(name: str) -> None:
    """Same tensors of the same shapes, same tokenizer: the recipe can train them again from the code that is
    here.
    """
    model, processor = {"mllm": build_mllm, "clip": build_clip, "owl": build_owl}[name]()
    with safe_open(checkpoint_folder(name) / "model.safetensors", "pt") as file:
        keys = file.keys()  # not a mapping
        shipped = {key: tuple(file.get_slice(key).get_shape()) for key in keys}
    tied = {"lm_head.weight"}  # saved once, as the embeddings
    built = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    assert len(shipped) == len(built.keys() - tied)
    assert sorted(shipped.values()) == sorted(v for k, v in built.items() if k not in tied)
    vocabulary = json.loads((checkpoint_folder(name) / "tokenizer.json").read_text())["model"]["vocab"]
    ours = json.loads(processor.tokenizer.backend_tokenizer.to_str())["model"]["vocab"]
    assert ours == vocabulary


def test_a_tower_moves_whole_into_any_of_the_three() -> None:
    torch.manual_seed(0)
    tower = build_mllm()[0].model.vision_tower.state_dict()
    for target in (build_clip()[0].vision_model, build_owl()[0].owlvit.vision_model):
        load_tower(tower, target)
        assert sorted(float(v.double().sum()) for v in target.state_dict().values()) == sorted(
            float(v.double().sum()) for v in tower.values()
        )


def test_questions_are_answered_in_the_notation() -> None:
    """Every answer with places parses without a problem; a referring expression means exactly the box of its
    answer.
    """
    dialect, scene = get_dialect("florence2"), scene_of("train", 0)
    frame = Frame(*scene.image.size)
    asked = turns(scene.things, frame, random.Random(0))
    assert len(asked) >= 12
    for question, answer in asked:
        read = dialect.parse(answer, frame)
        assert {p.kind for p in read.problems} <= {"phrase_guessed"}
        if question.startswith("Where is"):
            assert [len(m.boxes) for m in read.mentions] == [1]
        if question.startswith(("Describe", "Locate")):
            assert all(m.phrase for m in read.mentions)
    loose = loosened(scene.things, frame, random.Random(0))
    assert [t.noun for t in loose] == [t.noun for t in scene.things]
    assert 0.6 < np.mean([iou(a.box, b.box) for a, b in zip(loose, scene.things, strict=True)]) < 1


def test_branches_of_a_row_are_separate_conversations() -> None:
    """A row of questions gives the same loss as one row per question: no question sees another."""
    torch.manual_seed(0)
    model, processor = build_mllm()
    model.eval()
    rows, scene = Rows(processor.tokenizer), scene_of("train", 0)
    asked = turns(scene.things, Frame(*scene.image.size), random.Random(0))[:3]
    x = torch.randn(1, 3, PIXELS, PIXELS)
    with torch.no_grad():
        whole = loss_of(model, Rows.batch([rows.row(1, asked)]), x, rows.first, blur=False)
        parts = [
            loss_of(model, Rows.batch([rows.row(1, [turn])]), x, rows.first, blur=False) for turn in asked
        ]
    weights = [
        len(processor.tokenizer(answer, add_special_tokens=False)["input_ids"]) + 1 for _, answer in asked
    ]
    # bfloat16
    assert float(whole) == pytest.approx(np.average([float(p) for p in parts], weights=weights), abs=2e-2)


@pytest.mark.slow
def test_the_recipe_runs_small_and_again_does_nothing(tmp_path: Path) -> None:
    """From nothing to three checkpoints that load, at a 300th of the size; every stage says where it
    stands.
    """
    main(["--out", str(tmp_path), "--scale", "0.003", "--limit", "16"])
    figures = json.loads((tmp_path / "measures.json").read_text())
    assert set(figures) == {"mllm", "mllm_tight", "clip", "owl"}
    assert figures["mllm"]["shipped"]["greedy"]["0.5"] > figures["mllm"]["new"]["greedy"]["0.5"]
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "checkpoints").rglob("*")} | {
        p: p.stat().st_mtime_ns for p in tmp_path.glob("*.pt")
    }
    for stage in STAGES.values():
        stage.train(Workshop(tmp_path, 0.003), stage.steps)
    assert {p: p.stat().st_mtime_ns for p in before} == before
    with pytest.raises(ConfigError, match="another recipe"):
        main(["--out", str(tmp_path), "--scale", "0.02"])
