"""Molmo2: points in thousandths with three digits."""

from __future__ import annotations

from spr.dialects.codec import LinearCodec
from spr.dialects.family import Family, family
from spr.dialects.points import PointTagGrammar


def build() -> Family:
    """Grammar, codec, contract, prompts."""
    return family(
        PointTagGrammar(coords=True, digits=3),
        LinearCodec(1000, 1000),
        "allenai/mm_olmo grounding_formatter html-v2",
        decode="v / 1000 * W",
        phrase="between the tags",
        several="in one coords",
        writes=("points",),
        rec=("Locate {expression}.", "allenai/molmo data_formatter.py"),
    )
