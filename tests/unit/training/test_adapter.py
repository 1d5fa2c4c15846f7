"""Where the LoRA goes, what kinds of it there are, and frozen weights in four bits."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from spr.errors import ConfigError, MissingExtraError
from spr.models import quantized
from spr.models.loading import load_mllm, read_config
from spr.models.parts import linear_layers
from spr.training.adapter import target_pattern
from spr.training.config import LoraPart, LoraVariant, TrainConfig
from spr.training.loop import check_arguments
from spr.training.memory import memory_of
from spr.training.trainer import train
from spr.types import Checkpoint
from tests.contract.checkpoints import build
from tests.unit.training.data import FAST, load_image, made_pairs

# PEFT asks transformers by its old name; bitsandbytes says that there are faster kernels
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
FAMILIES = ("llava", "qwen3_vl", "idefics3", "gemma3", "paligemma", "kosmos2", "florence2")
PAIRS = made_pairs(8)
LAYER = re.compile(r"base_model\.model\.(.+)\.lora_A\.weight")


def adapted(folder: str) -> set[str]:
    """The layers that a written adapter changes."""
    return {m[1] for name in load_file(Path(folder, "adapter_model.safetensors")) if (m := LAYER.match(name))}


@pytest.fixture(scope="module", params=FAMILIES)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return load_mllm(str(build(request.param, tmp_path_factory.mktemp(request.param))), "cpu")[0]


def test_every_linear_layer_is_in_one_part_and_the_head_in_none(model: Any) -> None:
    parts: list[LoraPart] = ["language", "tower"]
    if model.config.model_type != "gemma3":  # its projector is a product with a bare matrix
        parts.append("projector")
    linear = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    found = {part: {n for n in linear if re.fullmatch(target_pattern(model, [part]), n)} for part in parts}
    head = next(name for name, module in linear.items() if module is model.get_output_embeddings())
    together = {n for n in linear if re.fullmatch(target_pattern(model, parts), n)}
    assert all(found.values())
    assert sum(map(len, found.values())) == len(together) == len(linear) - 1
    assert head not in together


def test_layers_by_name(model: Any) -> None:
    """As PEFT's own option, but never outside the parts: towers have layers of the same names."""
    chosen = [n for n, _ in model.named_modules() if re.fullmatch(target_pattern(model, names=["q_proj"]), n)]
    assert chosen == [n for n in linear_layers(model)["language"] if n.endswith(".q_proj")]
    with pytest.raises(ConfigError, match=r"train\.target_modules: .*q_prj.*did you mean 'q_proj'"):
        target_pattern(model, names=["q_prj"])


def test_a_part_without_linear_layers_is_refused(tmp_path: Path) -> None:
    model, _ = load_mllm(str(build("gemma3", tmp_path)), "cpu")
    with pytest.raises(ConfigError, match=r"found projector, in which Gemma3.* expected language, tower"):
        target_pattern(model, ["projector"])


@pytest.mark.parametrize("name", ["llava", "qwen3_vl", "florence2"])
def test_tower_and_projector_learn_as_on_plain_rows(name: str, tmp_path: Path) -> None:
    """Packed, the tower runs once for all pairs of an image, and its gradient is theirs together. Qwen3-VL
    also hands features to deeper layers. The plain rows are the model's own forward with pixel values.
    """
    folder = str(build(name, tmp_path / "model"))
    config = replace(FAST, dtype="float64", lora_parts=("language", "projector", "tower"))
    found, layers = {}, {}
    for share in ("tree", "none"):
        out = tmp_path / share
        result = train(PAIRS, folder, str(out), replace(config, share=share), load_image)
        found[share] = load_file(out / "adapter_model.safetensors")
        layers[share] = adapted(str(out))
    assert result.layout == "fallback"
    assert any("projector" in layer or "merger" in layer for layer in layers["tree"])
    changed = [n for n, weight in found["tree"].items() if "lora_B" in n and weight.abs().max() > 0]
    assert any("vision" in n or "visual" in n for n in changed)
    for key, weight in found["tree"].items():
        torch.testing.assert_close(weight, found["none"][key], rtol=0, atol=1e-6, msg=key)


@pytest.mark.parametrize("variant", ["rslora", "dora"])
def test_kinds_of_lora(variant: LoraVariant, llava: str, tmp_path: Path) -> None:
    """The adapter says which kind it is, so that PEFT, a server and a merge read it as that."""
    out = tmp_path / "out"
    result = train(PAIRS, llava, str(out), replace(FAST, epochs=4, lora_variant=variant), load_image)
    assert float(result.figures["loss"] or 9) < 0.69
    said = json.loads((out / "adapter_config.json").read_text(encoding="utf-8"))
    assert (said["use_rslora"], said["use_dora"]) == (variant == "rslora", variant == "dora")


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl"])
def test_four_bits(name: str, tmp_path: Path) -> None:
    """The layers of the language model only; the reference is that of the quantised model, so the loss begins
    at ln 2; a resumed training would not mix it with another.
    """
    folder = str(build(name, tmp_path / "model"))
    config = replace(FAST, quantize="4bit", dtype="bfloat16", epochs=4)
    model, _ = load_mllm(Checkpoint(folder, dtype="bfloat16"), "cpu", quantize="4bit")
    kinds = {n: type(m).__name__ for n, m in model.named_modules() if isinstance(m, nn.Linear)}
    small = {n for n, kind in kinds.items() if kind == "Linear4bit"}
    assert small == set(linear_layers(model)["language"])
    assert len(small) < len(kinds) - 1
    result = train(PAIRS, folder, str(tmp_path / "out"), config, load_image)
    history = [json.loads(line) for line in (tmp_path / "out" / "history.jsonl").read_text().splitlines()]
    assert history[0]["loss"] == pytest.approx(0.6931, abs=2e-3)
    assert history[-1]["loss"] < history[0]["loss"]
    assert result.layout != "fallback"
    assert adapted(str(tmp_path / "out")) == small


def test_a_tower_is_not_trained_in_shards() -> None:
    """Processes would go through it backwards a different number of times, and wait for each other."""
    parts: tuple[LoraPart, ...] = ("language", "tower")
    with pytest.raises(ConfigError, match=r"train\.lora_parts: found language, tower with sharded weights"):
        check_arguments(TrainConfig(lora_parts=parts, trainer={"fsdp": True}))
    check_arguments(TrainConfig(lora_parts=parts))


def test_the_estimate_of_four_bits(tmp_path: Path) -> None:
    """Against what is stored, and what is stored against half a byte per weight."""
    folder = Checkpoint(str(build("llava", tmp_path)), dtype="bfloat16")
    config = TrainConfig(dtype="bfloat16", tokens=64, lora_r=1)
    small, whole = (memory_of(read_config(folder), replace(config, quantize=q)) for q in ("4bit", "none"))
    model, _ = load_mllm(folder, "cpu", quantize="4bit")
    layers = linear_layers(model)["language"].values()
    stored = sum(layer.weight.nbytes for layer in layers)
    weights = [w.numel() for w in map(_whole, layers)]
    assert stored == sum(weights) // 2
    saved = 2 * (sum(weights) - max(weights)) - sum(int(n * quantized.BYTES_PER_WEIGHT) for n in weights)
    assert whole.weights - small.weights == saved
    assert replace(small, weights=0) == replace(whole, weights=0)


def _whole(layer: Any) -> torch.Tensor:
    return torch.empty(layer.out_features, layer.in_features, device="meta")


def test_four_bits_that_cannot_be(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        ConfigError, match=r"4bit with train\.dtype: float64, expected train\.dtype: bfloat16"
    ):
        TrainConfig(quantize="4bit", dtype="float64")
    with pytest.raises(ConfigError, match=r"4bit with train\.autocast"):
        TrainConfig(quantize="4bit", autocast=True)
    with pytest.raises(ConfigError, match=r"train\.quantize: found 4bit with sharded weights"):
        check_arguments(TrainConfig(quantize="4bit", dtype="bfloat16", trainer={"fsdp": True}))
    monkeypatch.setattr(quantized, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"spr-vlm\[quantize\]"):
        check_arguments(TrainConfig(quantize="4bit", dtype="bfloat16"))
