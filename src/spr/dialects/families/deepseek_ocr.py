"""DeepSeek-OCR: the tags of DeepSeek-VL2, asked with words of its own."""

from __future__ import annotations

from spr.dialects.families import deepseek_vl2
from spr.dialects.family import Family, family


def build() -> Family:
    """Grammar, codec, contract, prompts."""
    grammar, codec, _, _ = deepseek_vl2.build()
    return family(
        grammar,
        codec,
        "deepseek-ai/DeepSeek-OCR README and run_dpsk_ocr_image.py",
        decode="int(v / 999 * W)",
        phrase="<|ref|> before",
        several="[[..], [..]] in one <|det|>",
        rec="Locate <|ref|>{expression}<|/ref|> in the image.",
    )
