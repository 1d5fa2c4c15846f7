"""The formulas, on plain arrays. Needs numpy only; nothing here knows a file, a model or a dialect.

Rules (docs/evaluation.md): an answer that was not read is None (or NaN), counts as wrong, and is counted
beside; IoU has no "+1"; boxes are sorted and clipped before (`spr.boxes.sanitize`); a ratio whose denominator
is zero is None, never 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from spr.boxes import as_boxes

# paper, table of Acc by IoU. Literal numbers: np.arange(.5, 1, .1)[3] is 0.7999999999999999
THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9)
Comparison = Literal[">=", ">"]


def ratio(numerator: float, denominator: float) -> float | None:
    """numerator / denominator, or None when the denominator is 0."""
    return numerator / denominator if denominator else None


def hits(ious: Sequence[float | None], threshold: float, comparison: Comparison = ">=") -> NDArray[np.bool_]:
    """(n,) whether each IoU reaches the threshold, exactly as compared, no epsilon. None and NaN do not."""
    values = np.array([math.nan if v is None else v for v in ious], dtype=np.float64)
    return values >= threshold if comparison == ">=" else values > threshold


def accuracy_at_iou(
    ious: Sequence[float | None], thresholds: Sequence[float] = THRESHOLDS, *, comparison: Comparison = ">="
) -> dict[float, float | None]:
    """Share of items whose IoU reaches each threshold (Acc@t). Keys are the given floats.

    None or NaN = the answer was not read: wrong, and counted in the denominator. No items: every value is
    None.
    `comparison` ">" is the strict form of Shikra and Ref-L4.
    """
    return {t: ratio(int(hits(ious, t, comparison).sum()), len(ious)) for t in thresholds}


def paired_ious(a: ArrayLike, b: ArrayLike, sizes: ArrayLike) -> NDArray[np.float64]:
    """(n,) IoU of a[i] with b[i], boxes (n, 4), each sorted and clipped to its own image first; sizes (n, 2)
    are (width, height).
    """
    limit = np.tile(np.asarray(sizes, dtype=np.float64).reshape(-1, 2), 2)

    def clean(boxes: ArrayLike) -> NDArray[np.float64]:
        array = as_boxes(boxes)
        ordered = np.concatenate(
            [np.minimum(array[:, :2], array[:, 2:]), np.maximum(array[:, :2], array[:, 2:])], axis=1
        )
        return np.asarray(np.clip(ordered, 0, limit), dtype=np.float64)

    p, q = clean(a), clean(b)
    side = np.clip(np.minimum(p[:, 2:], q[:, 2:]) - np.maximum(p[:, :2], q[:, :2]), 0, None)
    inter = side[:, 0] * side[:, 1]
    union = (p[:, 2] - p[:, 0]) * (p[:, 3] - p[:, 1]) + (q[:, 2] - q[:, 0]) * (q[:, 3] - q[:, 1]) - inter
    return np.asarray(np.divide(inter, union, out=np.zeros_like(inter), where=union > 0), dtype=np.float64)


def mean_iou(ious: Sequence[float | None]) -> float | None:
    """Mean IoU over all items; an answer that was not read overlaps with nothing (0). None when there are no
    items.
    """
    return ratio(math.fsum(v for v in ious if v is not None and not math.isnan(v)), len(ious))


def words(text: str) -> list[str]:
    """The words of a text in lower case: runs of letters, digits, apostrophes and inner hyphens."""
    found: list[str] = []
    for piece in "".join(c if c.isalnum() or c in "'-" else " " for c in text.casefold()).split():
        word = piece.strip("'-")
        if word:
            found.append(word)
    return found


def names(text: str, name: str) -> bool:
    """Whether a name (one or more words) stands in a text, word by word: "no" does not stand in
    "notebook".
    """
    said, wanted = words(text), words(name)
    return bool(wanted) and any(
        said[k : k + len(wanted)] == wanted for k in range(len(said) - len(wanted) + 1)
    )


def names_any(text: str, candidates: Iterable[str]) -> bool:
    """Whether any of the names stands in the text."""
    return any(names(text, name) for name in candidates)
