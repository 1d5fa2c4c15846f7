"""What a training needs of a device's memory, from the checkpoint's configuration alone.

In: a configuration, how it is trained. Out: bytes by what they are for. A dry pass on the meta device, which
holds no numbers, counts what a full forward pass (`train.tokens`) saves for its backward pass, by layer.
Kernels' own workspace is not in it: `SPARE` of the device is left for it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from transformers import AutoModelForImageTextToText

from spr.errors import ConfigError
from spr.models.devices import accelerator
from spr.models.loading import dtype_named, quiet_peft, read_config
from spr.models.memory import total_bytes
from spr.models.parts import linear_layers
from spr.models.quantized import BYTES_PER_WEIGHT
from spr.store.progress import Progress, one_line
from spr.training.adapter import attach
from spr.training.config import TrainConfig
from spr.training.families import FLEX
from spr.training.masks import check_attention
from spr.training.policy import CHUNK
from spr.types import Checkpoint

SPARE = 0.08  # ours: share of a device that is left for kernels and for what torch cannot use of it
GB = 2**30  # as the tools of the makers count


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes on a device, at the fullest moment of a step.

    `optimiser`: gradients and Adam's two moments. `activations`: what a pass saves for its backward pass.
    `logits`: of one piece of answer tokens, with their gradient. `features`: image features that are kept.
    """

    weights: int
    optimiser: int
    activations: int
    logits: int
    features: int

    @property
    def total(self) -> int:
        """All of it."""
        return sum(asdict(self).values())

    def __str__(self) -> str:
        """In GB, for people."""
        parts = ", ".join(f"{name} {size / GB:.1f}" for name, size in asdict(self).items())
        return f"about {self.total / GB:.1f} GB ({parts})"


def memory_of(model_config: Any, config: TrainConfig) -> Memory:
    """What a training of this model needs of each device; also where the weights are sharded, because the
    reference pass, before it, has them whole.

    `model_config`: the checkpoint's, as transformers read it. Raises what a model raises that cannot run on
    the meta device.
    """
    computed = "bfloat16" if config.autocast else config.dtype
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(  # type: ignore[no-untyped-call]
            model_config,
            dtype=dtype_named(computed),
            attn_implementation="sdpa" if config.attention == FLEX else config.attention,
        )
        smaller = _saved_by_four_bits(model)
        model = attach(model, config)
        trained = sum(p.nbytes for p in model.parameters() if p.requires_grad)
        weights = sum(p.nbytes for p in (*model.parameters(), *model.buffers()))
        if config.quantize == "4bit":
            weights -= smaller
        base = model.get_base_model()
        saved = _saved_bytes(base.train(), config)
    if config.autocast:  # float32 weights, and those that are rounded for a pass
        weights *= 3
    width = 8 if config.dtype == "float64" else 4
    vocabulary = int(base.get_output_embeddings().weight.shape[0])
    return Memory(
        weights=weights,
        optimiser=3 * trained,
        activations=saved,
        logits=3 * min(CHUNK, config.tokens) * vocabulary * width,
        features=0 if config.trains_images else config.feature_cache_mb * 2**20,
    )


def _saved_by_four_bits(model: Any) -> int:
    """Bytes that weights in four bits need less; the largest stays, for each is made whole in its turn."""
    weights = [layer.weight for layer in linear_layers(model)["language"].values()]
    small = sum(int(w.numel() * BYTES_PER_WEIGHT) for w in weights)
    return sum(w.nbytes for w in weights) - small - max(w.nbytes for w in weights)


def _saved_bytes(model: Any, config: TrainConfig) -> int:
    """What one forward pass of the language model over `tokens` saves. With gradient checkpointing: what goes
    into each layer, and the largest layer, which is computed again.
    """
    decoder, tokens = model.get_decoder(), config.tokens
    hidden = torch.zeros(1, tokens, model.get_input_embeddings().weight.shape[1], dtype=model.dtype)
    mask: Any = torch.ones(1, 1, tokens, tokens, dtype=torch.bool)
    if "sliding_attention" in (getattr(decoder.config, "layer_types", None) or ()):
        mask = {"full_attention": mask, "sliding_attention": mask.clone()}
    count, layers = _Saved({p.untyped_storage()._cdata for p in model.parameters()}), dict[Any, int]()

    def before(layer: Any, *_: Any) -> None:
        layers[layer] = -count.bytes

    def after(layer: Any, *_: Any) -> None:
        layers[layer] += count.bytes

    hooks = [
        hook
        for layer in decoder.layers
        for hook in (layer.register_forward_pre_hook(before), layer.register_forward_hook(after))
    ]
    with _lean_attention(), count.counting():
        decoder(inputs_embeds=hidden, attention_mask=mask, use_cache=False)
    for hook in hooks:
        hook.remove()
    found = count.bytes
    if config.attention != FLEX:  # its block mask is small
        masks = mask.values() if isinstance(mask, dict) else [mask]
        found += sum(m.numel() * hidden.element_size() for m in masks)
    if config.trainer.get("gradient_checkpointing"):
        found += len(layers) * hidden.nbytes + max(layers.values()) - sum(layers.values())
    return found


class _Saved:
    """Counts the bytes that autograd keeps, each storage once; the model's own weights are not among them."""

    def __init__(self, weights: set[int]) -> None:
        self._seen = weights
        self._kept: list[Tensor] = []  # their storages must not be used again while it is counted
        self.bytes = 0

    def counting(self) -> contextlib.AbstractContextManager[None]:
        return torch.autograd.graph.saved_tensors_hooks(self._pack, lambda tensor: tensor)

    def _pack(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self._seen:
            self._seen.add(storage._cdata)
            self._kept.append(tensor)
            self.bytes += storage.nbytes()
        return tensor


class _LeanAttention(torch.autograd.Function):
    """Attention as its kernels do it: they keep queries, keys, values and the result, and no square."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        found = query.new_empty((*query.shape[:-1], value.shape[-1]))
        ctx.save_for_backward(query, key, value, found)
        return found


@contextlib.contextmanager
def _lean_attention() -> Iterator[None]:
    def attention(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> Tensor:
        found: Tensor = _LeanAttention.apply(query, key, value)  # type: ignore[no-untyped-call]
        return found

    with patch.object(nn.functional, "scaled_dot_product_attention", attention):
        yield


def look_at_memory(
    checkpoint: Checkpoint, config: TrainConfig, room: int, where: str, progress: Progress
) -> None:
    """Say what a training needs of a device `where` with `room` bytes. Raises what `check_memory` raises."""
    with quiet_peft():
        read = read_config(checkpoint)
        try:
            needed = check_memory(read, config, room, where)
        except ConfigError:
            raise
        except Exception as e:  # of a model that cannot run without numbers
            progress.tell(f"train: no estimate of its memory ({type(e).__name__}: {one_line(str(e))})")
        else:
            beside = ", beside what the image tower computes" if config.trains_images else ""
            progress.tell(f"train: needs {needed}{beside} of {room / GB:.1f} on {where}")


def check_device(checkpoint: Checkpoint, config: TrainConfig) -> None:
    """Raise what `check_attention` and `check_memory` raise, for the device that the configuration means,
    with nothing on it.
    """
    device = torch.device("cpu" if config.device == "cpu" else accelerator() or "cpu")
    check_attention(config.attention, device)
    look_at_memory(checkpoint, config, total_bytes(device), str(device), Progress())


def check_memory(model_config: Any, config: TrainConfig, room: int, where: str) -> Memory:
    """What a training needs, where the device `where` has `room` bytes. Raises ConfigError, with what would
    make it fit, when that is not enough.
    """
    needed, usable = memory_of(model_config, config), int(room * (1 - SPARE))
    if needed.total <= usable:
        return needed
    for fix, changed in _lighter(config).items():
        lighter = memory_of(model_config, changed)
        if lighter.total <= usable:
            raise ConfigError(
                f"train: needs {needed}, {where} has {room / GB:.1f}; set {fix}: {lighter.total / GB:.1f} GB"
            )
    raise ConfigError(
        f"train: needs {needed}, {where} has {room / GB:.1f}, and no setting of train that needs less fits; "
        "expected a device with more memory, or a smaller model"
    )


def _lighter(config: TrainConfig) -> Mapping[str, TrainConfig]:
    """Settings that need less, each with all that stand before it; none changes what is learnt, but the
    last two, which round the frozen weights.
    """
    found: dict[str, TrainConfig] = {}
    said: list[str] = []
    steps: list[tuple[str, dict[str, Any]]] = []
    if not config.trainer.get("gradient_checkpointing"):
        trainer = {**config.trainer, "gradient_checkpointing": True}
        steps.append(("train.trainer.gradient_checkpointing: true", {"trainer": trainer}))
    steps += [(f"train.tokens: {n}", {"tokens": n}) for n in (4096, 2048) if n < config.tokens]
    if config.feature_cache_mb > 256:
        steps.append(("train.feature_cache_mb: 256", {"feature_cache_mb": 256}))
    if config.dtype == "float32":
        steps.append(("train.dtype: bfloat16", {"dtype": "bfloat16"}))
    if config.quantize == "none" and not config.autocast and config.dtype != "float64":
        steps.append(("train.quantize: 4bit", {"quantize": "4bit"}))
    for text, change in steps:
        config = replace(config, **change)
        said = [*(old for old in said if old.split(":")[0] != text.split(":")[0]), text]
        found[", ".join(said)] = config
    return found
