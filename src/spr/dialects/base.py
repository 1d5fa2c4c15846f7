"""A dialect = a grammar (where numbers and phrases stand) + a contract (what the numbers mean).

In: any string and the size of the original image. Out: a `GroundedText`; edited texts; new texts. Reading is
total and linear: no string raises, and `render(parse(t)) == t`. Editing rewrites only the numbers of the
edited box, in the style observed around it. Box values are decoded floats exactly as written: never swapped,
clipped or guessed.
"""

from __future__ import annotations

import itertools
import math
import re
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

from spr.dialects.codec import Codec, Reader
from spr.dialects.contract import Contract, Prompt
from spr.dialects.foreign import has_other_tags, report_shapes, without_foreign
from spr.dialects.layout import Layout, RawMention, Written, blanked, cut_spans, merged
from spr.dialects.resize import frame_for
from spr.errors import DialectError
from spr.types import Box, Frame, GroundedText, Mention, Point, Problem, Span

# of a text to write: words, or a phrase with its boxes or points in pixels
Part: TypeAlias = str | tuple[str | None, Sequence[Box | Point]]
Edits: TypeAlias = Mapping[tuple[int, int], Box | None]
Change: TypeAlias = tuple[Span, str]  # what stands at a span from now on
# around what is not the answer yet
_DRAFT = re.compile(
    r"<(/?)(think(?:ing)?|thoughts?|reasoning|reflection|scratchpad|tool_calls?|tool_response|function_call)>"
    r"|◁(/?)(think)▷|\[(/?)(THINK)\]"
)
# what a decoder may leave of the chat
_TURN = re.compile(
    r"</?s>|<(?:eos|bos|pad|unk)>|</?answer>|<\|im_start\|>(?:assistant|user|system|tool)?"
    r"|<start_of_turn>(?:model|user)?|<end_of_turn>"
    r"|<\|(?:start_header_id|im_end|endoftext|eot_id|eom_id|end|end_of_text|begin_of_text|user|system)\|>"
    r"|<\|(?:assistant|observation|return)\|>|assistant<\|end_header_id\|>|<\|end_header_id\|>"
    r"|<｜(?:begin▁of▁sentence|end▁of▁sentence|User|Assistant)｜>|<\|(?:vision_start|vision_end|image_pad)\|>"
    r"|\[/?INST\]|</?image>|\A\s*ASSISTANT:"
)
_SIGN = re.compile(r"◁|(?:INST|THINK)\]|ASSISTANT:")  # without a tag
_FENCE = re.compile(r"```(?:\s*json\w*|\w+(?=\s))?", re.IGNORECASE)
# the whole answer is "there is none"
_ABSENT = re.compile(r"\s*((?:there (?:is|are) )?none|\[\s*\])\.?\s*", re.IGNORECASE)


_DECIMALS = 8  # ours: with more of them, a larger number would be too long to be read


class Grammar(Protocol):
    """The form of a notation, without the meaning of its numbers."""

    @property
    def token_pattern(self) -> re.Pattern[str]:
        """One match = the coordinate text of one box."""
        ...

    @property
    def digits(self) -> int:
        """Zero padding of written numbers; 0 = none."""
        ...

    @property
    def marks(self) -> frozenset[str]:
        """Its own tags; "{}" for JSON, "[" for lists, "()" for actions, "<0>" for number tokens, "<loc" for
        tokens so named.
        What has the marks of other notations is not read.
        """
        ...

    def scan(self, text: str) -> Layout:
        """Everything that stands in a text. Total and linear."""
        ...

    def box_text(self, numbers: Sequence[str]) -> str:
        """A single box as it is written in a prompt."""
        ...

    def compose(self, parts: Sequence[Written]) -> str:
        """A new text. Raises DialectError for what the notation cannot say."""
        ...


def _draft_spans(text: str) -> tuple[list[Span], list[Span]]:
    """Spans of thinking (drafts), and spans of stray tags. A text that only closes began inside its thought;
    an unclosed one never ends it.
    """
    drafts: list[Span] = []
    stray: list[Span] = []
    start, name, began = 0, "", False  # of the draft that is open
    for tag in _DRAFT.finditer(text):
        closing, kind = any(tag.group(1, 3, 5)), tag.group(2) or tag.group(4) or tag.group(6)
        if name and kind != name:
            continue  # a draft may hold anything
        if not closing and not name:
            start, name = tag.start(), kind
        elif closing and (name or not began):
            drafts.append((start if name else 0, tag.end()))
            name = ""
        else:
            stray.append(tag.span())
        began = True
    if name:
        drafts.append((start, len(text)))
    return drafts, stray


def splice(text: str, changes: Sequence[Change]) -> str:
    """The text with spans replaced; none overlap."""
    pieces, last = [], 0
    for (start, end), new in sorted(changes):
        pieces += [text[last:start], new]
        last = end
    return "".join([*pieces, text[last:]])


def _around(numbers: Sequence[Span]) -> Span:
    """From the first to the last of them; keys of their own may stand in any order."""
    return min(numbers)[0], max(numbers)[1]


def _glue(text: str, span: Span) -> str:
    """One blank where cutting a span would run two words together."""
    before, after = text[: span[0]][-1:], text[span[1] : span[1] + 1]
    return " " if before.isalnum() and after.isalnum() else ""


def _plain(text: str, layout: Layout) -> str:
    """The text without markup, with single blanks and none before a sign."""
    outer = sorted(span for span, _ in layout.replaced)
    starts = [start for start, _ in outer]

    def is_inside(span: Span) -> bool:
        k = bisect_right(starts, span[0]) - 1
        return k >= 0 and span[1] <= outer[k][1]

    cuts = [(span, " ") for span in merged([span for span in layout.markup if not is_inside(span)])]
    pieces, last = [], 0
    for (start, end), new in sorted([*layout.replaced, *cuts]):
        if start >= last:
            pieces += [text[last:start], new]
            last = end
    pieces.append(text[last:])
    return re.sub(r" ([.,;:!?)])", r"\1", " ".join("".join(pieces).split()))


@dataclass(frozen=True)
class Dialect:
    """How one model family writes boxes. Get one with `get_dialect(name)`.

    `contract` says what the numbers mean, `prompts` how the family is asked, `token_pattern` finds the
    coordinate text of one box per match.
    """

    name: str
    grammar: Grammar
    codec: Codec
    contract: Contract
    prompts: Mapping[str, Prompt] = field(default_factory=dict)
    official: bool = False  # encode with the published formula
    options: Mapping[str, Any] = field(default_factory=dict)
    # the last text with its layout: an edit needs the one that was read just before
    _last: tuple[str, Layout] | None = field(default=None, init=False, repr=False, compare=False)

    @property
    def token_pattern(self) -> re.Pattern[str]:
        """One match = the coordinate text of one box."""
        return self.grammar.token_pattern

    def model_size(self, frame: Frame) -> tuple[int, int]:
        """(width, height) of what the coordinates span. Raises ValueError for an image that the model cannot
        see.
        """
        return self.codec.size(frame)

    def frame_for(self, config: Any, frame: Frame) -> Frame:
        """The size that a processor gives to the image: an image processor, its configuration or its `size`.
        For Qwen2.5-VL's kind only.

        Raises DialectError for a family whose numbers do not depend on it, ValueError for an image that the
        processor refuses.
        """
        if self.codec.frame != "resized":
            raise DialectError(
                f"{self.name}: found coordinates of the {self.codec.frame} image, expected a family that "
                "writes pixels of the resized image"
            )
        return frame_for(config, frame)

    def __str__(self) -> str:
        return f"{self.name}: {self.contract}"

    # --- reading ----------------------------------------------------------------------------------

    def layout(self, text: str) -> Layout:
        """Where everything stands in a text, before numbers become pixels; drafts are only in its
        problems. Not to be changed: the next call may give the same one.
        """
        if self._last is not None and self._last[0] == text:
            return self._last[1]
        layout = self._scan(text)
        object.__setattr__(self, "_last", (text, layout))
        return layout

    def _scan(self, text: str) -> Layout:
        found = Layout()
        answer, drafts = self._answer(text, found)
        layout = self.grammar.scan(answer)
        layout.add(found)
        report_shapes(answer, self.grammar.marks, layout)
        absent = None if layout.mentions else _ABSENT.fullmatch(answer)
        if absent:
            layout.mentions.append(RawMention(None, (), absent.span(1)))
            layout.markup.append(absent.span())
            layout.problem("absent_marker", *absent.span(1))
        for start, end in drafts:
            inner = self.grammar.scan(text[start:end])
            layout.steps += inner.steps
            for mention in inner.mentions:
                for numbers in (*(box.numbers for box in mention.boxes), *mention.points):
                    first, last = _around(numbers)
                    layout.problem("draft_box", start + first, start + last)
        return layout

    def _answer(self, text: str, layout: Layout) -> tuple[str, list[Span]]:
        """The text with line ends for drafts, signs of the chat and other notations; where the drafts are."""
        marks, drafts = self.grammar.marks, list[Span]()
        layout.steps += 3 * len(text)
        if "```" in text:
            layout.markup += [fence.span() for fence in _FENCE.finditer(text)]
        if has_other_tags(text, marks) or _SIGN.search(text):
            drafts, stray = _draft_spans(text)
            for start, end in stray:
                layout.problem("tag_mismatch", start, end)
            layout.markup += [*drafts, *stray, *(turn.span() for turn in _TURN.finditer(text))]
        if layout.markup:
            text = blanked(text, merged(layout.markup))
        return without_foreign(text, marks, layout), drafts

    def _has_foreign(self, phrase: str) -> bool:
        """Whether a phrase holds what would not be read as words."""
        found = Layout()
        answer, _ = self._answer(phrase, found)
        report_shapes(answer, self.grammar.marks, found)
        return answer != phrase or bool(found.problems)

    def parse(self, text: str, frame: Frame) -> GroundedText:
        """Everything said in `text` about an image of size `frame`. Never raises, whatever the string."""
        layout = self.layout(text)
        problems = list(layout.problems)
        try:
            read = self.codec.reader(frame)
            mentions = tuple(self._mention(text, raw, read, problems) for raw in layout.mentions)
        except (ValueError, OverflowError):  # OverflowError: sides that no float can hold
            mentions = ()
            problems.append(Problem("frame_error", (0, len(text))))
        ordered = sorted(set(problems), key=lambda p: (p.span, p.kind))
        return GroundedText(text, _plain(text, layout), mentions, tuple(ordered), frame)

    def _mention(self, text: str, raw: RawMention, read: Reader, problems: list[Problem]) -> Mention:
        boxes = []
        for box in raw.boxes:
            decoded = self._decoded(text, box.numbers, read, problems)
            if decoded[0] > decoded[2] or decoded[1] > decoded[3]:
                problems.append(Problem("reversed", _around(box.numbers)))
            boxes.append(decoded)
        if not raw.points:
            return Mention(raw.phrase, tuple(boxes), raw.span)
        corners = (self._decoded(text, point * 2, read, problems) for point in raw.points)
        return Mention(raw.phrase, tuple(boxes), raw.span, tuple((x, y) for x, y, _, _ in corners))

    def _decoded(self, text: str, numbers: tuple[Span, ...], read: Reader, problems: list[Problem]) -> Box:
        """Four numbers (of a point: twice its two) in pixels."""
        written = [text[start:end] for start, end in numbers]
        values = list(map(float, written))
        box, fits = read(values)
        if not fits:
            problems.append(Problem("out_of_range", _around(numbers)))
        if max(values) < 2 and not self.codec.decimals and "." in "".join(written):  # fractions
            problems.append(Problem("non_box_payload", _around(numbers)))
        return box

    def coordinate_spans(self, text: str) -> list[Span]:
        """(start, end) of every number of every readable box and point of the answer, in order."""
        return self.layout(text).numbers()

    # --- writing ----------------------------------------------------------------------------------

    def render(self, g: GroundedText, frame: Frame) -> str:
        """The text of g, byte for byte. Raises DialectError for another frame: see `convert`."""
        if frame != g.frame:
            raise DialectError(
                f"{self.name}: found an image of {frame.width}x{frame.height}, expected the text's own "
                f"{g.frame.width}x{g.frame.height}; "
                "convert() moves a text to another frame"
            )
        return g.text

    def _numbers(
        self, box: Box | Point, frame: Frame, decimals: int, widths: Sequence[int] = ()
    ) -> list[str]:
        """The numbers of a box or a point as strings, with `decimals` and zero padding to `widths`."""
        what = "points" if len(box) == 2 else "boxes"
        if what not in self.contract.writes:
            raise DialectError(f"{self.name}: found {what}, expected {' or '.join(self.contract.writes)}")
        if not all(math.isfinite(v) for v in box):
            words = "point" if len(box) == 2 else "box"
            count = "two" if len(box) == 2 else "four"
            raise DialectError(
                f"{self.name}: found the {words} {tuple(box)}, expected {count} finite numbers of pixels"
            )
        corners = (*box, *box) if len(box) == 2 else box
        values = self.codec.encode(corners, frame, decimals, self.official)[: len(box)]
        return [
            f"{v:.{decimals}f}".zfill(width)
            for v, width in zip(values, widths or [self.grammar.digits] * len(values), strict=True)
        ]

    def restyled(self, text: str, numbers: Sequence[Span], box: Box | Point, frame: Frame) -> list[Change]:
        """What makes `box` out of the box (or the point) with these numbers in `text`, with the decimals and
        the zero padding found in it.
        """
        old = [text[start:end] for start, end in numbers]
        decimals = min(max(len(t.partition(".")[2]) for t in old), _DECIMALS) or self.codec.decimals
        padded = [len(t) for t in old if len(t) > 1 and t[0] == "0" and t[1] != "."]
        widths = [max([self.grammar.digits, *padded])] * len(old)
        return list(zip(numbers, self._numbers(box, frame, decimals, widths), strict=True))

    def replace_boxes(self, g: GroundedText, edits: Edits, frame: Frame) -> GroundedText:
        """A new grounded text in which box b of mention m is `edits[m, b]` (pixels), or gone (None). Other
        bytes stay.

        What looks like a box only because another one is gone goes too. Raises KeyError naming an unknown
        (m, b), DialectError for another frame or a box that is not finite.
        """
        text = self.render(g, frame)
        while edits:
            changes = self._changes(text, g, edits, frame)
            left = self._left(text, edits, changes) if None in edits.values() else None
            g = self.parse(splice(text, changes), frame)
            if left is None:
                break
            text = g.text
            edits = {
                (m, b): None
                for m, mention in enumerate(self.layout(text).mentions)
                for b, box in enumerate(mention.boxes)
                if box.numbers[0][0] not in left
            }
        return g

    def _left(self, text: str, edits: Edits, changes: Sequence[Change]) -> set[int]:
        """Where the boxes that stay begin, after changes."""
        ordered = sorted(changes)
        moved = itertools.accumulate((len(new) - (end - start) for (start, end), new in ordered), initial=0)
        shifts, ends = list(moved), [end for (_, end), _ in ordered]
        starts = (
            box.numbers[0][0]
            for m, mention in enumerate(self.layout(text).mentions)
            for b, box in enumerate(mention.boxes)
            if edits.get((m, b), box) is not None
        )
        return {start + shifts[bisect_right(ends, start)] for start in starts}

    def _changes(self, text: str, g: GroundedText, edits: Edits, frame: Frame) -> list[Change]:
        """What a text needs for these edits."""
        mentions = self.layout(text).mentions
        changes: list[Change] = []
        removed: dict[int, set[int]] = {}
        for (m, b), box in edits.items():
            if not (0 <= m < len(g.mentions) and 0 <= b < len(g.mentions[m].boxes)):
                raise KeyError((m, b))
            if box is None:
                removed.setdefault(m, set()).add(b)
            else:
                changes += self.restyled(text, mentions[m].boxes[b].numbers, box, frame)
        cuts = cut_spans(cut for m, gone in removed.items() for cut in mentions[m].cuts(gone))
        return changes + [(span, _glue(text, span)) for span in cuts]

    def box_text(self, box: Box | Point, frame: Frame) -> str:
        """How a region, or a point, is written in a prompt. Raises DialectError for what it cannot write."""
        return self.grammar.box_text(self._numbers(box, frame, self.codec.decimals))

    def compose(self, parts: Sequence[Part], frame: Frame) -> str:
        """A new text from strings and (phrase or None, boxes), in a dialect with points also (phrase or None,
        points). Raises DialectError for what the notation cannot say.
        """
        written: list[Written] = []
        for part in parts:
            if isinstance(part, str):
                written.append(part)
                continue
            phrase, boxes = part
            if phrase is not None and not phrase.strip():
                raise DialectError(
                    f"{self.name}: found the phrase {phrase!r}, expected words, or None for a box without "
                    "a phrase"
                )
            if phrase is not None and self._has_foreign(phrase):
                raise DialectError(
                    f"{self.name}: found a tag of the chat or of another notation in the phrase {phrase!r}, "
                    "expected none"
                )
            written.append((phrase, [self._numbers(box, frame, self.codec.decimals) for box in boxes]))
        try:
            return self.grammar.compose(written)
        except DialectError as e:
            raise DialectError(f"{self.name}: {e}") from None
