"""All-Seeing v2: InternVL's bytes, another meaning."""

from __future__ import annotations

from spr.dialects.codec import LinearCodec, square_size
from spr.dialects.families import internvl
from spr.dialects.family import Family, family


def build() -> Family:
    """Grammar, codec, contract, prompts."""
    grammar, _, _, prompts = internvl.build()
    codec = LinearCodec(
        999, 999, frame="padded to a square", official=lambda x, side: int(x / side * 999), size=square_size
    )
    _, _, contract, _ = family(
        grammar,
        codec,
        "OpenGVLab/all-seeing issue 10",
        encode="int(x / S * 999)",
        decode="v / 999 * S - (S - W) // 2",
        phrase="<ref> before",
        several="[[..], [..]] in one <box>",
    )
    return grammar, codec, contract, prompts
