"""What can be set about training, with the source of every default. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypeAlias

from spr.errors import ConfigError
from spr.ranges import Amount, Count, Range, Seed, check_ranges

LossName: TypeAlias = Literal["dpo", "ipo", "robust", "length_normalized", "sft"]
RejectedCoordinates: TypeAlias = Literal["all", "wrong", "none"]
Share: TypeAlias = Literal["tree", "pair", "none"]
Quantize: TypeAlias = Literal["none", "4bit"]
LoraVariant: TypeAlias = Literal["lora", "rslora", "dora"]
LoraPart: TypeAlias = Literal["language", "projector", "tower"]
Positive: TypeAlias = Annotated[float, Range(above=0)]


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """Preference training. The paper publishes the loss and "LoRA only"; its beta, rates, batch and rank are
    unknown (method 2.6).
    """

    seed: Seed | None = None  # ours: of the adapter's start and the order of the pairs; null = the run's
    loss: LossName = "dpo"  # the paper: sigmoid DPO (arXiv 2305.18290); the others are options
    beta: Positive = 0.1  # ours; the value of arXiv 2305.18290
    # "robust" only: assumed share of flipped pairs, in (0, 0.5) (arXiv 2403.00409)
    label_smoothing: float = 0.0
    # ours: adds this x the chosen answer's mean negative log-probability per token (form of arXiv 2404.19733)
    sft_weight: Amount = 0.0
    # ours: offset of the loss = margin_scale x score gap of the pair (form of arXiv 2402.10571); 0 = the
    # paper's loss
    margin_scale: Amount = 0.0
    coordinate_weight: Amount = 1.0  # ours: weight of the tokens of coordinates; 1 = the paper's loss
    # the paper: all; ours: of wrong boxes only | none count on the rejected side (method 2.6)
    rejected_coordinates: RejectedCoordinates = "all"
    lora_r: Count = 16  # ours
    lora_alpha: Count = 32  # ours
    # ours: the reference is computed once, without dropout
    lora_dropout: Annotated[float, Range(0, below=1)] = 0.0
    lora_variant: LoraVariant = "lora"  # rslora: arXiv 2312.03732; dora: arXiv 2402.09353
    # the paper: LoRA on the language model; ours: also projector and image tower, which are then run anew in
    # every pass
    lora_parts: tuple[LoraPart, ...] = ("language",)
    # ours: layers by the last part of their name (q_proj …); none = all linear ones
    target_modules: tuple[str, ...] = ()
    # ours, for 7B; a model of a few million parameters needs about 2e-5 … 1e-4
    learning_rate: Positive = 5e-6
    weight_decay: Amount = 0.0  # ours
    # ours: share of the steps in which the rate rises; a cosine to 0 follows
    warmup: Annotated[float, Range(0, below=1)] = 0.1
    max_grad_norm: Positive = 1.0  # ours
    epochs: Count = 1  # ours
    batch: Count = 32  # ours: pairs per optimiser step over all processes, fixed before anything is packed
    # ours: share of the images (by a hash of the path) whose pairs are not trained on but measured
    held_out: Annotated[float, Range(0, below=1)] = 0.0
    rounds: Count = 1  # ours: describe, score, pair and train again with the adapter of the round before
    # tokens of prompt + answer; a longer pair is dropped with a reason, never cut
    max_length: Count | None = None
    # ours: padded tokens per forward pass and process; changes memory and speed, not the result
    tokens: Count = 8192
    share: Share = "tree"  # ours: share image and prompt among pairs of an image | within a pair | not at all
    # ours: image features stay in the model's memory up to this size, beyond it in files up to the second
    # one (of each process, and never more than half of the free disk); beyond both they are computed again
    feature_cache_mb: Annotated[int, Range(0)] = 2048
    feature_cache_disk_mb: Annotated[int, Range(0)] = 32768
    # of the frozen weights; the adapter is float32 at least
    dtype: Literal["float32", "bfloat16", "float64"] = "float32"
    # ours: store the frozen layers of the language model in four bits (QLoRA, arXiv 2305.14314)
    quantize: Quantize = "none"
    # ours: compute in bfloat16 (with float32 weights); the reference is computed the same way
    autocast: bool = False
    attention: str = "sdpa"  # as transformers names it; "flex_attention": faster for packed rows on a GPU
    device: Literal["auto", "cpu"] = "auto"
    save_steps: Count = 50  # ours: steps that a kill can lose
    log_steps: Count = 1  # ours
    # further transformers.TrainingArguments: fsdp, report_to, gradient_checkpointing …
    trainer: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raise ConfigError for values that cannot be."""
        check_ranges(self, "train")
        smoothed = (0 < self.label_smoothing < 0.5) if self.loss == "robust" else self.label_smoothing == 0
        if not smoothed:
            raise ConfigError(f"train.label_smoothing: found {self.label_smoothing}, expected {SMOOTHING}")
        if self.loss == "sft" and self.sft_weight:
            raise ConfigError(f"train.sft_weight: found {self.sft_weight}, expected 0 with loss 'sft'")
        if not self.lora_parts:
            raise ConfigError("train.lora_parts: found none, expected language, projector or tower")
        if self.quantize != "none" and (self.autocast or self.dtype == "float64"):
            found = "train.autocast" if self.autocast else "train.dtype: float64"
            raise ConfigError(
                f"train.quantize: found {self.quantize} with {found}, expected train.dtype: bfloat16"
            )

    @property
    def trains_images(self) -> bool:
        """Whether image features change while it trains."""
        return set(self.lora_parts) != {"language"}


SMOOTHING = "a share in (0, 0.5) with loss 'robust', 0 with any other loss"


@dataclass(frozen=True, slots=True)
class TrainResult:
    """What `_stage.json` says about a training.

    `figures` are those of the last logged step, `held_out` those of the pairs that were not trained on.
    `layout` is `fallback` for plain rows. `packed_difference`: the largest difference between the packed and
    the plain log-probability of a token of one image's pairs, measured before the first step; None for plain
    rows.
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
    held_out: Mapping[str, float | int | None] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
