"""InternVL 1.2 to 3.5."""

from __future__ import annotations

from spr.dialects.codec import LinearCodec
from spr.dialects.family import Family, family, tagged_lists


def build() -> Family:
    """Grammar, codec, contract, prompts."""
    return family(
        tagged_lists(("<ref>", "</ref>"), ("<box>", "</box>")),
        LinearCodec(1000, 1000, official=lambda x, side: int(x / side * 1000)),
        "OpenGVLab/InternVL issue 285 and eval/refcoco",
        encode="int(x / W * 1000)",
        decode="int(v / 1000 * W)",
        phrase="<ref> before",
        several="[[..], [..]] in one <box>",
        grounded_caption="Please detect and label all objects in the following image and mark their "
        "positions.",
        rec="Please provide the bounding box coordinate of the region this sentence describes: "
        "<ref>{expression}</ref>",
    )
