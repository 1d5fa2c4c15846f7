"""Gemini 2 and 3: y before x."""

from __future__ import annotations

from spr.dialects.codec import LinearCodec
from spr.dialects.family import Family, family
from spr.dialects.json_objects import JsonGrammar


def build() -> Family:
    """Grammar, codec, contract, prompts."""
    return family(
        JsonGrammar("box_2d"),
        LinearCodec(1000, 1000, order="yxyx"),
        "google-gemini/cookbook Spatial_understanding",
        decode="int(v / 1000 * W)",
        phrase="JSON label",
        several="one object per box",
    )
