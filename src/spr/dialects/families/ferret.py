"""Ferret v1 and Ferret-UI: plain text."""

from __future__ import annotations

from spr.dialects.brackets import BracketGrammar
from spr.dialects.codec import LinearCodec
from spr.dialects.family import Family, family


def build() -> Family:
    """Grammar, codec, contract, prompts."""
    return family(
        BracketGrammar(1, ", ", " "),
        LinearCodec(1000, 999, official=lambda x, side: int(min(max(x, 0), side - 1) * 1000 / side)),
        "apple/ml-ferret ferretui/constants.py",
        encode="int(x * 1000 / W), x clamped to [0, W - 1]",
        decode="int(v * W / 1000)",
        phrase="before, guessed",
        several="[..] [..]",
        grounded_caption="Describe the image in detail.\nInclude the coordinates for each mentioned object.",
        rec="What is the location of {expression} in the image?",
        phrase_grounding="What are the locations of {phrases}?",
    )
