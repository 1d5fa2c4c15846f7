"""What every protocol is made of: its question, how an answer becomes a `Prediction`, and its metrics as
columns that add up.

Judging depends on the item, the answer and the dialect only; metric options come after it, so that changing
them never runs a model again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from spr.boxes import iou, sanitize
from spr.dialects import Dialect
from spr.dialects.explain import told
from spr.errors import ConfigError
from spr.evaluation.items import Item
from spr.evaluation.rows import FileRow
from spr.evaluation.statistics import Floats, Table
from spr.types import Answer, Box, Frame, GroundedText, Prediction

NO_LIMIT = 1 << 30  # pixels
FAILED = "answer_failed: "  # before the reason, among the problems of a row


@dataclass(frozen=True, slots=True)
class Protocol:
    """One kind of question. `prompt` names one of the dialect's questions; `default_prompt` is used where the
    dialect has none of that name.
    """

    name: str
    prompt: str
    default_prompt: str
    max_new_tokens: int
    options: type
    tabulate: Callable[[Sequence[Prediction], Any], Table]
    needs: tuple[str, ...]  # fields of Item that must be given
    is_read: Callable[[Prediction], bool]  # False = unparsed
    judge: Callable[[Item, Answer, str, Dialect], list[Prediction]]
    phrased: bool = False  # every box has a phrase, every true box a name
    # the rows of boxes that somebody else has read, and that stand in one row
    spread: Callable[[Item, Prediction], list[Prediction]] = lambda item, row: [row]
    row: FileRow = None  # the form of its predictions.parquet; None: Prediction itself
    # columns of an item depend on the other items (CIDEr), so a split has a table of its own
    weighs_the_set: bool = False

    def reads(self, row: Prediction, options: Any) -> bool:
        """Whether an answer was read as these metric options mean it."""
        return self.is_read(row) or (counts_points(options) and bool(row.points))

    def template(self, dialect: Dialect, override: str | None) -> str:
        """The form of the question: the configuration's, the dialect's, or the default."""
        if override is not None:
            return override
        known = dialect.prompts.get(self.prompt)
        return known.text if known is not None else self.default_prompt


def counts_points(options: Any) -> bool:
    """Whether metric options ask for points, as those of REC can."""
    return bool(getattr(options, "points", False))


def question(template: str, item: Item, dialect: Dialect) -> str:
    """The question of an item. Fields: {expression}, {phrases} (the same), {region} (its box in the dialect),
    {a} and {b} (the choices).
    """
    region = dialect.box_text(item.region, item.frame) if item.region is not None else ""
    a, b = (*item.choices, "", "")[:2]
    try:
        return template.format(expression=item.expression, phrases=item.expression, region=region, a=a, b=b)
    except (KeyError, IndexError, ValueError) as e:
        raise ConfigError(
            f"prompt {template!r}: found {e}, expected only {{expression}}, {{phrases}}, {{region}}, "
            f"{{a}}, {{b}}"
        ) from None


def judge(item: Item, answer: Answer, protocol: str, dialect: Dialect) -> list[Prediction]:
    """The row of an answer: everything that was read in it, nothing decided yet."""
    g = dialect.parse(answer.text, item.frame)
    found = [(box, mention.phrase or "") for mention in g.mentions for box in mention.boxes]
    box = found[0][0] if found else None
    row = Prediction(
        item_id=full_id(item),
        protocol=protocol,
        split=item.split,
        image=item.image,
        expression=item.expression,
        gt=item.gt,
        answer=answer.text,
        box=box,
        iou=overlap(item.gt, box, item.frame),
        problems=problems_of(g, answer),
        width=item.width,
        height=item.height,
        group=item.group,
        region=item.region,
        gt_boxes=item.gt_boxes,
        truth=item.truth,
        boxes=tuple(b for b, _ in found),
        phrases=tuple(p for _, p in found),
        plain=g.plain,
        gt_phrases=item.gt_phrases,
        points=tuple(point for mention in g.mentions for point in mention.points),
    )
    return [row]


def full_id(item: Item) -> str:
    """The id of an item within its benchmark."""
    return f"{item.split}/{item.item_id}" if item.split else item.item_id


def problems_of(g: GroundedText, answer: Answer) -> tuple[str, ...]:
    """What was wrong with an answer, as identifiers: the dialect's problems ("kind" or "kind: what it is");
    "answer_failed: …"; "cut" by the token limit; "empty"; "no_box"; "points_only" in its place.
    """
    if answer.failed is not None:
        return (f"{FAILED}{answer.failed}",)
    found = [told(g, p) for p in g.problems]
    if not answer.stopped:
        found.append("cut")
    if not answer.text.strip():
        found.append("empty")
    elif not any(mention.boxes for mention in g.mentions):
        found.append("points_only" if any(mention.points for mention in g.mentions) else "no_box")
    return tuple(found)


def overlap(gt: Box | None, box: Box | None, frame: Frame) -> float | None:
    """IoU of two boxes after sorting and clipping both to the image; None when either is missing."""
    if gt is None or box is None:
        return None
    return iou(sanitize([gt], frame), sanitize([box], frame))


def frame_of(row: Prediction) -> Frame:
    """Size of the row's image; without limit where it is not known (then boxes are sorted but not
    clipped).
    """
    return Frame(row.width or NO_LIMIT, row.height or NO_LIMIT)


def why_failed(row: Prediction) -> str | None:
    """Why the model gave no answer at all ("<kind>: <detail>"); None where it gave one."""
    return next((p.removeprefix(FAILED) for p in row.problems if p.startswith(FAILED)), None)


def failed(row: Prediction) -> bool:
    """Whether the model gave no answer at all."""
    return why_failed(row) is not None


def has_box(row: Prediction) -> bool:
    """Whether a box was read."""
    return row.box is not None


def has_text(row: Prediction) -> bool:
    """Whether anything was said."""
    return bool(row.plain.strip())


_NO_PLACE = ("absent_marker", "no_box", "phrase_guessed", "tags_stripped", "draft_box", "cut")


def names_no_place(row: Prediction) -> bool:
    """An answer that was read and points to nothing: not empty, not failed, no readable and no broken box in
    it.
    """
    said = has_text(row) or "absent_marker" in row.problems
    return said and not row.boxes and all(p in _NO_PLACE for p in row.problems)


def column(values: Sequence[float]) -> Floats:
    """A column of a table."""
    return np.array(values, dtype=np.float64)


def length_columns(rows: Sequence[Prediction]) -> dict[str, Floats]:
    """Columns that every protocol has: n, boxes and words of each answer."""
    return {
        "n": np.ones(len(rows)),
        "boxes": column([len(r.boxes) for r in rows]),
        "words": column([len(r.plain.split()) for r in rows]),
    }
