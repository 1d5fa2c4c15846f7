"""Packed = plain, with images, in float64: the one property that training on shared rows rests on.

Every family is a tiny random checkpoint of its official class. The plain log-probability of an answer is
computed the ordinary way: the model's own forward on prompt + answer with pixel values, without mask,
positions or features of ours; log-softmax; gather.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from spr.models.loading import load_mllm
from spr.training.config import TrainConfig
from spr.training.encode import Encoded, Encoder
from spr.training.families import FLEX, TABLE, family_of
from spr.training.features import FeatureStore
from spr.training.masks import masks_of
from spr.training.plan import units_of
from spr.training.policy import Images, Policy
from spr.training.prepare import Preparer
from spr.training.trainer import train
from spr.types import Checkpoint, Dropped, Score, TrainingPair
from tests.unit.models.conftest import load_noise

PACKED = (
    "llava",
    "llava_onevision",
    "qwen2_vl",
    "qwen2_5_vl",
    "qwen3_vl",
    "glm4v",
    "internvl",
    "idefics3",
    "smolvlm",
    "gemma3",
    "paligemma",
)
PLAIN = ("kosmos2", "florence2")
SCORE = Score(0.5, 0.3, 0.3, 0.3, 0.7)
QUESTIONS = (
    "Describe the objects in the region [100, 200, 700, 800] in detail.",
    "What is in the region [0, 0, 500, 500]?",
)
ANSWERS = (
    (
        "a cat [120, 250, 300, 420] and a dog [400, 410, 600, 700] and a tree.",
        "a cat [121, 250, 300, 420] and a car.",
    ),
    (
        "a dog [1, 2, 3, 4].",
        "a tree [9, 9, 9, 9] next to a small car, a small cat and a large dog, and a bus on top of the tree.",
    ),
)


def load_image(path: str) -> Image.Image:
    noise = np.random.default_rng(sum(map(ord, path))).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((80, 60) if path == "a" else (50, 90))


def pair(image: str, k: int) -> TrainingPair:
    return TrainingPair(
        f"{image}{k}", image, 80, 60, (0, 0, 1, 1), QUESTIONS[k], *ANSWERS[k], 0.2, 0, 1, SCORE, SCORE
    )


@dataclass
class Bench:
    """A family with its encoder and policy, and six answers about two images: two prompts on one, one on the
    other.
    """

    model: Any
    encoder: Encoder
    policy: Policy
    pairs: list[Encoded]


@pytest.fixture(scope="module")
def benches(checkpoint: Callable[[str], str]) -> Any:
    made: dict[str, Bench] = {}

    def get(name: str) -> Bench:
        if name not in made:
            dtype = "float32" if name == "kosmos2" else "float64"  # Kosmos-2's own mask overflows in float64
            model, processor = load_mllm(Checkpoint(checkpoint(name), dtype=dtype))
            with torch.no_grad():
                for p in model.parameters():
                    # far from the uniform distribution of a fresh model, so that a wrong mask shows
                    p.mul_(3.0 if p.ndim > 1 else 1.0)
            encoder = Encoder(model, processor, load_image)
            policy = Policy(model, family_of(model), encoder, Images(model, encoder, FeatureStore(64)))
            made[name] = Bench(
                model,
                encoder,
                policy,
                [encoder.encode(p) for p in (pair("a", 0), pair("a", 1), pair("b", 1))],
            )
        return made[name]

    return get


@pytest.mark.parametrize("name", PACKED)
def test_pictures_reach_the_tower_in_its_type(
    benches: Callable[[str], Bench], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are made on the CPU, in float32. A tower on another device, or in bfloat16, would have stopped at
    the first one.
    """
    bench, seen = benches(name), list[torch.Tensor]()
    encode = bench.model.get_image_features

    def watched(**tensors: Any) -> Any:
        seen.extend(value for value in tensors.values() if isinstance(value, torch.Tensor))
        return encode(**tensors)

    monkeypatch.setattr(bench.model, "get_image_features", watched)
    bench.policy.images.encoded("a", QUESTIONS[0])
    floats = [tensor for tensor in seen if tensor.is_floating_point()]
    assert floats
    assert all(tensor.dtype == bench.model.dtype == torch.float64 for tensor in floats)


@torch.no_grad()
def plain(bench: Bench, encoded: Encoded, answer: Sequence[int]) -> torch.Tensor:
    """Log-probability of every answer token, the ordinary way."""
    inputs = dict(bench.encoder.plain_inputs(encoded.question, encoded.image_path))
    if bench.model.config.is_encoder_decoder:
        bench.policy.close()
        decoder = torch.tensor([[bench.model.config.text_config.decoder_start_token_id, *answer]])
        logits = bench.model(**inputs, decoder_input_ids=decoder[:, :-1], use_cache=False).logits
        bench.policy.open()
        return logits[0].log_softmax(-1).gather(1, decoder[0, 1:, None])[:, 0]
    prompt = inputs.pop("input_ids")
    del inputs["attention_mask"]
    ids = torch.cat([prompt, torch.tensor([answer])], dim=1)
    # PaliGemma types its prefix 0 and its suffix 1
    after = 1 if bench.model.config.model_type == "paligemma" else 0
    for name, value in inputs.items():
        if value.shape == prompt.shape and not value.is_floating_point():
            inputs[name] = torch.nn.functional.pad(value, (0, len(answer)), value=after)
    bench.policy.close()
    logits = bench.model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False, **inputs).logits
    bench.policy.open()
    n = prompt.shape[1]
    return logits[0, n - 1 : -1].log_softmax(-1).gather(1, ids[0, n:, None])[:, 0]


def compare(bench: Bench, share: str, budget: int = 10_000) -> int:
    """Check all answers; returns how many nodes the rows have."""
    family = family_of(bench.model)
    units = units_of(bench.pairs, family, share, budget)  # type: ignore[arg-type]
    with torch.no_grad():
        found = bench.policy.log_probs(bench.model, units)
    answers = [a for unit in units for a in unit.answers]
    assert sorted(answers) == [(i, side) for i in range(3) for side in (False, True)]
    for (i, chosen), values in zip(answers, found, strict=True):
        answer = bench.pairs[i].chosen if chosen else bench.pairs[i].rejected
        torch.testing.assert_close(
            values,
            plain(bench, bench.pairs[i], answer.ids.tolist()),
            rtol=0,
            atol=1e-9 if values.dtype == torch.float64 else 1e-4,
        )
    return sum(len(row) for unit in units for row in unit.rows)


@pytest.mark.parametrize("name", PACKED)
def test_packed_is_plain(benches: Any, name: str) -> None:
    """Trees, pairs and single answers; padded together, because the rows differ in length."""
    bench = benches(name)
    assert family_of(bench.model).layout is not None
    nodes = {share: compare(bench, share) for share in ("tree", "pair", "none")}
    assert nodes["pair"] < nodes["none"]
    # A tree over two prompts needs an image that does not see the prompt.
    assert (nodes["tree"] < nodes["pair"]) == (name != "paligemma")


# torch's own, where it begins to compile, and that it did not
@pytest.mark.filterwarnings(
    "ignore:`torch.jit.script_method`:DeprecationWarning", "ignore:flex_attention called without:UserWarning"
)
@pytest.mark.parametrize("name", PACKED)
def test_flex_attention_computes_the_same(benches: Any, name: str) -> None:
    """The forward pass: there is no backward pass on a CPU. Not compiled, which changes no result."""
    bench, text = benches(name), benches(name).model.config.get_text_config()
    family = family_of(bench.model)
    units = units_of(bench.pairs, family, "tree", 10_000)
    with torch.no_grad(), torch.compiler.set_stance("force_eager"):
        expected = torch.cat(bench.policy.log_probs(bench.model, units))
        text._attn_implementation_internal = FLEX
        try:
            assert family_of(bench.model) == family
            found = torch.cat(bench.policy.log_probs(bench.model, units))
        finally:
            text._attn_implementation_internal = "sdpa"
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", PLAIN)
def test_plain_rows_are_plain(benches: Any, name: str) -> None:
    bench = benches(name)
    assert family_of(bench.model).name == "fallback"
    compare(bench, "tree")


@pytest.mark.parametrize("name", [*PACKED, *PLAIN])
def test_thirty_steps_raise_the_margin(checkpoint: Callable[[str], str], tmp_path: Path, name: str) -> None:
    """4 pairs, 30 steps: from ln 2, also where the family has dropout, to a margin; nothing is trained but
    linears of the language model.
    """
    config = TrainConfig(
        lora_r=8, lora_alpha=16, learning_rate=5e-3, epochs=30, batch=4, device="cpu", save_steps=1000
    )
    result = train(
        [pair("a", 0), pair("a", 1), pair("b", 0), pair("b", 1)],
        checkpoint(name),
        str(tmp_path),
        config,
        load_image,
    )
    history = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert result.steps == len(history) == 30
    assert history[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert history[-1]["margin"] > history[0]["margin"] + 0.3
    trained = {key.split(".lora_")[0] for key in load_file(tmp_path / "adapter_model.safetensors")}
    assert trained
    assert not [
        key for key in trained if re.search(r"vision|visual|image|projector|connector|lm_head|embed", key)
    ]


def test_the_row_of_gemma3_is_longer_than_its_window(benches: Any) -> None:
    """Otherwise the test above would pass with any window."""
    bench = benches("gemma3")
    assert max(len(p.prompt) for p in bench.pairs) > family_of(bench.model).window


@pytest.mark.parametrize("name", PACKED)
def test_rejected_never_influences_chosen(benches: Any, name: str) -> None:
    """The gradient of the chosen answer's log-probability at the embeddings of rejected tokens is exactly
    zero, and the other way round.
    """
    bench = benches(name)
    family = family_of(bench.model)
    units = units_of(bench.pairs[:1], family, "pair", 10_000)
    (row,) = units[0].rows
    kept: list[torch.Tensor] = []

    def keep(module: Any, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        kept.append(output.detach().requires_grad_())
        return kept[-1]

    hook = bench.model.get_input_embeddings().register_forward_hook(keep)
    chosen, rejected = bench.policy.log_probs(bench.model, units)
    hook.remove()
    only = {
        True: set(row.paths[0].tolist()) - set(row.paths[1].tolist()),
        False: set(row.paths[1].tolist()) - set(row.paths[0].tolist()),
    }
    for loss, mine in ((chosen.sum(), True), (rejected.sum(), False)):
        (gradient,) = torch.autograd.grad(loss, kept[-1], retain_graph=True)
        assert (gradient[0, sorted(only[not mine])] == 0).all()
        assert gradient[0, sorted(only[mine])[:-1]].abs().sum() > 0


def test_qwen_positions_go_on_after_the_image(benches: Any) -> None:
    """Three axes; an answer's positions are equal on all and go on after the largest one of the prompt, which
    is smaller than the token count.
    """
    bench = benches("qwen2_5_vl")
    (unit,) = units_of(bench.pairs[:1], family_of(bench.model), "pair", 10_000)
    row = unit.rows[0]
    first = int(row.paths[0][0])
    assert row.positions.shape[0] == 3
    assert row.positions[:, first].tolist() == [row.positions[:, :first].max() + 1] * 3
    assert row.positions[0, first] < first


def test_a_family_that_is_not_in_the_table_gets_plain_rows() -> None:
    class Stranger:
        class config:  # noqa: N801
            model_type = "stranger"

            @staticmethod
            def get_text_config() -> object:
                return object()

    family = family_of(Stranger())
    assert family.name == "fallback"
    assert "stranger" in family.why


def test_attention_that_takes_no_mask_of_ours_gets_plain_rows(benches: Any) -> None:
    """FlashAttention knows causal rows only; a packed row would let a rejected answer see the chosen one."""
    model = benches("llava").model
    before = model.config.get_text_config()._attn_implementation
    try:
        model.config.get_text_config()._attn_implementation_internal = "flash_attention_2"
        family = family_of(model)
    finally:
        model.config.get_text_config()._attn_implementation_internal = before
    assert family.layout is None
    assert "flash_attention_2" in family.why


def test_every_packed_family_of_the_table_is_tested() -> None:
    assert {name for name, (layout, _) in TABLE.items() if layout is not None} == set(PACKED)


def test_padding_sees_itself_only(benches: Any) -> None:
    """A query that sees nothing would give NaN, and one that sees a row would cost nothing but hide
    mistakes.
    """
    bench = benches("llava")
    family = family_of(bench.model)
    rows = [row for unit in units_of(bench.pairs, family, "pair", 10_000) for row in unit.rows]
    length = max(map(len, rows))
    mask = masks_of(rows, length, family, "sdpa", torch.float64, "cpu")[:, 0] == 0
    for row, seen in zip(rows, mask, strict=True):
        assert torch.equal(seen[len(row) :].sum(-1), torch.ones(length - len(row), dtype=torch.long))


def test_a_picture_that_the_processor_cannot_show_is_a_dropped_pair(checkpoint: Callable[[str], str]) -> None:
    """Pairs come from elsewhere, too: 900x4 ended a training with Qwen2.5-VL before its first step."""
    model, processor = load_mllm(checkpoint("qwen2_5_vl"))
    encoder = Encoder(model, processor, load_noise)
    thin = TrainingPair("thin", "1@900x4", 900, 4, (0, 0, 9, 4), "?", "a", "b", 0.1, 0, 1, SCORE, SCORE)
    good = replace(thin, pair_id="good", image="1@90x60", width=90, height=60)
    prepare = Preparer(model, family_of(model), encoder, Any, TrainConfig(), None)  # type: ignore[arg-type]
    dropped, kept = map(prepare.encode, (thin, good))
    assert isinstance(kept, Encoded)
    assert isinstance(dropped, Dropped)
    assert (dropped.item_id, dropped.reason) == ("thin", "image_not_shown")


def test_variables_of_the_chat_template_reach_the_prompts_of_training(
    checkpoint: Callable[[str], str],
) -> None:
    """A model that is asked without thinking is trained without it."""
    model, processor = load_mllm(checkpoint("qwen2_5_vl"))
    template = processor.chat_template
    processor.chat_template = template + "{% if enable_thinking is false %}no thoughts{% endif %}"
    encoder = Encoder(model, processor, load_noise, chat_template_kwargs={"enable_thinking": False})
    assert encoder.prompt_text("?").endswith("no thoughts")
    assert not Encoder(model, processor, load_noise).prompt_text("?").endswith("no thoughts")
