"""Qwen-VL; officials divide by 999 in evaluation and by 1000 when drawing."""

from __future__ import annotations

import functools

from spr.dialects.codec import LinearCodec
from spr.dialects.family import Family, family
from spr.dialects.payloads import BARE_PARENS, PAREN_BOX, read_parens, write_parens
from spr.dialects.tags import TagGrammar


def build(divisor: int = 999) -> Family:
    """Grammar, codec, contract, prompts."""
    grammar = TagGrammar(
        ("<box>", "</box>"),
        read_parens,
        write_parens,
        PAREN_BOX,
        ref=("<ref>", "</ref>"),
        several="repeat",
        others=(("<quad>", "</quad>"),),
        bare=BARE_PARENS,
    )
    return family(
        grammar,
        LinearCodec(divisor, divisor),
        "QwenLM/Qwen-VL eval_mm/evaluate_grounding.py (999)"
        if divisor == 999
        else "QwenLM/Qwen-VL tokenization_qwen.py (1000)",
        decode="v / 999 * W" if divisor == 999 else "int(v / 1000 * W)",
        phrase="<ref> before",
        several="repeated <box>",
        grounded_caption=("Generate the caption in English with grounding:", "QwenLM/Qwen-VL README"),
        rec=("<ref>{expression}</ref><box>", "QwenLM/Qwen-VL eval_mm/evaluate_grounding.py"),
    )


VARIANTS = {"999": build, "1000": functools.partial(build, 1000)}
