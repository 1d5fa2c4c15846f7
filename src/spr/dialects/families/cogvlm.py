"""CogVLM-grounding: three digits."""

from __future__ import annotations

from spr.dialects.brackets import BracketGrammar
from spr.dialects.codec import LinearCodec
from spr.dialects.family import Family, family


def build() -> Family:
    """Grammar, codec, contract, prompts."""
    return family(
        BracketGrammar(2, ",", ";", digits=3, glue=""),
        LinearCodec(1000, 999),
        "zai-org/CogVLM README",
        decode="int(v / 1000 * W)",
        phrase="before, guessed",
        several="[[a,b,c,d;e,f,g,h]]",
        grounded_caption="Can you provide a description of the image and include the coordinates "
        "[[x0,y0,x1,y1]] for each mentioned object?",
        rec="Where is {expression}? answer in [[x0,y0,x1,y1]] format.",
        region_caption="Tell me what you see within the designated area {region} in the picture.",
    )
