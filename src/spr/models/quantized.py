"""Frozen weights in four bits (QLoRA, arXiv 2305.14314), through bitsandbytes.

In: a checkpoint's configuration. Out: what `from_pretrained` is told. The linear layers of the language model
are stored as NF4 with doubly quantised scales and computed in the checkpoint's type; tower, projector,
embeddings and head stay as they are, because boxes are read from pictures and written by the head.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch
from torch import nn
from transformers import BitsAndBytesConfig

from spr.errors import missing_extra
from spr.models.parts import linear_layers, skeleton

# bytes per weight: four bits, a byte of scale per 64 weights, and four bytes for 256 of these scales
BYTES_PER_WEIGHT = 1 / 2 + 1 / 64 + 4 / (64 * 256)


def check_four_bit() -> None:
    """Raise MissingExtraError where bitsandbytes is not installed."""
    if find_spec("bitsandbytes") is None:
        raise missing_extra("train.quantize: 4bit", "quantize")


def four_bit(model_config: Any, dtype: torch.dtype, trust_remote_code: bool = False) -> BitsAndBytesConfig:
    """The quantisation of a model with this configuration, computed in `dtype`. Raises MissingExtraError."""
    check_four_bit()
    model = skeleton(model_config, trust_remote_code)
    stored = linear_layers(model)["language"]
    return BitsAndBytesConfig(  # type: ignore[no-untyped-call]
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=[
            name
            for name, module in model.named_modules()
            if isinstance(module, nn.Linear) and name not in stored
        ],
    )


def stay_trainable(model: Any) -> None:
    """On some CPUs bitsandbytes packs the weights anew in the first pass without gradients, such as that of
    the reference, in a form that no gradient goes through. Have it not do so.
    """
    layers: dict[str, Any] = {**linear_layers(model)["language"]}
    for layer in layers.values():
        layer.support_avx512bf16_for_cpu = False
