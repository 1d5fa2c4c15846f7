"""The three embedded architectures, all official classes of transformers with the same small vision tower.

In: nothing. Out: randomly initialised models and their processors; weights of the tower can move from one to another (`copy_tower`), which is how
the recipe trains the tower only once. 112 px, patch 14: 64 patches, width 192.
"""

from __future__ import annotations

import math
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
    Owlv2Config,
    Owlv2ForObjectDetection,
    Owlv2ImageProcessorPil,
    Owlv2Processor,
)

from spr.scenes.vocabulary import BINS, build_text_tokenizer, build_tokenizer

PIXELS, PATCH, WIDTH = 112, 14, 192
PATCHES = (PIXELS // PATCH) ** 2
TEXT_LENGTH = 64
_VISION: dict[str, Any] = {
    "hidden_size": WIDTH,
    "intermediate_size": 4 * WIDTH,
    "num_hidden_layers": 6,
    "num_attention_heads": 6,
    "image_size": PIXELS,
    "patch_size": PATCH,
}


def _text_config(vocabulary: int, layers: int, width: int, end: int) -> dict[str, Any]:
    return {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": 3 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "max_position_embeddings": TEXT_LENGTH,
        "pad_token_id": 0,
        "bos_token_id": 2,
        "eos_token_id": end,
    }


def _processor(cls: Any, *parts: Any, **settings: Any) -> Any:
    return cls(*parts, **settings)  # processors of transformers have no types


def build_detector() -> tuple[Owlv2ForObjectDetection, Any]:
    """The zero-shot detector: one box and one class embedding per patch."""
    tokenizer = build_text_tokenizer(8)
    text = _text_config(len(tokenizer), 1, 128, tokenizer.eos_token_id)
    config = Owlv2Config(text_config={**text, "max_position_embeddings": 8}, vision_config=_VISION, projection_dim=128)
    size = {"height": PIXELS, "width": PIXELS}
    return Owlv2ForObjectDetection(config), _processor(Owlv2Processor, Owlv2ImageProcessorPil(size=size), tokenizer)


def build_clip() -> tuple[CLIPModel, Any]:
    """The dual encoder: four layers of the tower, a small text transformer."""
    tokenizer = build_text_tokenizer(TEXT_LENGTH)
    text = _text_config(len(tokenizer), 2, 192, tokenizer.eos_token_id)
    vision = {**_VISION, "num_hidden_layers": 4}
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=192)
    return CLIPModel(config), _processor(CLIPProcessor, _image_processor(), tokenizer)


def _image_processor() -> CLIPImageProcessorPil:
    return CLIPImageProcessorPil(size={"shortest_edge": PIXELS}, crop_size={"height": PIXELS, "width": PIXELS})


def build_mllm() -> tuple[LlavaForConditionalGeneration, Any]:
    """The MLLM: CLIP tower, two-layer projector, Llama of six layers with tied embeddings."""
    tokenizer = build_tokenizer()
    language = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=512,
        num_hidden_layers=6,
        num_attention_heads=6,
        num_key_value_heads=6,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**_VISION),
        text_config=language,
        image_token_index=tokenizer.get_vocab()["<image>"],
        image_seq_length=PATCHES,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        tie_word_embeddings=True,
    )
    processor = _processor(
        LlavaProcessor,
        _image_processor(),
        tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=tokenizer.chat_template,
    )
    model = LlavaForConditionalGeneration(config)
    write_sinusoids(model, tokenizer)
    return model, processor


def write_sinusoids(model: LlavaForConditionalGeneration, tokenizer: Any) -> None:
    """Embeddings of the 2 x 1000 coordinate tokens start as sinusoids of the value, so that near values start near (random ones learn far slower)."""
    table: torch.Tensor = model.get_input_embeddings().get_parameter("weight")
    position = torch.arange(BINS).float()[:, None] / BINS * 64
    rate = torch.exp(torch.arange(0, WIDTH, 2).float() / WIDTH * -math.log(200.0))
    wave = torch.cat([torch.sin(position * rate), torch.cos(position * rate)], dim=1)
    wave = wave / wave.std() * table.std()
    first = torch.tensor([tokenizer.convert_tokens_to_ids(f" [{n}") for n in range(BINS)])
    later = torch.tensor([tokenizer.convert_tokens_to_ids(f", {n}") for n in range(BINS)])
    generator = torch.Generator().manual_seed(0)
    offset = torch.randn(2, WIDTH, generator=generator) * table.std() * 0.5
    with torch.no_grad():
        table[first] = wave + offset[0]
        table[later] = wave + offset[1]


def copy_tower(source: nn.Module, target: nn.Module) -> int:
    """Copy the vision transformer `source` into `target` (CLIP or OWL naming), as many layers as the target has. Returns how many tensors moved."""
    rename = {"pre_layernorm.": "pre_layrnorm."}
    wanted = target.state_dict()
    found = {}
    for name, value in source.state_dict().items():
        for old, new in rename.items():
            name = name.replace(old, new) if new.strip(".") in " ".join(wanted) else name
        if name in wanted and wanted[name].shape == value.shape:
            found[name] = value
    target.load_state_dict(found, strict=False)
    return len(found)
