"""Tiny random dual encoders and detectors: official configs, models and processors, word tokenizers made on
the spot.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers as t
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from tokenizers.processors import TemplateProcessing

from spr.models.loading import save_checkpoint

WORDS = [
    "a",
    "the",
    "small",
    "large",
    "dog",
    "cat",
    "owl",
    "tree",
    "pig",
    "next",
    "to",
    "and",
    "there",
    "is",
    "leftmost",
    "of",
    "in",
    "on",
    "with",
    ",",
    ".",
    "?",
    "!",
]
TINY: Mapping[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
_FAST: Any = t.PreTrainedTokenizerFast


def words(
    start: str, end: str, ids: Mapping[str, int] | None = None, length: int = 16, names: tuple[str, ...] = ()
) -> Any:
    """A lower-case word tokenizer `start … end`. `ids` fixes some ids; OWL and CLIP pool at the largest id,
    so `end` is last without it.
    """
    tokens = ["<pad>", "<unk>", start, *WORDS, end]
    vocabulary = dict(ids or {})
    free = (i for i in range(10_000) if i not in vocabulary.values())
    for token in tokens:
        if token not in vocabulary:
            vocabulary[token] = next(free)
    raw = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    raw.normalizer = normalizers.Lowercase()
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    raw.post_processor = TemplateProcessing(
        single=f"{start} $A {end}", special_tokens=[(s, vocabulary[s]) for s in (start, end)]
    )
    fast = _FAST(
        tokenizer_object=raw,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token=start,
        eos_token=end,
        model_max_length=length,
    )
    if names:
        fast.model_input_names = list(names)
    return fast


def _new(cls: Any, config: Any) -> Any:
    torch.manual_seed(3)
    model = cls(config).float()
    # dual encoders start so small that all texts look alike, OWL's heads so large that all scores are 0 or 1
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.mul_(0.1 if "_head" in name and "head.probe" not in name else 3.0 if p.ndim > 1 else 1.0)
    return model


def _text(tok: Any) -> dict[str, Any]:
    ends = {
        "vocab_size": 64,
        "pad_token_id": tok.pad_token_id,
        "bos_token_id": tok.bos_token_id,
        "eos_token_id": tok.eos_token_id,
    }
    return {**TINY, **ends, "max_position_embeddings": 16}


def clip() -> tuple[Any, Any]:
    tok = words("<s>", "</s>")
    config = t.CLIPConfig(
        text_config=_text(tok), vision_config={**TINY, "image_size": 56, "patch_size": 14}, projection_dim=16
    )
    images: Any = t.CLIPImageProcessorPil(size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56})
    processor: Any = t.CLIPProcessor
    return _new(t.CLIPModel, config), processor(images, tok)


def metaclip_2() -> tuple[Any, Any]:
    tok = words("<s>", "</s>")
    config = t.MetaClip2Config(
        text_config=_text(tok), vision_config={**TINY, "image_size": 56, "patch_size": 14}, projection_dim=16
    )
    images: Any = t.CLIPImageProcessorPil(size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56})
    processor: Any = t.CLIPProcessor
    return _new(t.MetaClip2Model, config), processor(images, tok)


def siglip() -> tuple[Any, Any]:
    tok = words("<s>", "</s>", names=("input_ids",))
    text = {**_text(tok), "projection_size": 32}
    config = t.SiglipConfig(text_config=text, vision_config={**TINY, "image_size": 56, "patch_size": 14})
    images: Any = t.SiglipImageProcessorPil(size={"height": 56, "width": 56})
    processor: Any = t.SiglipProcessor
    return _new(t.SiglipModel, config), processor(images, tok)


def siglip2() -> tuple[Any, Any]:
    """NaFlex: the picture keeps its shape; up to 16 patches, the rest is padding."""
    tok = words("<s>", "</s>", names=("input_ids",))
    text = {**_text(tok), "projection_size": 32}
    config = t.Siglip2Config(text_config=text, vision_config={**TINY, "num_patches": 16, "patch_size": 14})
    images: Any = t.Siglip2ImageProcessorPil(patch_size=14, max_num_patches=16)
    processor: Any = t.Siglip2Processor
    return _new(t.Siglip2Model, config), processor(images, tok)


def owlvit() -> tuple[Any, Any]:
    tok = words("<s>", "</s>")
    vision = {**TINY, "image_size": 56, "patch_size": 14}
    config = t.OwlViTConfig(text_config=_text(tok), vision_config=vision, projection_dim=32)
    images: Any = t.OwlViTImageProcessorPil(size={"height": 56, "width": 56}, do_center_crop=False)
    processor: Any = t.OwlViTProcessor
    return _new(t.OwlViTForObjectDetection, config), processor(images, tok)


def owlv2() -> tuple[Any, Any]:
    tok = words("<s>", "</s>")
    vision = {**TINY, "image_size": 56, "patch_size": 14}
    config = t.Owlv2Config(text_config=_text(tok), vision_config=vision, projection_dim=32)
    images: Any = t.Owlv2ImageProcessorPil(size={"height": 56, "width": 56})
    processor: Any = t.Owlv2Processor
    return _new(t.Owlv2ForObjectDetection, config), processor(images, tok)


def _dino(config_class: Any, model_class: Any) -> tuple[Any, Any]:
    # BERT's ids, which the model knows by heart
    tok = words("[CLS]", "[SEP]", {"[CLS]": 101, "[SEP]": 102, ".": 1012, "?": 1029}, length=512)
    text = t.BertConfig(**TINY, vocab_size=1100, max_position_embeddings=64, pad_token_id=tok.pad_token_id)
    vision = t.SwinConfig(
        embed_dim=16,
        depths=[1, 1, 1, 1],
        num_heads=[1, 2, 2, 2],
        window_size=4,
        patch_size=4,
        image_size=64,
        out_features=["stage2", "stage3", "stage4"],
    )
    config = config_class(
        backbone_config=vision,
        text_config=text,
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_ffn_dim=48,
        decoder_ffn_dim=48,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        num_queries=12,
        num_feature_levels=4,
        max_text_len=12,
        fusion_dropout=0.0,
        fusion_droppath=0.0,
    )
    images: Any = t.GroundingDinoImageProcessorPil(size={"shortest_edge": 64, "longest_edge": 96})
    processor: Any = t.GroundingDinoProcessor
    torch.manual_seed(3)
    return model_class(config).float(), processor(images, tok)


def grounding_dino() -> tuple[Any, Any]:
    return _dino(t.GroundingDinoConfig, t.GroundingDinoForObjectDetection)


def mm_grounding_dino() -> tuple[Any, Any]:
    return _dino(t.MMGroundingDinoConfig, t.MMGroundingDinoForObjectDetection)


SCORERS: Mapping[str, Callable[[], tuple[Any, Any]]] = {
    "clip": clip,
    "metaclip_2": metaclip_2,
    "siglip": siglip,
    "siglip2": siglip2,
}
DETECTORS: Mapping[str, Callable[[], tuple[Any, Any]]] = {
    "owlvit": owlvit,
    "owlv2": owlv2,
    "grounding_dino": grounding_dino,
    "mm_grounding_dino": mm_grounding_dino,
}


def build(name: str, folder: Path) -> Path:
    """Write the random checkpoint into `folder / name`, once."""
    path = folder / name
    if not (path / "config.json").exists():
        model, processor = {**SCORERS, **DETECTORS}[name]()
        save_checkpoint(model, processor, path)
    return path
