"""Qwen2-VL."""

from __future__ import annotations

from spr.dialects.codec import LinearCodec
from spr.dialects.family import Family, family
from spr.dialects.payloads import BARE_PARENS, PAREN_BOX, read_parens, write_parens
from spr.dialects.tags import TagGrammar


def build() -> Family:
    """Grammar, codec, contract, prompts."""
    grammar = TagGrammar(
        ("<|box_start|>", "<|box_end|>"),
        read_parens,
        write_parens,
        PAREN_BOX,
        ref=("<|object_ref_start|>", "<|object_ref_end|>"),
        several="repeat",
        others=(("<|quad_start|>", "<|quad_end|>"),),
        bare=BARE_PARENS,
    )
    return family(
        grammar,
        LinearCodec(1000, 1000, official=lambda x, side: round(x / side * 1000)),
        "Qwen2-VL paper and cookbook",
        encode="round(x / W * 1000), clamped",
        decode="v * W / 1000",
        phrase="tag before",
        several="repeated box tags",
    )
