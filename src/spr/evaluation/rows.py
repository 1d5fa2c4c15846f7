"""The columns of predictions.parquet: what a row of each kind of task holds, so that every metric can be
computed again from the file alone.

    boxes of one thing (rec, phrase grounding, …)   `Prediction` itself: gt and box are one box, iou is that
                                                    of the sanitised box
    region_description                              `DescriptionRow`: gt and boxes are lists of boxes, each
                                                    with its phrase
    questions answered in words                     `AnswerRow`: question, answer, reference, correct

In: rows as the protocols judge them (`Prediction`). Out: rows of a file, and back.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from spr.store.folders import PREDICTIONS
from spr.store.run import Run
from spr.store.tables import parquet_bytes
from spr.types import Box, Prediction


@dataclass(frozen=True, slots=True)
class DescriptionRow:
    """A description of a region. Boxes are pixels of the original image; `boxes` as parsed, unsanitised, each
    with its phrase ("" = none).
    """

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


@dataclass(frozen=True, slots=True)
class AnswerRow:
    """An answer in words. `reference` is the right one, `accepted` all that count as right (with
    synonyms).
    """

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


# columns with a name of their own
_OF_PREDICTION: Mapping[str, str] = {"gt": "gt_boxes", "categories": "truth", "accepted": "truth"}
_DERIVED = ("reference", "correct")  # columns that follow from the others and the metric options


def file_row(
    row: type[DescriptionRow] | type[AnswerRow], p: Prediction, correct: bool
) -> DescriptionRow | AnswerRow:
    """A judged row in the form of its file."""
    derived = {"reference": p.truth[0] if p.truth else "", "correct": correct}
    values: dict[str, Any] = {
        f.name: derived[f.name] if f.name in _DERIVED else getattr(p, _OF_PREDICTION.get(f.name, f.name))
        for f in dataclasses.fields(row)
    }
    return row(**values)


def judged(row: DescriptionRow | AnswerRow) -> Prediction:
    """A row of a file as the protocol judged it."""
    names = [f.name for f in dataclasses.fields(row) if f.name not in _DERIVED]
    values: dict[str, Any] = {_OF_PREDICTION.get(name, name): getattr(row, name) for name in names}
    return Prediction(
        **{"expression": "", "gt": None, "box": row.boxes[0] if row.boxes else None, "iou": None, **values}
    )


FileRow: TypeAlias = type[DescriptionRow] | type[AnswerRow] | None  # None: Prediction itself


def row_type(columns: Collection[str]) -> FileRow:
    """What kind of rows a file with these columns holds."""
    if "correct" in columns:
        return AnswerRow
    return DescriptionRow if "gt_phrases" in columns and "gt_boxes" not in columns else None


def write_predictions(
    run: Run, rows: Sequence[Prediction], row: FileRow, correct: Sequence[bool], *where: str
) -> None:
    """Write predictions.parquet in the form of its task, unless it is there as it should be: a finished run
    stays as it is.
    """
    found = rows if row is None else [file_row(row, p, c) for p, c in zip(rows, correct, strict=True)]
    run.keep_bytes(parquet_bytes(found, row or Prediction), *where, PREDICTIONS)


def read_predictions(run: Run, *where: str) -> list[Prediction]:
    """The rows of a predictions.parquet, whatever its task."""
    row = row_type(run.columns(*where, PREDICTIONS))
    if row is None:
        return run.read_rows(Prediction, *where, PREDICTIONS)
    return [judged(r) for r in run.read_rows(row, *where, PREDICTIONS)]
