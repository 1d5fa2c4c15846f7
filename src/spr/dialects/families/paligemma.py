"""PaliGemma 1 and 2; officials decode by 1024 and by 1023."""

from __future__ import annotations

import functools

from spr.dialects.codec import LinearCodec
from spr.dialects.family import Family, family
from spr.dialects.locations import PaliGemmaGrammar


def build(divisor: int = 1024) -> Family:
    """Grammar, codec, contract, prompts."""
    return family(
        PaliGemmaGrammar(),
        LinearCodec(divisor, 1023, order="yxyx", official=lambda x, side: round(x / side * 1023)),
        "big_vision pp/proj/paligemma (encode), HF Space and blog (decode /1024)"
        if divisor == 1024
        else "big_vision evaluators (decode /1023)",
        encode="round(x / W * 1023), clipped",
        decode=f"v / {divisor} * W",
        phrase="label behind",
        several="repeat the item",
        rec="detect {expression}",
        phrase_grounding="detect {phrases}",
    )


VARIANTS = {"1024": build, "1023": functools.partial(build, 1023)}
