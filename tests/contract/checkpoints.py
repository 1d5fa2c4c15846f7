"""A tiny random checkpoint of each model family: its official config, model and processor classes, a
tokenizer trained on the spot, its chat template.

`build(name, folder)` writes one, as `save_pretrained` does; everything else loads it from there. Templates
are the families' own in their essentials (roles, image placeholder, generation prompt), without tools and
system messages.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers as t
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from spr.models.loading import save_checkpoint, without_video

CORPUS = [
    "Describe the objects in the region [10, 20, 300, 400] in detail, with their locations. Where is the "
    "dog? the cat next to the tree",
    'user assistant USER: ASSISTANT: {"bbox_2d": [1, 2, 3, 4], "label": "cat"} 0123456789 a small owl '
    "<ref> </ref> <box> </box>",
]
TEXT: Mapping[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}
SIGLIP: Mapping[str, Any] = {
    "model_type": "siglip_vision_model",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 56,
    "patch_size": 14,
    "vision_use_head": False,
}
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% for p in m['content'] %}{% if p['type'] == "
    "'image' %}IMAGE{% else %}{{ p['text'] }}"
    "{% endif %}{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt "
    "%}<|im_start|>assistant\n{% endif %}"
)
_FAST: Any = t.PreTrainedTokenizerFast


def tokenizer(
    special: Sequence[str], named: Mapping[str, str], start: str | None, end: str, template: str | None = None
) -> Any:
    """Byte-level BPE with the family's special tokens. `named` become attributes such as `image_token`."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    tokens = [
        AddedToken(s, special=True, normalized=False)
        for s in dict.fromkeys(["<pad>", "<unk>", *filter(None, [start]), end, *special])
    ]
    trainer: Any = trainers.BpeTrainer
    raw.train_from_iterator(
        CORPUS,
        trainer(
            vocab_size=420,
            special_tokens=tokens,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    fast = _FAST(
        tokenizer_object=raw,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token=start,
        eos_token=end,
        extra_special_tokens=dict(named),
    )
    fast.chat_template = template
    return fast


def _ids(tok: Any, **tokens: str) -> dict[str, int]:
    return {name: int(tok.convert_tokens_to_ids(token)) for name, token in tokens.items()}


def _ends(tok: Any) -> dict[str, int | None]:
    return {
        "vocab_size": len(tok),
        "pad_token_id": tok.pad_token_id,
        "bos_token_id": tok.bos_token_id,
        "eos_token_id": tok.eos_token_id,
    }


def _new(cls: Any, config: Any) -> Any:
    torch.manual_seed(3)
    return cls(config).float()


def _qwen_tokenizer() -> Any:
    names = {"image_token": "<|image_pad|>", "video_token": "<|video_pad|>"}
    special = ["<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", *names.values()]
    return tokenizer(
        special,
        names,
        None,
        "<|im_end|>",
        CHATML.replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|>"),
    )


_QWEN_TOKENS = {
    "image_token_id": "<|image_pad|>",
    "video_token_id": "<|video_pad|>",
    "vision_start_token_id": "<|vision_start|>",
    "vision_end_token_id": "<|vision_end|>",
}
_QWEN_VISION = {"depth": 2, "num_heads": 2, "hidden_size": 32, "intermediate_size": 48, "patch_size": 14}


def _qwen_processor(cls: Any, tok: Any, patch: int = 14) -> Any:
    size = {"shortest_edge": (2 * patch) ** 2, "longest_edge": 16 * (2 * patch) ** 2}
    images: Any = t.Qwen2VLImageProcessorPil(size=size, patch_size=patch, merge_size=2)
    return without_video(cls)(images, tok, chat_template=tok.chat_template)


def _mrope(section: list[int], **more: Any) -> dict[str, Any]:
    return {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": section, **more}


def qwen2_vl() -> tuple[Any, Any]:
    tok = _qwen_tokenizer()
    text = {**TEXT, **_ends(tok), "rope_parameters": _mrope([2, 3, 3])}
    vision = {
        "depth": 2,
        "num_heads": 2,
        "embed_dim": 32,
        "hidden_size": 32,
        "mlp_ratio": 2,
        "patch_size": 14,
    }
    config = t.Qwen2VLConfig(text_config=text, vision_config=vision, **_ids(tok, **_QWEN_TOKENS))
    return _new(t.Qwen2VLForConditionalGeneration, config), _qwen_processor(t.Qwen2VLProcessor, tok)


def qwen2_5_vl() -> tuple[Any, Any]:
    tok = _qwen_tokenizer()
    text = {**TEXT, **_ends(tok), "rope_parameters": _mrope([2, 3, 3])}
    vision = {**_QWEN_VISION, "out_hidden_size": 32, "fullatt_block_indexes": [1], "window_size": 56}
    config = t.Qwen2_5_VLConfig(text_config=text, vision_config=vision, **_ids(tok, **_QWEN_TOKENS))
    return _new(t.Qwen2_5_VLForConditionalGeneration, config), _qwen_processor(t.Qwen2_5_VLProcessor, tok)


def qwen3_vl() -> tuple[Any, Any]:
    tok = _qwen_tokenizer()
    text = {
        **TEXT,
        **_ends(tok),
        "head_dim": 16,
        "rope_parameters": _mrope([2, 3, 3], mrope_interleaved=True),
    }
    vision = {
        **_QWEN_VISION,
        "out_hidden_size": 32,
        "patch_size": 16,
        "num_position_embeddings": 16,
        "deepstack_visual_indexes": [0, 1],
    }
    config = t.Qwen3VLConfig(text_config=text, vision_config=vision, **_ids(tok, **_QWEN_TOKENS))
    return _new(t.Qwen3VLForConditionalGeneration, config), _qwen_processor(t.Qwen3VLProcessor, tok, 16)


def qwen3_5() -> tuple[Any, Any]:
    """One of two layers keeps a state instead of keys and values."""
    tok = _qwen_tokenizer()
    text = {
        **TEXT,
        **_ends(tok),
        "vocab_size": len(tok),
        "head_dim": 16,
        "layer_types": ["linear_attention", "full_attention"],
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "rope_parameters": _mrope([2, 1, 1], mrope_interleaved=True, partial_rotary_factor=0.5),
    }
    vision = {**_QWEN_VISION, "out_hidden_size": 32, "patch_size": 16, "num_position_embeddings": 16}
    config = t.Qwen3_5Config(text_config=text, vision_config=vision, **_ids(tok, **_QWEN_TOKENS))
    model = _new(t.Qwen3_5ForConditionalGeneration, config)
    return model, _qwen_processor(t.Qwen3VLProcessor, tok, 16)


def glm4v() -> tuple[Any, Any]:
    names = {"image_token": "<|image|>", "video_token": "<|video|>"}
    special = [
        *(
            "[gMASK]",
            "<sop>",
            "<|user|>",
            "<|assistant|>",
            "<|begin_of_image|>",
            "<|end_of_image|>",
            "<|begin_of_video|>",
            "<|end_of_video|>",
        ),
        *names.values(),
    ]
    template = (
        "[gMASK]<sop>{% for m in messages %}<|{{ m['role'] }}|>\n{% for p in m['content'] %}{% if "
        "p['type'] == 'image' %}<|begin_of_image|><|image|>"
        "<|end_of_image|>{% else %}{{ p['text'] }}{% endif %}{% endfor %}{% endfor %}{% if "
        "add_generation_prompt %}<|assistant|>\n{% endif %}"
    )
    tok = tokenizer(special, names, None, "<|endoftext|>", template)
    text = {**TEXT, **_ends(tok), "rope_parameters": _mrope([2, 3, 3], partial_rotary_factor=1.0)}
    vision = {**_QWEN_VISION, "out_hidden_size": 32, "image_size": 56}
    tokens = {
        **{
            "image_token_id": "<|image|>",
            "video_token_id": "<|video|>",
            "image_start_token_id": "<|begin_of_image|>",
        },
        **{
            "image_end_token_id": "<|end_of_image|>",
            "video_start_token_id": "<|begin_of_video|>",
            "video_end_token_id": "<|end_of_video|>",
        },
    }
    config = t.Glm4vConfig(text_config=text, vision_config=vision, **_ids(tok, **tokens))
    images: Any = t.Glm4vImageProcessorPil(
        size={"shortest_edge": 2 * 28**2, "longest_edge": 32 * 28**2}, patch_size=14, merge_size=2
    )
    return _new(t.Glm4vForConditionalGeneration, config), without_video(t.Glm4vProcessor)(
        images, tok, chat_template=template
    )


def internvl() -> tuple[Any, Any]:
    names = {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    }
    special = ["<|im_start|>", "<|im_end|>", *names.values()]
    tok = tokenizer(special, names, None, "<|im_end|>", CHATML.replace("IMAGE", "<IMG_CONTEXT>\n"))
    vision = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": [56, 56],
        "patch_size": [14, 14],
    }
    text = {**TEXT, **_ends(tok), "model_type": "qwen2"}
    config = t.InternVLConfig(
        text_config=text,
        vision_config=vision,
        image_seq_length=4,
        **_ids(tok, image_token_id="<IMG_CONTEXT>"),
    )
    images: Any = t.GotOcr2ImageProcessorPil(
        size={"height": 56, "width": 56}, crop_to_patches=True, max_patches=4
    )
    processor = without_video(t.InternVLProcessor)(
        images, tok, image_seq_length=4, chat_template=tok.chat_template
    )
    return _new(t.InternVLForConditionalGeneration, config), processor


def _llava_template() -> str:
    return (
        "{% for m in messages %}{{ m['role'].upper() }}: {% for p in m['content'] %}{% if p['type'] == "
        "'image' %}<image>\n{% else %}{{ p['text'] }}"
        "{% endif %}{% endfor %} {% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
    )


def llava_phi() -> tuple[Any, Any]:
    """LLaVA with a language model that computes in its weights' type throughout: others have RMS norms, which
    work in float32.
    """
    return llava("phi")


def llava(language: str = "llama") -> tuple[Any, Any]:
    tok = tokenizer(["<image>"], {"image_token": "<image>"}, "<s>", "</s>", _llava_template())
    vision = {
        **{k: v for k, v in SIGLIP.items() if k != "vision_use_head"},
        "model_type": "clip_vision_model",
    }
    text = {**TEXT, **_ends(tok), "model_type": language}
    config = t.LlavaConfig(
        text_config=text,
        vision_config=vision,
        image_seq_length=16,
        vision_feature_layer=-2,
        **_ids(tok, image_token_index="<image>"),
    )
    images: Any = t.CLIPImageProcessorPil(size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56})
    processor: Any = t.LlavaProcessor
    made = processor(
        images,
        tok,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=tok.chat_template,
    )
    return _new(t.LlavaForConditionalGeneration, config), made


def llava_onevision() -> tuple[Any, Any]:
    names = {"image_token": "<image>", "video_token": "<video>"}
    tok = tokenizer(
        ["<|im_start|>", "<|im_end|>", *names.values()],
        names,
        None,
        "<|im_end|>",
        CHATML.replace("IMAGE", "<image>\n"),
    )
    grid = [[56, 56], [56, 112], [112, 56], [112, 112]]
    config = t.LlavaOnevisionConfig(
        text_config={**TEXT, **_ends(tok), "model_type": "qwen2"},
        vision_config=dict(SIGLIP),
        image_grid_pinpoints=grid,
        **_ids(tok, image_token_index="<image>", video_token_index="<video>"),
    )
    images: Any = t.LlavaOnevisionImageProcessorPil(
        size={"height": 56, "width": 56}, image_grid_pinpoints=grid
    )
    cls = without_video(t.LlavaOnevisionProcessor)
    processor = cls(
        images,
        tok,
        num_image_tokens=16,
        vision_feature_select_strategy="full",
        chat_template=tok.chat_template,
    )
    return _new(t.LlavaOnevisionForConditionalGeneration, config), processor


def _idefics(tok_end: str = "<end_of_utterance>") -> Any:
    rows = [f"<row_{i}_col_{j}>" for i in range(1, 7) for j in range(1, 7)]
    names = {
        **{
            "image_token": "<image>",
            "fake_image_token": "<fake_token_around_image>",
            "global_image_token": "<global-img>",
        },
        **{"end_of_utterance_token": tok_end, "video_token": "<video>"},
    }
    template = (
        "<|im_start|>{% for m in messages %}{{ m['role'].capitalize() }}{% if m['content'][0]['type'] == "
        "'image' %}:{% else %}: {% endif %}"
        "{% for p in m['content'] %}{% if p['type'] == 'text' %}{{ p['text'] }}{% else %}<image>{% endif "
        "%}{% endfor %}<end_of_utterance>\n"
        "{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
    )
    return tokenizer([*names.values(), *rows], names, "<|im_start|>", tok_end, template)


def _idefics_vision() -> dict[str, Any]:
    return {
        **{"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2},
        **{"image_size": 56, "patch_size": 14},
    }


def idefics3() -> tuple[Any, Any]:
    tok = _idefics()
    text = {**TEXT, **_ends(tok), "model_type": "llama"}
    config = t.Idefics3Config(
        text_config=text,
        vision_config=_idefics_vision(),
        scale_factor=2,
        pad_token_id=tok.pad_token_id,
        **_ids(tok, image_token_id="<image>"),
    )
    images: Any = t.Idefics3ImageProcessorPil(size={"longest_edge": 112}, max_image_size={"longest_edge": 56})
    processor: Any = t.Idefics3Processor
    return _new(t.Idefics3ForConditionalGeneration, config), processor(
        images, tok, image_seq_len=4, chat_template=tok.chat_template
    )


def smolvlm() -> tuple[Any, Any]:
    tok = _idefics()
    text = {**TEXT, **_ends(tok), "model_type": "llama"}
    config = t.SmolVLMConfig(
        text_config=text,
        vision_config=_idefics_vision(),
        scale_factor=2,
        pad_token_id=tok.pad_token_id,
        **_ids(tok, image_token_id="<image>"),
    )
    images: Any = t.SmolVLMImageProcessorPil(size={"longest_edge": 112}, max_image_size={"longest_edge": 56})
    return _new(t.SmolVLMForConditionalGeneration, config), without_video(t.SmolVLMProcessor)(
        images, tok, None, image_seq_len=4, chat_template=tok.chat_template
    )


def paligemma() -> tuple[Any, Any]:
    tok = tokenizer(["<image>"], {"image_token": "<image>"}, "<bos>", "<eos>")
    images: Any = t.SiglipImageProcessorPil(size={"height": 56, "width": 56})
    images.image_seq_length = 16
    processor: Any = t.PaliGemmaProcessor
    made = processor(images, tok)  # adds 1024 location tokens
    text = {**TEXT, **_ends(tok), "model_type": "gemma", "head_dim": 16}
    config = t.PaliGemmaConfig(
        text_config=text,
        vision_config={**SIGLIP, "projection_dim": 32},
        projection_dim=32,
        hidden_size=32,
        vocab_size=len(tok),
        **_ids(tok, image_token_index="<image>"),
    )
    return _new(t.PaliGemmaForConditionalGeneration, config), made


def paligemma2() -> tuple[Any, Any]:
    """Gemma 2 writes: windows in every other layer, logits capped, no sdpa."""
    model, processor = paligemma()
    config = model.config.to_dict()
    text: dict[str, Any] = {**TEXT, **_ends(processor.tokenizer), "model_type": "gemma2", "head_dim": 16}
    more = {"query_pre_attn_scalar": 16, "sliding_window": 24, "vocab_size": len(processor.tokenizer)}
    made = t.PaliGemmaConfig(**{**config, "text_config": {**text, **more}})
    made._attn_implementation = "eager"
    return _new(t.PaliGemmaForConditionalGeneration, made), processor


def gemma3() -> tuple[Any, Any]:
    names = {
        "image_token": "<image_soft_token>",
        "boi_token": "<start_of_image>",
        "eoi_token": "<end_of_image>",
    }
    template = (
        "<bos>{% for m in messages %}<start_of_turn>{{ 'model' if m['role'] == 'assistant' else m['role'] "
        "}}\n{% for p in m['content'] %}"
        "{% if p['type'] == 'image' %}<start_of_image>{% else %}{{ p['text'] | trim }}{% endif %}{% endfor "
        "%}<end_of_turn>\n{% endfor %}"
        "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
    )
    tok = tokenizer(
        ["<start_of_turn>", "<end_of_turn>", *names.values()], names, "<bos>", "<end_of_turn>", template
    )
    text = {
        **TEXT,
        **_ends(tok),
        "head_dim": 16,
        "query_pre_attn_scalar": 16,
        "sliding_window": 24,
        "sliding_window_pattern": 2,
    }
    config = t.Gemma3Config(
        text_config=text,
        vision_config=dict(SIGLIP),
        mm_tokens_per_image=4,
        **_ids(
            tok,
            image_token_index="<image_soft_token>",
            boi_token_index="<start_of_image>",
            eoi_token_index="<end_of_image>",
        ),
    )
    images: Any = t.Gemma3ImageProcessorPil(size={"height": 56, "width": 56})
    processor: Any = t.Gemma3Processor
    model = _new(t.Gemma3ForConditionalGeneration, config)
    # starts at zero, which would hide the image
    torch.nn.init.normal_(model.model.multi_modal_projector.mm_input_projection_weight)
    return model, processor(images, tok, image_seq_length=4, chat_template=template)


def kosmos2() -> tuple[Any, Any]:
    tok = tokenizer([], {}, "<s>", "</s>")
    # square, as published
    images: Any = t.CLIPImageProcessorPil(
        size={"height": 56, "width": 56}, crop_size={"height": 56, "width": 56}
    )
    processor: Any = t.Kosmos2Processor
    made = processor(images, tok)  # adds 1024 patch tokens
    text = {
        **{"embed_dim": 32, "layers": 2, "ffn_dim": 48, "attention_heads": 2, "max_position_embeddings": 512},
        **_ends(tok),
    }
    vision = {k: v for k, v in SIGLIP.items() if k not in ("vision_use_head", "model_type")}
    config = t.Kosmos2Config(text_config=text, vision_config=vision, latent_query_num=64)
    return _new(t.Kosmos2ForConditionalGeneration, config), made


def florence2() -> tuple[Any, Any]:
    locations = [f"<loc_{i}>" for i in range(1000)]
    tok = tokenizer(["<image>", *locations], {"image_token": "<image>"}, "<s>", "</s>")
    images: Any = t.CLIPImageProcessorPil(size={"height": 64, "width": 64}, do_center_crop=False)
    images.image_seq_length = 5
    processor: Any = t.Florence2Processor
    made = processor(
        images,
        tok,
        post_processor_config={
            "ocr": {},
            "phrase_grounding": {},
            "pure_text": {},
            "description_with_bboxes": {},
        },
    )
    text = {
        **{
            "model_type": "bart",
            "d_model": 32,
            "encoder_layers": 2,
            "decoder_layers": 2,
            "encoder_attention_heads": 2,
        },
        **{
            "decoder_attention_heads": 2,
            "encoder_ffn_dim": 48,
            "decoder_ffn_dim": 48,
            "max_position_embeddings": 512,
            **_ends(tok),
        },
        "decoder_start_token_id": tok.eos_token_id,
    }
    vision = {
        **{
            "embed_dim": [8, 16, 32, 32],
            "num_heads": [1, 2, 2, 2],
            "num_groups": [1, 2, 2, 2],
            "depths": [1, 1, 1, 1],
            "projection_dim": 32,
        },
        "drop_path_rate": 0.0,
    }
    config = t.Florence2Config(text_config=text, vision_config=vision, **_ids(tok, image_token_id="<image>"))
    return _new(t.Florence2ForConditionalGeneration, config), made


# Described beside the families, by another road.
OTHERS: Mapping[str, Callable[[], tuple[Any, Any]]] = {"paligemma2": paligemma2, "qwen3_5": qwen3_5}
FAMILIES: Mapping[str, Callable[[], tuple[Any, Any]]] = {
    "qwen2_vl": qwen2_vl,
    "qwen2_5_vl": qwen2_5_vl,
    "qwen3_vl": qwen3_vl,
    "llava": llava,
    "llava_onevision": llava_onevision,
    "internvl": internvl,
    "idefics3": idefics3,
    "smolvlm": smolvlm,
    "paligemma": paligemma,
    "gemma3": gemma3,
    "kosmos2": kosmos2,
    "florence2": florence2,
    "glm4v": glm4v,
}
# Families of the paper and of docs/dialects.md that transformers 5.23 cannot run, with the reason.
NOT_IN_TRANSFORMERS: Mapping[str, str] = {
    "ferret": "transformers has no Ferret; apple/ml-ferret is its own code base",
    "cogvlm": "transformers has no CogVLM; the checkpoint brings its own code for an older version",
    "deepseek_vl2": "transformers has DeepSeek-VL, not DeepSeek-VL2",
}


def build(name: str, folder: Path) -> Path:
    """Write the random checkpoint of a family into `folder / name`, once."""
    path = folder / name
    if not (path / "config.json").exists():
        model, processor = {**FAMILIES, **OTHERS, "llava_phi": llava_phi}[name]()
        save_checkpoint(model, processor, path)
    return path
