"""A grounded text in another notation, or for another size of the image. Exports need it: the same answer for
a model that sees another frame.

In: a grounded text and the two dialects. Out: a new text. The same notation: numbers are rewritten in place
and every other byte stays. Another one: the words and the mentions are composed anew, without the markup of
the old notation.
"""

from __future__ import annotations

import re

from spr.dialects.base import Change, Dialect, Part, splice
from spr.dialects.layout import Layout
from spr.errors import DialectError
from spr.types import Box, Frame, GroundedText, Point

UNREADABLE = frozenset(
    ("truncated", "wrong_arity", "not_a_number", "non_box_payload", "draft_box", "frame_error")
)


def convert(g: GroundedText, frame: Frame, source: Dialect, target: Dialect) -> str:
    """The text of g as `target` writes it about an image of size `frame`: boxes keep their place relative to
    the image's sides.

    Raises DialectError for a box in g that cannot be read (it cannot be carried over) and for what the target
    cannot say.
    """
    if (source.name, source.options, g.frame) == (target.name, target.options, frame):
        return g.text
    for problem in g.problems:
        if problem.kind in UNREADABLE:
            start, end = problem.span
            raise DialectError(
                f"{source.name}: found {problem.kind} at {start}-{end} ({g.text[start:end][:40]!r}), "
                "expected readable boxes only"
            )
    sx, sy = frame.width / g.frame.width, frame.height / g.frame.height
    boxes = [[(x1 * sx, y1 * sy, x2 * sx, y2 * sy) for x1, y1, x2, y2 in m.boxes] for m in g.mentions]
    points = [[(x * sx, y * sy) for x, y in m.points] for m in g.mentions]
    layout = source.layout(g.text)
    if source.grammar == target.grammar:
        changes: list[Change] = []
        for raw, moved, shifted in zip(layout.mentions, boxes, points, strict=True):
            for old, box in zip(raw.boxes, moved, strict=True):
                changes += target.restyled(g.text, old.numbers, box, frame)
            for numbers, point in zip(raw.points, shifted, strict=True):
                changes += target.restyled(g.text, numbers, point, frame)
        return splice(g.text, changes)
    return target.compose(_parts(g, boxes, points, layout), frame)


def _words(text: str, start: int, end: int, visible: bytearray, layout: Layout) -> str:
    """The words between two mentions: those without markup, and the labels of things without a box."""
    words = "".join(text[i] for i in range(start, end) if visible[i])
    words = re.sub(r"\n\s*\n", "\n", words)  # markup leaves empty lines
    labels = ", ".join(label for at, label in layout.unboxed if start <= at < end)
    between = ", " if labels and start else ""
    return words + between + labels + (", " if labels and end < len(text) else "")


def _parts(g: GroundedText, boxes: list[list[Box]], points: list[list[Point]], layout: Layout) -> list[Part]:
    """Words without markup, and mentions; between two mentions something always stands."""
    visible = bytearray(b"\x01" * len(g.text))
    for start, end in [*layout.markup, *(span for span, _ in layout.replaced)]:
        visible[start:end] = bytes(end - start)
    parts: list[Part] = []
    last = 0
    for k, mention in enumerate(g.mentions):
        start, end = mention.span
        words = _words(g.text, last, start, visible, layout)
        parts.append(", " if k and words.strip() == "" else words)
        if boxes[k] or not points[k]:
            parts.append((mention.phrase, boxes[k]))
        if points[k]:
            parts += [", "] * bool(boxes[k]) + [(mention.phrase, points[k])]
        last = end
    parts.append(_words(g.text, last, len(g.text), visible, layout))
    return [part for part in parts if part != ""]
