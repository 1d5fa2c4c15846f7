"""What can be set about training, with the source of every default. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from spr.errors import ConfigError

LossName: TypeAlias = Literal["dpo", "ipo", "robust", "length_normalized", "sft"]
RejectedCoordinates: TypeAlias = Literal["all", "wrong", "none"]
Share: TypeAlias = Literal["tree", "pair", "none"]


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """Preference training. The paper publishes the loss and "LoRA only"; its beta, rates, batch and rank are
    unknown (method 2.6).
    """

    seed: int | None = None  # ours: of the adapter's start and the order of the pairs; null = the run's
    loss: LossName = "dpo"  # the paper: sigmoid DPO (arXiv 2305.18290); the others are options
    beta: float = 0.1  # ours; the value of arXiv 2305.18290
    # "robust" only: assumed share of flipped pairs, in (0, 0.5) (arXiv 2403.00409)
    label_smoothing: float = 0.0
    # ours: adds this x the chosen answer's mean negative log-probability per token (form of arXiv 2404.19733)
    sft_weight: float = 0.0
    # ours: offset of the loss = margin_scale x score gap of the pair (form of arXiv 2402.10571); 0 = the
    # paper's loss
    margin_scale: float = 0.0
    coordinate_weight: float = 1.0  # ours: weight of the tokens of coordinates; 1 = the paper's loss
    # the paper: all; ours: of wrong boxes only | none count on the rejected side (method 2.6)
    rejected_coordinates: RejectedCoordinates = "all"
    lora_r: int = 16  # ours
    lora_alpha: int = 32  # ours
    lora_dropout: float = 0.0  # ours: the reference is computed once, without dropout
    learning_rate: float = 5e-6  # ours, for 7B; a model of a few million parameters needs about 2e-5 … 1e-4
    weight_decay: float = 0.0  # ours
    warmup: float = 0.1  # ours: share of the steps in which the rate rises; a cosine to 0 follows
    max_grad_norm: float = 1.0  # ours
    epochs: int = 1  # ours
    batch: int = 32  # ours: pairs per optimiser step over all processes, fixed before anything is packed
    rounds: int = 1  # ours: describe, score, pair and train again with the adapter of the round before
    # tokens of prompt + answer; a longer pair is dropped with a reason, never cut
    max_length: int | None = None
    # ours: padded tokens per forward pass and process; changes memory and speed, not the result
    tokens: int = 8192
    share: Share = "tree"  # ours: share image and prompt among pairs of an image | within a pair | not at all
    # ours: image features stay in memory up to this size; beyond it they are computed again
    feature_cache_mb: int = 2048
    # of the frozen weights; the adapter is float32 at least
    dtype: Literal["float32", "bfloat16", "float64"] = "float32"
    # ours: compute in bfloat16 (with float32 weights); the reference is computed the same way
    autocast: bool = False
    attention: str = "sdpa"
    device: Literal["auto", "cpu"] = "auto"
    save_steps: int = 50  # ours: steps that a kill can lose
    log_steps: int = 1  # ours
    # further transformers.TrainingArguments: fsdp, report_to, gradient_checkpointing …
    trainer: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raise ConfigError for values that cannot be."""
        checks = {
            "beta": (self.beta > 0, "a number above 0"),
            "batch": (self.batch >= 1, "at least 1"),
            "epochs": (self.epochs >= 1, "at least 1"),
            "rounds": (self.rounds >= 1, "at least 1"),
            "lora_r": (self.lora_r >= 1, "at least 1"),
            "learning_rate": (self.learning_rate > 0, "a number above 0"),
            "warmup": (0 <= self.warmup < 1, "a share in [0, 1)"),
            "save_steps": (self.save_steps >= 1, "at least 1"),
            "log_steps": (self.log_steps >= 1, "at least 1"),
            "coordinate_weight": (self.coordinate_weight >= 0, "a number of at least 0"),
            "sft_weight": (
                self.sft_weight >= 0 and not (self.loss == "sft" and self.sft_weight),
                "a number of at least 0; 0 with loss 'sft'",
            ),
            "margin_scale": (self.margin_scale >= 0, "a number of at least 0"),
            "label_smoothing": (
                (0 < self.label_smoothing < 0.5) if self.loss == "robust" else self.label_smoothing == 0,
                SMOOTHING,
            ),
        }
        for name, (fine, expected) in checks.items():
            if not fine:
                raise ConfigError(f"train.{name}: found {getattr(self, name)}, expected {expected}")


SMOOTHING = "a share in (0, 0.5) with loss 'robust', 0 with any other loss"


@dataclass(frozen=True, slots=True)
class TrainResult:
    """What `_stage.json` says about a training.

    `figures` are those of the last logged step. `layout` is `fallback` for plain rows. `packed_difference`:
    the largest difference between the packed and the plain log-probability of a token of one pair, measured
    before the first step; None for plain rows.
    """

    pairs: int
    dropped: Mapping[str, int]
    steps: int
    seconds: float
    layout: str
    reference: str
    parameters: int
    images_encoded: int
    figures: Mapping[str, float | int | None]
    packed_difference: float | None = None
    warnings: tuple[str, ...] = ()
