"""The estimate of memory: right where it can be measured, known for a model that cannot be loaded here, and
refused with what would make it fit.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import Qwen2_5_VLConfig

from spr.errors import ConfigError
from spr.models.loading import load_mllm, read_config
from spr.store.progress import Progress
from spr.training import memory, trainer
from spr.training.adapter import attach
from spr.training.config import TrainConfig
from spr.training.encode import Encoder
from spr.training.families import family_of
from spr.training.features import FeatureStore
from spr.training.memory import GB, check_memory, memory_of
from spr.training.plan import units_of
from spr.training.policy import Images, Policy, to_batch
from spr.types import Checkpoint
from tests.contract.checkpoints import build
from tests.unit.training.data import FAST, load_image, made_pairs

# PEFT asks transformers by its old name
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "gemma3"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_estimate_is_what_a_pass_saves(name: str, dtype: str, tmp_path: Path) -> None:
    """All that autograd keeps in a real packed pass, counted storage by storage."""
    folder = build(name, tmp_path)
    base, processor = load_mllm(Checkpoint(str(folder), dtype=dtype), "cpu")
    model, encoder = attach(base, FAST), Encoder(base, processor, load_image)
    family = family_of(base)
    units = units_of([encoder.encode(pair) for pair in made_pairs(6, per_image=6)], family, "tree", 100_000)
    rows = [row for unit in units for row in unit.rows]
    batch = to_batch(rows, family, max(map(len, rows)))
    count = memory._Saved({p.untyped_storage()._cdata for p in model.parameters()})
    with (
        closing(Policy(base, family, encoder, Images(base, encoder, FeatureStore(64)))) as policy,
        count.counting(),
    ):
        kept = policy.log_probs(model.train(), units)
    assert kept
    logits = 4 * len(batch.target) * base.get_output_embeddings().weight.shape[0]
    config: Any = replace(FAST, tokens=batch.inputs["input_ids"].shape[1], dtype=dtype)
    found = memory_of(read_config(Checkpoint(str(folder))), config)
    assert found.activations == pytest.approx(count.bytes - logits, rel=0.05)


def qwen(**sizes: Any) -> Qwen2_5_VLConfig:
    """Qwen2.5-VL with the published sizes of its language model."""
    text = {**sizes, "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]}}
    vision = {"hidden_size": 1280, "out_hidden_size": sizes["hidden_size"]}
    return Qwen2_5_VLConfig(
        text_config=text, vision_config=vision, tie_word_embeddings=sizes["hidden_size"] == 2048
    )


QWEN_3B = {"hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 36, "vocab_size": 151936}
QWEN_3B |= {"num_attention_heads": 16, "num_key_value_heads": 2}
QWEN_7B = {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "vocab_size": 152064}
QWEN_7B |= {"num_attention_heads": 28, "num_key_value_heads": 4}


def test_a_7b_model_on_one_card() -> None:
    """76.6 GB of activations at 8,192 tokens were counted by hand with another script. The shipped
    configurations took them, and died in step 1, after hours of the reference pass.
    """
    model, config = qwen(**QWEN_7B), TrainConfig(dtype="bfloat16", tokens=8192)
    found = memory_of(model, config)
    assert found.activations / 1e9 == pytest.approx(76.6, rel=0.01)
    assert found.weights / 1e9 == pytest.approx(16.6, rel=0.01)
    with pytest.raises(ConfigError, match=r"about 9\d\.\d GB .* has 80\.0; set .*checkpointing: true: 2"):
        check_memory(model, config, 80 * GB, "cuda:0")
    with pytest.raises(ConfigError, match=r"checkpointing: true, train\.tokens: 4096: 21"):
        check_memory(model, config, 24 * GB, "cuda:0")
    with pytest.raises(ConfigError, match=r"feature_cache_mb: 256, train\.quantize: 4bit: 10"):
        check_memory(model, config, 16 * GB, "cuda:0")
    with pytest.raises(ConfigError, match="no setting of train that needs less fits"):
        check_memory(model, config, 8 * GB, "cuda:0")
    shipped = replace(config, tokens=4096, trainer={"gradient_checkpointing": True})
    assert check_memory(model, shipped, 24 * GB, "cuda:0").total < 22 * GB


@pytest.mark.parametrize(
    ("sizes", "checkpointing", "measured"), [(QWEN_3B, False, 59), (QWEN_7B, True, 21)], ids=["3B", "7B"]
)
def test_the_estimate_is_near_what_a_card_took(
    sizes: dict[str, int], checkpointing: bool, measured: int
) -> None:
    """docs/performance.md, one pair per image: 8,192 tokens, few features; no pass was quite full."""
    trainer = {"gradient_checkpointing": checkpointing}
    config = TrainConfig(dtype="bfloat16", tokens=8192, feature_cache_mb=100, trainer=trainer)
    assert measured < memory_of(qwen(**sizes), config).total / GB < 1.1 * measured


def test_what_does_not_fit_is_refused_before_the_weights_are_read(
    llava: str, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "available_bytes", lambda device: 10**6)
    monkeypatch.setattr(trainer, "load_mllm", lambda *a, **k: pytest.fail("the weights are read"))
    with pytest.raises(ConfigError, match=r"^train: needs about 2\.3 GB .*, cpu has 0\.0"):
        trainer.train(made_pairs(2), llava, str(out), FAST, load_image)


def test_a_model_that_cannot_run_without_numbers_is_said(tmp_path: Path) -> None:
    said: list[str] = []

    class Listener(Progress):
        def tell(self, message: str) -> None:
            said.append(message)

    folder = build("florence2", tmp_path)
    memory.look_at_memory(Checkpoint(str(folder)), FAST, 10**9, "cpu", Listener())
    assert [text.split(" (")[0] for text in said] == ["train: no estimate of its memory"]
