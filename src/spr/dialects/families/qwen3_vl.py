"""Qwen3-VL: the JSON of Qwen2.5-VL with relative thousandths."""

from __future__ import annotations

from spr.dialects.codec import LinearCodec
from spr.dialects.family import Family, family
from spr.dialects.json_objects import JsonGrammar


def build() -> Family:
    """Grammar, codec, contract, prompts."""
    locate = (
        'locate every instance that belongs to the following categories: "{}". Report bbox '
        "coordinates in JSON format."
    )
    return family(
        JsonGrammar("bbox_2d"),
        LinearCodec(1000, 1000, official=lambda x, side: round(x / side * 1000)),
        "QwenLM/Qwen3-VL cookbooks/2d_grounding.ipynb; issue 1741 has 0-999",
        encode="round(x / W * 1000)",
        decode="int(v / 1000 * W)",
        phrase="JSON label",
        several="one object per box",
        grounded_caption=(
            "Please first output bbox coordinates and names of every item in this image in JSON format.",
            "QwenLM/Qwen2.5-VL cookbook",
        ),
        rec=locate.format("{expression}"),
        phrase_grounding=locate.format("{phrases}"),
        region_caption=("What is inside {region}?", "QwenLM/Qwen3-VL issue 1927"),
    )
