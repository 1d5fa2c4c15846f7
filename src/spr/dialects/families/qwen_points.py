"""Qwen3-VL asked for points: `point_2d` beside `bbox_2d`."""

from __future__ import annotations

from spr.dialects.families import qwen3_vl
from spr.dialects.family import Family, family
from spr.dialects.json_objects import JsonGrammar


def build() -> Family:
    """Grammar, codec, contract, prompts."""
    _, codec, contract, _ = qwen3_vl.build()
    return family(
        JsonGrammar("bbox_2d", "point_2d"),
        codec,
        "QwenLM/Qwen3-VL cookbooks/2d_grounding.ipynb",
        encode=contract.encode,
        decode=contract.official_decode,
        phrase="JSON label",
        several="one object per box",
        writes=("boxes", "points"),
    )
