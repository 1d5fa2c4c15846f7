"""GLM-4.1V to 4.6V: `<|begin_of_box|>[[x1,y1,x2,y2]]<|end_of_box|>`, bracket style as it comes, no label; or
JSON objects with a label on request.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from spr.dialects.brackets import N
from spr.dialects.codec import LinearCodec
from spr.dialects.family import Family, family
from spr.dialects.json_objects import JsonGrammar
from spr.dialects.mixed import MixedGrammar
from spr.dialects.payloads import Found, read_brackets
from spr.dialects.tags import TagGrammar

_BOX = re.compile(rf"(?<=[\[(<])\s*{N}(?:\s*,\s*{N}){{3}}\s*(?=[\])>])")
_OPENING = re.compile(r"[\[(<]")
_BARE = re.compile(r"\[[^\[\]]*\]")


def _read(text: str, start: int, end: int) -> Found:
    """The markers hold any short answer: words or a number are no box."""
    found = read_brackets(text, start, end)
    return found if found[0] or _OPENING.search(text, start, end) else ([], [])


def _write(boxes: Sequence[Sequence[str]]) -> str:
    return "[" + ",".join("[" + ",".join(box) + "]" for box in boxes) + "]"


def build() -> Family:
    """Grammar, codec, contract, prompts."""
    # the key is `bbox_2d`: `box_2d` was seen with both orders of the axes (roboflow/inference pull requests
    # 2875 and 2906)
    grammar = MixedGrammar(
        TagGrammar(("<|begin_of_box|>", "<|end_of_box|>"), _read, _write, _BOX, bare=_BARE),
        JsonGrammar("bbox_2d"),
    )
    return family(
        grammar,
        LinearCodec(1000, 1000, official=lambda x, side: round(x / side * 1000)),
        "zai-org/GLM-V issue 118 and inference examples",
        encode="round(x / W * 1000)",
        decode="v / 1000 * W",
        phrase="none (JSON label on request)",
        several="a list inside the markers",
        rec="Help me to locate {expression} in the image and give me its bounding boxes.",
        phrase_grounding="Please pinpoint the bounding box [[x1,y1,x2,y2], ...] in the image as per the "
        "given description. {phrases}",
    )
