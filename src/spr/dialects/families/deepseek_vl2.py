"""DeepSeek-VL2 and DeepSeek-OCR."""

from __future__ import annotations

from spr.dialects.codec import LinearCodec
from spr.dialects.family import Family, family, tagged_lists


def build() -> Family:
    """Grammar, codec, contract, prompts."""
    return family(
        tagged_lists(("<|ref|>", "<|/ref|>"), ("<|det|>", "<|/det|>")),
        LinearCodec(999, 999),
        "deepseek-ai/DeepSeek-VL2 utils.py and issue 100",
        decode="int(v / 999 * W)",
        phrase="<|ref|> before",
        several="[[..], [..]] in one <|det|>",
        rec="<|ref|>{expression}<|/ref|>.",
        grounded_caption=(
            "<|grounding|>Can you describe the content of the image?",
            "DeepSeek-VL2 paper, grounded conversation data",
        ),
    )
