"""Prompt and answer are the tokens that the model reads and writes, family by family."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spr.dialects import get_dialect
from spr.errors import ModelError
from spr.models.hf_mllm import HFDescriber
from spr.models.loading import load_mllm
from spr.training.encode import Encoder
from spr.types import Query
from tests.contract.checkpoints import build
from tests.unit.training.data import load_image, made_pairs

PAIR = made_pairs(1)[0]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Any:
    root: Path = tmp_path_factory.mktemp("encode")
    return lambda name: str(build(name, root))


def encoder_of(folder: str, **settings: Any) -> tuple[Encoder, Any]:
    model, processor = load_mllm(folder)
    return Encoder(model, processor, load_image, **settings), processor.tokenizer


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        # "… ASSISTANT:" is the prompt, so the blank belongs to the answer; LLaVA's own blank after it does
        # not
        ("llava", " ", "</s>"),
        ("qwen2_5_vl", "", "<|im_end|>"),  # the line end after it is never generated
        ("gemma3", "", "<end_of_turn>"),
        ("paligemma", "", "<eos>"),  # no chat template at all: the bare answer
    ],
)
def test_the_answer_is_what_the_model_writes(checkpoint: Any, name: str, before: str, after: str) -> None:
    encoder, tokenizer = encoder_of(checkpoint(name))
    ids = encoder.answer(PAIR, PAIR.chosen).ids
    assert tokenizer.decode(ids) == before + PAIR.chosen + (
        after if after != "<eos>" else tokenizer.eos_token
    )


def test_the_prompt_is_the_one_that_stage_describe_asks(checkpoint: Any) -> None:
    """The same tokens that the describer feeds its model."""
    folder = checkpoint("llava")
    asked = HFDescriber(folder, load_image=load_image).row(Query("x", PAIR.image, 60, 60, PAIR.prompt))
    encoder, _ = encoder_of(folder)
    assert tuple(encoder.encode(PAIR).prompt.tolist()) == tuple(asked.ids)


def test_coordinate_tokens_are_weighted_and_no_others(checkpoint: Any) -> None:
    """Tokens that overlap a number of a box; brackets, commas and words keep weight 1."""
    encoder, tokenizer = encoder_of(checkpoint("llava"), dialect=get_dialect("ferret"), coordinate_weight=3.0)
    answer = encoder.answer(PAIR, "a cat [120, 7, 300, 42] 99 yes")
    weighted = "".join(
        tokenizer.decode([i]) for i, w in zip(answer.ids, answer.weights, strict=True) if w == 3.0
    )
    assert "".join(c for c in weighted if c.isdigit()) == "120730042"  # 99 is no coordinate
    assert set(answer.weights) == {1.0, 3.0}
    assert len(answer.ids) == len(answer.weights)


@pytest.mark.parametrize(
    ("mode", "counted"),
    [
        ("all", "0099999910203040"),  # the paper: every coordinate of the rejected answer
        ("wrong", "10203040"),  # the first box has IoU 1 with a reference box: it is not pushed away
        ("none", ""),
    ],
)
def test_coordinates_that_do_not_count_on_the_rejected_side(checkpoint: Any, mode: str, counted: str) -> None:
    """Words always count, and so does everything on the chosen side."""
    encoder, tokenizer = encoder_of(
        checkpoint("llava"), dialect=get_dialect("ferret"), rejected_coordinates=mode
    )
    pair = replace(PAIR, reference=((0.0, 0.0, 60.0, 60.0),))
    text = "a cat [0, 0, 999, 999] and a dog [10, 20, 30, 40] no"
    rejected, chosen = encoder.answer(pair, text, rejected=True), encoder.answer(pair, text)
    kept = "".join(tokenizer.decode([i]) for i, w in zip(rejected.ids, rejected.weights, strict=True) if w)
    assert "".join(c for c in kept if c.isdigit()) == counted
    assert "cat" in kept
    assert set(chosen.weights) == {1.0}


def test_weights_need_a_dialect(checkpoint: Any) -> None:
    encoder, _ = encoder_of(checkpoint("llava"), coordinate_weight=3.0)
    with pytest.raises(ModelError, match="expected the notation"):
        encoder.answer(PAIR, "a cat")


def test_a_template_that_moves_the_answer_is_refused(checkpoint: Any) -> None:
    """One that writes a thought before every answer, but asks without it."""
    encoder, _ = encoder_of(checkpoint("llava"))
    processor = encoder._processor
    processor.chat_template = (
        "{% if add_generation_prompt %}Q:{% else %}{{ messages | length }} turns{% endif %}"
    )
    with pytest.raises(ModelError, match="answers would be trained in another place than they are generated"):
        encoder.completion_text("?", "a cat")


def test_image_tokens_are_marked(checkpoint: Any) -> None:
    """16 features of 4 x 4 patches; the mark decides what Gemma's bidirectional block covers."""
    for name in ("llava", "gemma3"):
        encoder, _ = encoder_of(checkpoint(name))
        encoded = encoder.encode(PAIR)
        features = encoder.ask(PAIR.prompt, PAIR.image).picture
        assert features is not None
        where = np.flatnonzero(encoded.image)
        assert len(where) > 1
        assert where.tolist() == list(range(where[0], where[-1] + 1))
