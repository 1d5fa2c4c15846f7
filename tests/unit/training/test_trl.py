"""Against TRL's DPOTrainer, in float64: the same pairs, order, adapter, optimiser and schedule must give the
same losses and the same adapter.

TRL's fused head rounds log-probabilities and their gradients to float32 whatever the model's type. So
untouched TRL is compared within 1e-5, and, for the gradients, TRL with a float64 head in that one place
within 1e-8 (the models' own RMSNorm works in float32: less than that is chance). Settings that TRL would
choose otherwise (bf16, gradient checkpointing, max_length 1024) are off, because they change its numbers. TRL
has no oracle for PaliGemma (its collator asks the processor for completions without images) and Gemma 3 needs
no other code of ours.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from spr.models.loading import load_mllm
from spr.training.adapter import attach
from spr.training.config import TrainConfig
from spr.training.encode import Encoder
from spr.training.plan import steps_of
from spr.training.trainer import train
from spr.types import Checkpoint, TrainingPair
from tests.contract.checkpoints import build
from tests.unit.training.data import load_image, made_pairs

CONFIG = TrainConfig(dtype="float64", device="cpu", batch=2, lora_r=4, learning_rate=1e-3, warmup=0.1)
SEED = 3


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    root = tmp_path_factory.mktemp("oracle")
    return lambda name: str(build(name, root))


class Float64Head:
    """TRL's fused log-probabilities, in the type of the model."""

    @staticmethod
    def apply(
        hidden: torch.Tensor, weight: torch.Tensor, bias: None, targets: torch.Tensor, *rest: Any
    ) -> tuple[torch.Tensor, ...]:
        log_probs = (hidden @ weight.T).log_softmax(-1)
        figures = torch.zeros(len(targets))  # entropy and the like: logged only
        return log_probs.gather(1, targets[:, None])[:, 0], figures, figures, figures, figures > 0


@pytest.fixture(params=["float64 head", "untouched"])
def tolerance(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> float:
    """How near the weights must be."""
    if request.param == "untouched":
        return 1e-5
    import trl.trainer.utils

    monkeypatch.setattr(trl.trainer.utils, "_ChunkedLogProbFunction", Float64Head)
    return 1e-8


def trl(
    folder: str, pairs: Sequence[TrainingPair], out: Path, config: TrainConfig, **arguments: Any
) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Losses per step and the adapter's weights, by TRL."""
    from datasets import Dataset, Image
    from trl import DPOConfig, DPOTrainer

    model, processor = load_mllm(Checkpoint(folder, dtype="float64"))
    encoder = Encoder(model, processor, load_image)
    torch.manual_seed(SEED)
    peft = attach(model, config)
    order = [i for step in steps_of([encoder.encode(p) for p in pairs], config.batch, 1, SEED) for i in step]
    rows = []
    for p in (pairs[i] for i in order):
        prompt = encoder.prompt_text(p.prompt)
        chosen, rejected = (encoder.completion_text(p.prompt, a) for a in (p.chosen, p.rejected))
        rows.append(
            {"images": [load_image(p.image)], "prompt": prompt, "chosen": chosen, "rejected": rejected}
        )
    data = Dataset.from_list(rows).cast_column("images", [Image()])
    steps = -(-len(order) // config.batch)
    settings: dict[str, Any] = {
        **{
            "output_dir": str(out),
            "bf16": False,
            "gradient_checkpointing": False,
            "max_length": None,
            "disable_dropout": True,
            "use_cpu": True,
        },
        **{
            "per_device_train_batch_size": config.batch,
            "num_train_epochs": 1,
            "learning_rate": config.learning_rate,
            "beta": config.beta,
        },
        **{
            "lr_scheduler_type": "cosine",
            "warmup_steps": -(-steps // 10),
            "max_grad_norm": config.max_grad_norm,
            "logging_steps": 1,
        },
        **{
            "report_to": "none",
            "seed": SEED,
            "save_strategy": "no",
            "disable_tqdm": True,
            "dataloader_pin_memory": False,
            **arguments,
        },
    }
    trainer = DPOTrainer(
        model=peft, args=DPOConfig(**settings), train_dataset=data, processing_class=processor
    )
    trainer._get_train_sampler = lambda *_: torch.utils.data.SequentialSampler(data)
    trainer.train()
    peft.save_pretrained(str(out), save_embedding_layers=False)
    return [line["loss"] for line in trainer.state.log_history if "loss" in line], load_file(
        out / "adapter_model.safetensors"
    )


def ours(
    folder: str, pairs: Sequence[TrainingPair], out: Path, config: TrainConfig
) -> tuple[list[float], dict[str, torch.Tensor]]:
    train(pairs, folder, str(out), config, load_image, seed=SEED)
    return [json.loads(line)["loss"] for line in (out / "history.jsonl").read_text().splitlines()], load_file(
        out / "adapter_model.safetensors"
    )


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "qwen3_vl"])
def test_twenty_steps_of_dpo(family: Any, tmp_path: Path, name: str) -> None:
    """40 pairs, two about each image: ours runs them as trees, TRL one by one."""
    pairs = made_pairs(40)
    losses, weights = ours(family(name), pairs, tmp_path / "ours", CONFIG)
    expected, theirs = trl(family(name), pairs, tmp_path / "trl", CONFIG)
    assert len(losses) == len(expected) == 20
    assert losses == pytest.approx(expected, rel=1e-5)
    assert weights.keys() == theirs.keys()
    for key, value in weights.items():
        # AdamW divides by the size of a gradient, noise included
        torch.testing.assert_close(value, theirs[key], rtol=0, atol=1e-5)
    assert abs(losses[0] - losses[-1]) > 1e-4  # something was learnt


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "qwen3_vl"])
def test_gradients_at_step_0(family: Any, tmp_path: Path, name: str, tolerance: float) -> None:
    """One step of plain SGD with rate 1 and no clipping moves the weights by the gradient."""
    pairs = made_pairs(2)
    sgd = {
        "optim": "sgd",
        "lr_scheduler_type": "constant",
        "warmup_steps": 0,
        "max_grad_norm": 0.0,
        "learning_rate": 1.0,
    }
    losses, weights = ours(family(name), pairs, tmp_path / "ours", replace(CONFIG, trainer=sgd))
    expected, theirs = trl(family(name), pairs, tmp_path / "trl", CONFIG, **sgd)
    assert losses == pytest.approx(expected, rel=2e-7)
    moved = [key for key, value in weights.items() if "lora_B" in key and float(value.abs().max()) > 1e-6]
    assert len(moved) > 4  # B starts at zero, so what it holds now is the gradient
    for key, value in weights.items():
        torch.testing.assert_close(value, theirs[key], rtol=0, atol=tolerance)
