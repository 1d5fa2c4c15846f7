"""The tokenizers of the embedded models: byte-level BPE (lossless on any text) trained on the world's
sentences.

The MLLM has one token per location (`<loc_0>` … `<loc_999>`, not special: they are words of its answers), so
a box costs four tokens.
"""

from __future__ import annotations

from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from spr.scenes.language import corpus

BINS = 1000
SIZE = 700  # tokens of the BPE at most
SPECIAL = ("<pad>", "<s>", "</s>", "<image>", "<|user|>", "<|assistant|>")
CHAT_TEMPLATE = (
    "{{ '<s>' }}{% for message in messages %}{{ '<|' + message['role'] + '|>' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}{{ '<image>' }}"
    "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}"
    "{% if message['role'] == 'assistant' %}{{ '</s>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
_FAST: Any = PreTrainedTokenizerFast  # its constructor has no types


def _bpe(special: tuple[str, ...], add_prefix_space: bool) -> Tokenizer:
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(
        corpus(),
        trainers.BpeTrainer(
            vocab_size=SIZE, special_tokens=[*special], initial_alphabet=alphabet, show_progress=False
        ),
    )
    return core


def build_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer of the embedded MLLM, ready for save_pretrained."""
    core = _bpe(SPECIAL, add_prefix_space=False)
    core.add_tokens([AddedToken(f"<loc_{i}>", normalized=False, special=False) for i in range(BINS)])
    fast: PreTrainedTokenizerFast = _FAST(
        tokenizer_object=core,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        padding_side="left",
        extra_special_tokens={"image_token": "<image>"},
        clean_up_tokenization_spaces=False,
        model_max_length=2048,
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def build_text_tokenizer(length: int) -> PreTrainedTokenizerFast:
    """`<s> … </s>` for CLIP and the detector, padded right.

    `</s>` has the largest id, because OWL-ViT pools its text there, and not the id 2, which CLIP's code takes
    for an old mistake.
    """
    core = _bpe(("<pad>", "<s>"), add_prefix_space=True)
    core.add_special_tokens(["</s>"])
    ends = [(token, core.token_to_id(token)) for token in ("<s>", "</s>")]
    core.post_processor = TemplateProcessing(single="<s> $A </s>", special_tokens=ends)
    fast: PreTrainedTokenizerFast = _FAST(
        tokenizer_object=core,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        padding_side="right",
        truncation_side="right",
        model_max_length=length,
    )
    return fast
