"""Families that answer in tags, or in JSON on request: GLM, Seed, UI-TARS. UI-TARS also acts:
`click(point='<point>312 480</point>')`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from spr.dialects.brackets import numbers_in
from spr.dialects.foreign import CALL, CALL_MARK
from spr.dialects.json_objects import JSON_MARK, JsonGrammar
from spr.dialects.layout import (
    Container,
    Layout,
    RawBox,
    RawMention,
    RawPoint,
    Written,
    blanked,
    with_blank,
)
from spr.dialects.tags import TagGrammar

# of an action: where it begins and ends
_ARGUMENT = re.compile(
    r"\b(?:start_box|end_box|start_point|end_point|point)\s*=\s*(?:'([^']*)'|\"([^\"]*)\")(?:,\s*)?"
)
# the value of an argument: numbers in tags or brackets
_PLACE = re.compile(r"(?:<\|?\w+\|?>|[\s\[(])*+([-0-9.,;\s]*)(?:<\|?/?\w+\|?>|[\s\])])*+")


@dataclass(frozen=True)
class MixedGrammar:
    """Actions first (`calls`), then objects, then tags in what is left. `tags_in_json`: values of JSON hold
    the tags too: `"bbox": "<bbox>1 2 3 4</bbox>"`.
    """

    tags: TagGrammar
    json: JsonGrammar
    tags_in_json: bool = False
    calls: bool = False
    digits: int = 0

    @cached_property
    def marks(self) -> frozenset[str]:
        """Tags and objects; bare lists have no meaning."""
        return self.tags.marks | {JSON_MARK} | ({CALL_MARK} if self.calls else set())

    @property
    def token_pattern(self) -> re.Pattern[str]:
        """The coordinate text of one box, in its tags."""
        return self.tags.token_pattern

    @cached_property
    def _own(self) -> re.Pattern[str]:
        pairs = (self.tags.box, self.tags.point or self.tags.box)
        return re.compile("|".join(re.escape(tag) for pair in pairs for tag in pair))

    @cached_property
    def _emptied(self) -> re.Pattern[str]:
        opening, closing = map(re.escape, self.tags.box)
        return re.compile(rf"({opening})\s*({closing})")

    def scan(self, text: str) -> Layout:
        """What is said in each of the three forms."""
        layout = self._calls(text) if self.calls else Layout()
        if layout.mentions:
            text = blanked(text, [span for span, _ in layout.replaced])
        if "{" in text:
            inner = text
            if self.tags_in_json:
                inner = blanked(text, [m.span() for m in self._own.finditer(text)])
            objects, spans = self.json.objects(inner)
            around = [m.span(k) for m in self._emptied.finditer(blanked(text, spans)) for k in (1, 2)]
            text = blanked(text, sorted(spans + around))
            layout.add(objects)
            layout.markup += around
        layout.add(self.tags.scan(text))
        layout.mentions.sort(key=lambda mention: mention.span)
        return layout

    def _calls(self, text: str) -> Layout:
        """Actions with the points and boxes of their arguments."""
        layout = Layout(steps=4 * len(text))
        for call in CALL.finditer(text):
            span = call.span()
            points, boxes = list[RawPoint](), list[RawBox]()
            for argument in _ARGUMENT.finditer(text, *span):
                place = _PLACE.fullmatch(text, *argument.span(1 if argument.group(1) is not None else 2))
                numbers = numbers_in(text, *place.span(1)) if place else None
                if numbers is None:
                    layout.problem("not_a_number", *argument.span())
                elif len(numbers) == 4:
                    boxes.append(RawBox(tuple(numbers), argument.span()))
                elif len(numbers) == 2:
                    points.append((numbers[0], numbers[1]))
                else:
                    layout.problem("wrong_arity", *argument.span())
            layout.replaced.append((span, " "))
            containers = (Container(with_blank(text, *span), tuple(boxes)),) if boxes else ()
            if points or boxes:
                layout.mentions.append(RawMention(None, containers, span, points=tuple(points)))
            else:
                layout.problem("non_box_payload", *span)
        return layout

    def box_text(self, numbers: Sequence[str]) -> str:
        """A box, or a point, in its tags."""
        return self.tags.box_text(numbers)

    def compose(self, parts: Sequence[Written]) -> str:
        """Places in tags. Raises DialectError for a label that they have no place for."""
        return self.tags.compose(parts)
