"""Molmo (the first one): points in percent of the image, as in the example of its model card."""

from __future__ import annotations

from spr.dialects.codec import LinearCodec
from spr.dialects.family import Family, family
from spr.dialects.points import PointTagGrammar


def build() -> Family:
    """Grammar, codec, contract, prompts."""
    return family(
        PointTagGrammar(),
        LinearCodec(100, 100, decimals=1),
        "allenai/Molmo-7B-O-0924 discussion 1",
        decode="v / 100 * W",
        phrase="between the tags",
        several="x1 y1 x2 y2 in one <points>",
        writes=("points",),
        rec=("Locate {expression}.", "allenai/molmo data_formatter.py"),
    )
