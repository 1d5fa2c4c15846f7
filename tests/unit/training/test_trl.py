"""Against TRL's DPOTrainer, in float64: the same pairs, order, adapter, optimiser and schedule must give the
same losses and the same adapter.

TRL's fused head rounds log-probabilities and their gradients to float32 whatever the model's type, and so do
the norms of most models. Untouched they are compared within 1e-5; with a float64 head in TRL, and float64
norms on both sides, within 1e-8. Settings that TRL would choose otherwise (bf16, gradient checkpointing,
max_length 1024) are off, because they change its numbers.
"""

from __future__ import annotations

import importlib
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
from spr.training.families import TABLE
from spr.training.plan import steps_of
from spr.training.trainer import train
from spr.types import Checkpoint, TrainingPair
from tests.contract.checkpoints import build
from tests.unit.training.data import load_image, made_pairs

# DPOConfig's own, and numpy's about a collator
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore:__array__ implementation")
CONFIG = TrainConfig(dtype="float64", device="cpu", batch=2, lora_r=4, learning_rate=1e-3, warmup=0.1)
SEED = 3
# for PaliGemma TRL has no oracle: its collator asks the processor for completions without images
FAMILIES = [name for name, (layout, _) in TABLE.items() if layout is not None and name != "paligemma"]
LEARNT = ("llava", "qwen2_5_vl", "qwen3_vl", "gemma3")


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
    """How near losses and weights must be."""
    if request.param == "untouched":
        return 1e-5
    in_float64(monkeypatch)
    return 1e-8


def in_float64(patch: pytest.MonkeyPatch) -> None:
    """Have TRL's head, and the norms of the models on both sides, work in the type of the model."""
    import trl.trainer.utils

    patch.setattr(trl.trainer.utils, "_ChunkedLogProbFunction", Float64Head)
    for name in ("llama", "qwen2", "qwen2_vl", "qwen2_5_vl", "qwen3", "qwen3_vl", "glm4v", "gemma3"):
        module = importlib.import_module(f"transformers.models.{name}.modeling_{name}")
        for norm in (value for key, value in vars(module).items() if key.endswith("RMSNorm")):
            patch.setattr(norm, "forward", _norm)


def _norm(self: Any, hidden: torch.Tensor) -> torch.Tensor:
    epsilon = self.variance_epsilon if hasattr(self, "variance_epsilon") else self.eps
    scaled = hidden * torch.rsqrt(hidden.pow(2).mean(-1, keepdim=True) + epsilon)
    return scaled * (self.weight + ("Gemma" in type(self).__name__))


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
    losses, compute = list[float](), trainer.compute_loss

    def computed(*args: Any, **more: Any) -> torch.Tensor:
        loss: torch.Tensor = compute(*args, **more)
        losses.append(float(loss.detach()))  # what is logged is rounded to float32
        return loss

    trainer.compute_loss = computed
    trainer.train()
    peft.save_pretrained(str(out), save_embedding_layers=False)
    return losses, load_file(out / "adapter_model.safetensors")


def ours(
    folder: str, pairs: Sequence[TrainingPair], out: Path, config: TrainConfig
) -> tuple[list[float], dict[str, torch.Tensor]]:
    train(pairs, folder, str(out), config, load_image, seed=SEED)
    return [json.loads(line)["loss"] for line in (out / "history.jsonl").read_text().splitlines()], load_file(
        out / "adapter_model.safetensors"
    )


@pytest.mark.parametrize("name", LEARNT)
def test_twenty_steps_of_dpo(family: Any, tmp_path: Path, name: str, tolerance: float) -> None:
    """40 pairs, two about each image: ours runs them as trees, TRL one by one."""
    pairs = made_pairs(40)
    losses, weights = ours(family(name), pairs, tmp_path / "ours", CONFIG)
    expected, theirs = trl(family(name), pairs, tmp_path / "trl", CONFIG)
    assert len(losses) == len(expected) == 20
    assert losses == pytest.approx(expected, rel=tolerance)
    assert weights.keys() == theirs.keys()
    for key, value in weights.items():
        torch.testing.assert_close(value, theirs[key], rtol=0, atol=tolerance)
    assert abs(losses[0] - losses[-1]) > 1e-4  # something was learnt


@pytest.mark.parametrize("name", FAMILIES)
def test_gradients_at_step_0(family: Any, tmp_path: Path, name: str, tolerance: float) -> None:
    """One step of plain SGD with rate 1 and no clipping moves the weights by the gradient."""
    same_step(family(name), tmp_path, CONFIG, {}, tolerance)


@pytest.mark.parametrize(
    ("changes", "theirs"),
    [
        ({"loss": "ipo"}, {"loss_type": ["ipo"]}),
        ({"loss": "robust", "label_smoothing": 0.2}, {"loss_type": ["robust"], "label_smoothing": 0.2}),
        ({"loss": "length_normalized", "beta": 5.0}, {"loss_type": ["sigmoid_norm"]}),
        ({"loss": "sft"}, {"loss_type": ["sft"]}),
        ({"sft_weight": 0.5}, {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.5]}),
    ],
)
def test_losses(
    family: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: Any, theirs: Any
) -> None:
    """Those that TRL has, too, on one pair: its sft is a mean over tokens of all answers, ours over pairs."""
    in_float64(monkeypatch)
    same_step(family("llava"), tmp_path, replace(CONFIG, batch=1, **changes), theirs, 1e-8)


def same_step(folder: str, out: Path, config: TrainConfig, arguments: Any, tolerance: float) -> None:
    """The first step of ours has the loss and the gradients of TRL's with these arguments."""
    pairs = made_pairs(config.batch)
    sgd = {
        "optim": "sgd",
        "lr_scheduler_type": "constant",
        "warmup_steps": 0,
        "max_grad_norm": 0.0,
        "learning_rate": 1.0,
    }
    losses, weights = ours(folder, pairs, out / "ours", replace(config, trainer=sgd))
    expected, theirs = trl(folder, pairs, out / "trl", config, **sgd, **arguments)
    assert losses == pytest.approx(expected, rel=tolerance)
    moved = [key for key, value in weights.items() if "lora_B" in key and float(value.abs().max()) > 1e-6]
    assert len(moved) > 4  # B starts at zero, so what it holds now is the gradient
    for key, value in weights.items():
        torch.testing.assert_close(value, theirs[key], rtol=0, atol=tolerance)
