"""LocateAnything."""

from __future__ import annotations

from spr.dialects.codec import LinearCodec
from spr.dialects.family import Family, family
from spr.dialects.payloads import ANGLE_BOX, BARE_ANGLES, AngleReader, write_angles
from spr.dialects.tags import TagGrammar


def build() -> Family:
    """Grammar, codec, contract, prompts."""
    grammar = TagGrammar(
        ("<box>", "</box>"),
        AngleReader(),
        write_angles,
        ANGLE_BOX,
        ref=("<ref>", "</ref>"),
        several="repeat",
        absent="none",
        bare=BARE_ANGLES,
    )
    return family(
        grammar,
        LinearCodec(1000, 1000),
        "NVlabs/Eagle Embodied, LocateAnything",
        decode="v / 1000 * W",
        phrase="<ref> before",
        several="repeated <box>",
        rec="Locate a single instance that matches the following description: {expression}.",
        phrase_grounding="Locate all the instances that matches the following description: {phrases}.",
    )
