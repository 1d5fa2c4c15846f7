"""Moondream: what its `detect` and `point` give, as JSON. The name is in the question, not in the answer."""

from __future__ import annotations

from spr.dialects.codec import LinearCodec
from spr.dialects.family import Family, family
from spr.dialects.json_objects import JsonGrammar


def build() -> Family:
    """Grammar, codec, contract, prompts."""
    return family(
        JsonGrammar("", sides=True),
        LinearCodec(1, 1, decimals=3),
        "moondream (PyPI) types.py",
        decode="v * W",
        phrase="none",
        several="one object per box",
        writes=("boxes", "points"),
    )
