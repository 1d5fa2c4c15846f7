"""Shikra: fractions of the padded square."""

from __future__ import annotations

from spr.dialects.brackets import BracketGrammar
from spr.dialects.codec import LinearCodec, square_size
from spr.dialects.family import Family, family


def build() -> Family:
    """Grammar, codec, contract, prompts."""
    return family(
        BracketGrammar(1, ",", ";", glue=""),
        LinearCodec(
            1,
            1,
            frame="padded to a square",
            decimals=3,
            official=lambda x, side: round(x / side, 3),
            size=square_size,
        ),
        "shikras/shikra config/_base_/dataset/template",
        encode="round(x / S, 3), clamped",
        decode="v * S - (S - W) // 2",
        phrase="before, guessed",
        several="[a,b,c,d;e,f,g,h]",
        grounded_caption="Can you provide a description of the image and include the coordinates "
        "[x0,y0,x1,y1] for each mentioned object?",
        rec="Where is {expression} in the image?",
        region_caption="Can you give me a description of the region {region} in image?",
    )
