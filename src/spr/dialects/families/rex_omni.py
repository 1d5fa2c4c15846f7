"""Rex-Omni."""

from __future__ import annotations

from spr.dialects.codec import LinearCodec
from spr.dialects.family import Family, family
from spr.dialects.payloads import ANGLE_BOX, BARE_ANGLES, AngleReader, write_angles
from spr.dialects.tags import TagGrammar


def build() -> Family:
    """Grammar, codec, contract, prompts."""
    grammar = TagGrammar(
        ("<|box_start|>", "<|box_end|>"),
        AngleReader(point=2),
        write_angles,
        ANGLE_BOX,
        ref=("<|object_ref_start|>", "<|object_ref_end|>"),
        absent="None",
        bare=BARE_ANGLES,
    )
    detect = "Detect {}. Output the bounding box coordinates in [x0, y0, x1, y1] format."
    return family(
        grammar,
        LinearCodec(999, 999, official=lambda x, side: int(x / side * 999)),
        "IDEA-Research/Rex-Omni",
        encode="int(x / W * 999)",
        decode="v / 999 * W",
        phrase="tag before",
        several="comma inside the tag",
        rec=detect.format("{expression}"),
        phrase_grounding=detect.format("{phrases}"),
    )
