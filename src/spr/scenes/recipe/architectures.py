"""The three embedded architectures, all official classes of transformers with the same small vision tower.

In: nothing. Out: randomly initialised models and their processors; the weights of the tower can move into any
of them (`load_tower`), which is how the recipe trains the tower only once. They see 112 x 112 pixels,
squashed; patch 14: 64 patches, width 192.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    OwlViTConfig,
    OwlViTForObjectDetection,
    OwlViTImageProcessorPil,
    OwlViTProcessor,
    PreTrainedTokenizerFast,
)

from spr.scenes.recipe.vocabulary import BINS, build_text_tokenizer, build_tokenizer

PIXELS, PATCH, WIDTH = 112, 14, 192
GRID = PIXELS // PATCH
PATCHES = GRID**2
CLIP_LENGTH, OWL_LENGTH = 64, 16  # tokens of a text
VISION: Mapping[str, Any] = {
    "hidden_size": WIDTH,
    "intermediate_size": 3 * WIDTH,
    "num_hidden_layers": 6,
    "num_attention_heads": 6,
    "image_size": PIXELS,
    "patch_size": PATCH,
    "hidden_act": "gelu",
}
_SIZE = {"height": PIXELS, "width": PIXELS}


def _ends(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    return {
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }


def _processor(cls: Any, *parts: Any, **settings: Any) -> Any:
    return cls(*parts, **settings)  # processors of transformers have no types


def _images(cls: Any) -> Any:
    """An image processor that squashes to 112 x 112 and cuts nothing off."""
    return cls(size=_SIZE, crop_size=_SIZE, do_center_crop=False, resample=3)


def build_owl() -> tuple[OwlViTForObjectDetection, Any]:
    """The zero-shot detector: one box and one class embedding per patch.

    The library leaves the heads with unit variance, which saturates every box; here they start small.
    """
    tokenizer = build_text_tokenizer(OWL_LENGTH)
    text = {
        **_ends(tokenizer),
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 6,
        "max_position_embeddings": OWL_LENGTH,
        "hidden_act": "gelu",
    }
    model = OwlViTForObjectDetection(
        OwlViTConfig(text_config=text, vision_config=dict(VISION), projection_dim=WIDTH)
    )
    for head in (model.box_head, model.class_head):
        for layer in head.children():
            if isinstance(layer, nn.Linear):
                layer.reset_parameters()
    nn.init.zeros_(model.box_head.dense2.weight)
    nn.init.zeros_(model.box_head.dense2.bias)
    return model, _processor(OwlViTProcessor, _images(OwlViTImageProcessorPil), tokenizer)


def build_clip() -> tuple[CLIPModel, Any]:
    """The dual encoder. Its temperature stays at 100, where real ones end: cosines of one region's
    descriptions then differ by hundredths.
    """
    tokenizer = build_text_tokenizer(CLIP_LENGTH)
    text = {
        **_ends(tokenizer),
        "hidden_size": WIDTH,
        "intermediate_size": 3 * WIDTH,
        "num_hidden_layers": 3,
        "num_attention_heads": 6,
        "max_position_embeddings": CLIP_LENGTH,
        "projection_dim": WIDTH,
        "hidden_act": "gelu",
    }
    model = CLIPModel(
        CLIPConfig(text_config=text, vision_config={**VISION, "projection_dim": WIDTH}, projection_dim=WIDTH)
    )
    with torch.no_grad():
        model.logit_scale.fill_(math.log(100))
    model.logit_scale.requires_grad_(False)
    return model, _processor(CLIPProcessor, _images(CLIPImageProcessorPil), tokenizer)


def build_mllm() -> tuple[LlavaForConditionalGeneration, Any]:
    """The MLLM: CLIP tower, two-layer projector, Llama of six layers with tied embeddings."""
    tokenizer = build_tokenizer()
    language = LlamaConfig(
        hidden_size=WIDTH,
        intermediate_size=3 * WIDTH,
        num_hidden_layers=6,
        num_attention_heads=6,
        num_key_value_heads=6,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        **_ends(tokenizer),
    )
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**VISION),
        text_config=language,
        image_token_index=tokenizer.get_vocab()["<image>"],
        image_seq_length=PATCHES,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        tie_word_embeddings=True,
    )
    processor = _processor(
        LlavaProcessor,
        _images(CLIPImageProcessorPil),
        tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=tokenizer.chat_template,
    )
    model = LlavaForConditionalGeneration(config)
    write_sinusoids(model, tokenizer)
    return model, processor


def sinusoids(width: int) -> torch.Tensor:
    """(BINS, width): neighbouring locations start with similar embeddings; wavelengths from the whole image
    down to about six bins.
    """
    position = (torch.arange(BINS) + 0.5) / BINS
    frequency = 2 ** (torch.arange(width // 2) * 8.5 / (width // 2)) * math.pi
    return torch.cat(
        [torch.sin(position[:, None] * frequency), torch.cos(position[:, None] * frequency)], dim=1
    )


def write_sinusoids(model: LlavaForConditionalGeneration, tokenizer: PreTrainedTokenizerFast) -> None:
    """Start the embeddings: words small and random, locations as sinusoids of their value (random ones learn
    far slower).
    """
    table: torch.Tensor = model.get_input_embeddings().get_parameter("weight")
    first = tokenizer.get_vocab()["<loc_0>"]
    with torch.no_grad():
        table.normal_(0, 0.05)
        table[first : first + BINS] = sinusoids(WIDTH) * 0.05


def load_tower(tower: Mapping[str, torch.Tensor], target: nn.Module) -> None:
    """Load the weights of a CLIP vision tower into `target`, which may name them as CLIP or as OWL-ViT does.
    Every weight must find its place.
    """
    wanted = target.state_dict()
    spelled = "pre_layernorm" if any("pre_layernorm" in name for name in wanted) else "pre_layrnorm"
    target.load_state_dict({name.replace("pre_layrnorm", spelled): value for name, value in tower.items()})
