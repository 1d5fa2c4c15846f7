"""MiniGPT-v2: hundredths."""

from __future__ import annotations

from spr.dialects.codec import LinearCodec
from spr.dialects.family import Family, family
from spr.dialects.payloads import ANGLE_BOX, BARE_ANGLES, AngleReader, write_angles
from spr.dialects.tags import TagGrammar


def build() -> Family:
    """Grammar, codec, contract, prompts."""
    grammar = TagGrammar(
        ("{", "}"),
        AngleReader(),
        write_angles,
        ANGLE_BOX,
        ref=("<p>", "</p>"),
        several="repeat",
        between="<delim>",
        glue=" ",
        extra=("<delim>",),
        bare=BARE_ANGLES,
        needs=("(?=<(?:-?[0-9]|\\Z))", "(?<=[0-9>])"),
    )
    return family(
        grammar,
        LinearCodec(100, 100, official=lambda x, side: int(x / side * 100)),
        "Vision-CAIR/MiniGPT-4 minigpt_v2 and eval_ref.py",
        encode="int(x / W * 100)",
        decode="v / 100 * W",
        phrase="<p> before",
        several="}<delim>{",
        grounded_caption="[grounding] please describe this image in details",
        rec="[refer] give me the location of {expression}",
        phrase_grounding="[detection] {phrases}",
        region_caption="[identify] what is this {region}",
    )
