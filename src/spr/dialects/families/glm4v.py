"""GLM-4.1V to 4.6V: `<|begin_of_box|>[[x1,y1,x2,y2]]<|end_of_box|>`, bracket style as it comes, no label; or
JSON objects with a label on request.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from spr.dialects.brackets import N
from spr.dialects.codec import LinearCodec
from spr.dialects.family import Family, family
from spr.dialects.json_objects import JSON_MARK, JsonGrammar
from spr.dialects.layout import Layout, Written, blanked
from spr.dialects.payloads import Found, read_brackets
from spr.dialects.tags import TagGrammar

_BOX = re.compile(rf"(?<=[\[(<])\s*{N}(?:\s*,\s*{N}){{3}}\s*(?=[\])>])")
_OPENING = re.compile(r"[\[(<]")
_BARE = re.compile(r"\[[^\[\]]*\]")
_BEGIN, _END = "<|begin_of_box|>", "<|end_of_box|>"
_EMPTIED = re.compile(r"(<\|begin_of_box\|>)\s*(<\|end_of_box\|>)")


def _read(text: str, start: int, end: int) -> Found:
    """The markers hold any short answer: words or a number are no box."""
    found = read_brackets(text, start, end)
    return found if found[0] or _OPENING.search(text, start, end) else ([], [])


def _write(boxes: Sequence[Sequence[str]]) -> str:
    return "[" + ",".join("[" + ",".join(box) + "]" for box in boxes) + "]"


@dataclass(frozen=True)
class GlmGrammar:
    """Lists between the markers; JSON objects, between them or not. Their key is `bbox_2d`: `box_2d` was seen
    with both orders of the axes (roboflow/inference pull requests 2875 and 2906).
    """

    tags: TagGrammar = field(
        default=TagGrammar((_BEGIN, _END), _read, _write, _BOX, bare=_BARE), compare=False
    )
    json: JsonGrammar = field(default=JsonGrammar("bbox_2d"), compare=False)
    token_pattern: re.Pattern[str] = field(default=_BOX, compare=False)
    digits: int = 0
    marks: frozenset[str] = field(default=frozenset((_BEGIN, _END, JSON_MARK)), compare=False)

    def scan(self, text: str) -> Layout:
        """Objects first, then what is left."""
        objects, spans = self.json.objects(text) if "{" in text else (Layout(), [])
        if not spans:
            return self.tags.scan(text)
        around = [m.span(k) for m in _EMPTIED.finditer(blanked(text, spans)) for k in (1, 2)]
        layout = self.tags.scan(blanked(text, sorted(spans + around)))
        layout.add(objects)
        layout.markup += around
        layout.mentions.sort(key=lambda m: m.span)
        return layout

    def box_text(self, numbers: Sequence[str]) -> str:
        """A box between the markers."""
        return self.tags.box_text(numbers)

    def compose(self, parts: Sequence[Written]) -> str:
        """Boxes between markers. Raises DialectError for a label."""
        return self.tags.compose(parts)


def build() -> Family:
    """Grammar, codec, contract, prompts."""
    return family(
        GlmGrammar(),
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
