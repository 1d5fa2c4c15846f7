"""The columns of predictions.parquet: what a row of each kind of task holds, so that every metric can be computed again from the file alone.

    boxes of one thing (rec, phrase grounding, …)   `Prediction` itself: gt and box are one box, iou is that of the sanitised box
    region_description                              `DescriptionRow`: gt and boxes are lists of boxes, each with its phrase
    questions answered in words                     `AnswerRow`: question, answer, reference, correct

In: rows as the protocols judge them (`Prediction`). Out: rows of a file, and back.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from spr.artifacts import Run, parquet_bytes
from spr.types import Box, Prediction


@dataclass(frozen=True, slots=True)
class DescriptionRow:
    """A description of a region. Boxes are pixels of the original image; `boxes` as parsed, unsanitised, each with its phrase ("" = none)."""

    item_id: str
    protocol: str
    split: str
    image: str
    width: int
    height: int
    region: Box | None
    question: str
    answer: str
    gt: tuple[Box, ...]
    gt_phrases: tuple[str, ...]  # as an annotator would say it; () where the file does not
    categories: tuple[str, ...]  # of gt
    boxes: tuple[Box, ...]
    phrases: tuple[str, ...]
    problems: tuple[str, ...]
    plain: str
    group: str

    @classmethod
    def of(cls, p: Prediction, correct: bool) -> DescriptionRow:
        """The row of the file."""
        about = (p.item_id, p.protocol, p.split, p.image, p.width, p.height, p.region, p.question, p.answer)
        return cls(*about, p.gt_boxes, p.gt_phrases, p.truth, p.boxes, p.phrases, p.problems, p.plain, p.group)

    def prediction(self) -> Prediction:
        """The row as the protocol judged it."""
        return Prediction(
            item_id=self.item_id,
            protocol=self.protocol,
            split=self.split,
            image=self.image,
            expression="",
            gt=None,
            answer=self.answer,
            box=self.boxes[0] if self.boxes else None,
            iou=None,
            problems=self.problems,
            width=self.width,
            height=self.height,
            group=self.group,
            region=self.region,
            gt_boxes=self.gt,
            truth=self.categories,
            boxes=self.boxes,
            phrases=self.phrases,
            plain=self.plain,
            question=self.question,
            gt_phrases=self.gt_phrases,
        )


@dataclass(frozen=True, slots=True)
class AnswerRow:
    """An answer in words. `reference` is the right one, `accepted` all that count as right (with synonyms)."""

    item_id: str
    protocol: str
    split: str
    image: str
    width: int
    height: int
    region: Box | None
    question: str
    answer: str
    reference: str
    accepted: tuple[str, ...]
    correct: bool
    problems: tuple[str, ...]
    plain: str
    group: str
    expression: str
    boxes: tuple[Box, ...]
    phrases: tuple[str, ...]

    @classmethod
    def of(cls, p: Prediction, correct: bool) -> AnswerRow:
        """The row of the file."""
        about = (p.item_id, p.protocol, p.split, p.image, p.width, p.height, p.region, p.question, p.answer)
        return cls(*about, p.truth[0] if p.truth else "", p.truth, correct, p.problems, p.plain, p.group, p.expression, p.boxes, p.phrases)

    def prediction(self) -> Prediction:
        """The row as the protocol judged it."""
        return Prediction(
            item_id=self.item_id,
            protocol=self.protocol,
            split=self.split,
            image=self.image,
            expression=self.expression,
            gt=None,
            answer=self.answer,
            box=self.boxes[0] if self.boxes else None,
            iou=None,
            problems=self.problems,
            width=self.width,
            height=self.height,
            group=self.group,
            region=self.region,
            truth=self.accepted,
            boxes=self.boxes,
            phrases=self.phrases,
            plain=self.plain,
            question=self.question,
        )


FileRow: TypeAlias = type[DescriptionRow] | type[AnswerRow] | None  # None: Prediction itself


def row_type(columns: Collection[str]) -> FileRow:
    """What kind of rows a file with these columns holds."""
    if "correct" in columns:
        return AnswerRow
    return DescriptionRow if "gt_phrases" in columns and "gt_boxes" not in columns else None


def write_predictions(run: Run, rows: Sequence[Prediction], row: FileRow, correct: Sequence[bool], *where: str) -> None:
    """Write predictions.parquet in the form of its task, unless it is there as it should be: a finished run stays as it is."""
    found = rows if row is None else [row.of(p, c) for p, c in zip(rows, correct, strict=True)]
    data = parquet_bytes(found, row or Prediction)
    if not run.exists(*where, "predictions.parquet") or run.read_bytes(*where, "predictions.parquet") != data:
        run.write_bytes(data, *where, "predictions.parquet")


def read_predictions(run: Run, *where: str) -> list[Prediction]:
    """The rows of a predictions.parquet, whatever its task."""
    row = row_type(run.columns(*where, "predictions.parquet"))
    if row is None:
        return run.read_rows(Prediction, *where, "predictions.parquet")
    return [r.prediction() for r in run.read_rows(row, *where, "predictions.parquet")]
