"""LLaVA-1.5: fractions of the padded square, two decimals. Not padded: LLaVA-OneVision, taken to span the
original image (unverified).
"""

from __future__ import annotations

import functools

from spr.dialects.brackets import BracketGrammar
from spr.dialects.codec import LinearCodec, square_size
from spr.dialects.family import Family, family


def build(padded: bool = True) -> Family:
    """Grammar, codec, contract, prompts."""
    side = "S" if padded else "W"
    codec = LinearCodec(1, 1, decimals=2, official=lambda x, side: round(x / side, 2))
    if padded:
        codec = LinearCodec(
            1, 1, frame="padded to a square", decimals=2, official=codec.official, size=square_size
        )
    return family(
        BracketGrammar(1, ", ", " "),
        codec,
        "haotian-liu/LLaVA issue 606; TRI-ML/vlm-evaluation 16"
        if padded
        else "LLaVA-OneVision: no source says which frame",
        encode=f"round(x / {side}, 2)",
        decode="v * S - (S - W) // 2" if padded else "v * W",
        phrase="before, guessed",
        several="none documented",
        verified=padded,
        rec=(
            "Please provide the bounding box coordinate of the region this sentence describes: {expression}",
            "LLaVA-1.5 data mix",
        ),
        region_caption=(
            "Please provide a short description for this region: {region}.",
            "LLaVA-1.5 data mix",
        ),
    )


VARIANTS = {"original": functools.partial(build, False)}
