"""Box maths in numpy: the only file (with the dialects) that knows another convention than xyxy pixels.

In: anything of shape (n, 4), or empty. Out: float64 arrays of shape (n, 4). A box is (x1, y1, x2, y2) in
pixels, half-open, so its width is x2 - x1 without "+1". Other systems are spelled in the name: xywh,
xyxy_unit (0-1), cxcywh.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from spr.types import Box, Frame

Boxes: TypeAlias = NDArray[np.float64]


def as_boxes(boxes: ArrayLike | Sequence[Box]) -> Boxes:
    """Shape (n, 4) float64 of one box, many boxes or none. Raises ValueError for another shape or a value
    that is not finite.
    """
    array = np.asarray(boxes, dtype=np.float64)
    if array.size == 0:
        return np.zeros((0, 4))
    array = np.atleast_2d(array)
    if array.ndim != 2 or array.shape[1] != 4:
        raise ValueError(f"boxes: found shape {array.shape}, expected (n, 4)")
    if not np.isfinite(array).all():
        raise ValueError("boxes: found a value that is not finite, expected finite pixels")
    return array


def area(boxes: ArrayLike) -> NDArray[np.float64]:
    """(n,) areas in square pixels; 0 for a reversed or empty box, never negative."""
    b = as_boxes(boxes)
    return np.clip(b[:, 2] - b[:, 0], 0, None) * np.clip(b[:, 3] - b[:, 1], 0, None)


def intersection_matrix(a: ArrayLike, b: ArrayLike) -> NDArray[np.float64]:
    """(n, m) areas of intersection in square pixels."""
    a, b = as_boxes(a), as_boxes(b)
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    side = np.clip(high - low, 0, None)
    return np.asarray(side[..., 0] * side[..., 1], dtype=np.float64)


def iou_matrix(a: ArrayLike, b: ArrayLike) -> NDArray[np.float64]:
    """(n, m) float64 intersection over union in [0, 1]; a union of zero area gives 0.0. Boxes are not sorted
    here (see `sanitize`).
    """
    a, b = as_boxes(a), as_boxes(b)
    inter = intersection_matrix(a, b)
    union = area(a)[:, None] + area(b)[None, :] - inter
    return np.divide(inter, union, out=np.zeros_like(inter), where=union > 0)


def iou(a: ArrayLike, b: ArrayLike) -> float:
    """IoU of two boxes."""
    return float(iou_matrix(a, b)[0, 0])


def giou_matrix(a: ArrayLike, b: ArrayLike) -> NDArray[np.float64]:
    """(n, m) generalised IoU in [-1, 1] (Rezatofighi et al., CVPR 2019): IoU - (enclosing - union) /
    enclosing.
    """
    a, b = as_boxes(a), as_boxes(b)
    inter = intersection_matrix(a, b)
    union = area(a)[:, None] + area(b)[None, :] - inter
    low = np.minimum(a[:, None, :2], b[None, :, :2])
    high = np.maximum(a[:, None, 2:], b[None, :, 2:])
    side = np.clip(high - low, 0, None)
    hull = np.asarray(side[..., 0] * side[..., 1], dtype=np.float64)
    overlap = np.divide(inter, union, out=np.zeros_like(inter), where=union > 0)
    return overlap - np.divide(hull - union, hull, out=np.zeros_like(inter), where=hull > 0)


def sanitize(boxes: ArrayLike | Sequence[Box], frame: Frame) -> Boxes:
    """Boxes for a metric: each sorted (x1 <= x2, y1 <= y2), then clipped to the image. Same length and order;
    degenerate ones stay.
    """
    b = as_boxes(boxes)
    low, high = np.minimum(b[:, :2], b[:, 2:]), np.maximum(b[:, :2], b[:, 2:])
    limit = np.array([frame.width, frame.height], dtype=np.float64)
    return np.concatenate([np.clip(low, 0, limit), np.clip(high, 0, limit)], axis=1)


def enclosing(boxes: ArrayLike | Sequence[Box]) -> Box:
    """The smallest box around all of them. Raises ValueError when there is none."""
    b = as_boxes(boxes)
    if len(b) == 0:
        raise ValueError("enclosing: found no box, expected at least one")
    x1, y1 = b[:, :2].min(axis=0).tolist()
    x2, y2 = b[:, 2:].max(axis=0).tolist()
    return (x1, y1, x2, y2)


def gap(a: ArrayLike, b: ArrayLike) -> NDArray[np.float64]:
    """(n, m) Euclidean distance between the nearest points of two boxes in pixels; 0 when they touch or
    overlap.
    """
    a, b = as_boxes(a), as_boxes(b)
    side = np.clip(np.maximum(a[:, None, :2] - b[None, :, 2:], b[None, :, :2] - a[:, None, 2:]), 0, None)
    return np.asarray(np.hypot(side[..., 0], side[..., 1]), dtype=np.float64)


def centre(boxes: ArrayLike) -> NDArray[np.float64]:
    """(n, 2) centres (x, y) in pixels."""
    b = as_boxes(boxes)
    return (b[:, :2] + b[:, 2:]) / 2


def inside(boxes: ArrayLike, region: Box) -> NDArray[np.bool_]:
    """(n,) True where the centre lies in the region, or at least half of the box's area does (method 2.1)."""
    b = as_boxes(boxes)
    c = centre(b)
    x1, y1, x2, y2 = region
    by_centre = (c[:, 0] >= x1) & (c[:, 0] <= x2) & (c[:, 1] >= y1) & (c[:, 1] <= y2)
    size = area(b)
    by_area = (size > 0) & (intersection_matrix(b, [region])[:, 0] >= 0.5 * size)
    return by_centre | by_area


def match(a: ArrayLike, b: ArrayLike, threshold: float) -> list[tuple[int, int]]:
    """One-to-one pairs (i, j) with IoU >= threshold, best IoU first; ties go to the smaller i, then the
    smaller j.
    """
    overlap = iou_matrix(a, b)
    rows, columns = np.nonzero(overlap >= threshold)
    order = np.lexsort((columns, rows, -overlap[rows, columns]))
    used_a: set[int] = set()
    used_b: set[int] = set()
    pairs: list[tuple[int, int]] = []
    for k in order.tolist():
        i, j = int(rows[k]), int(columns[k])
        if i not in used_a and j not in used_b:
            used_a.add(i)
            used_b.add(j)
            pairs.append((i, j))
    return pairs


def nms(boxes: ArrayLike, scores: ArrayLike, threshold: float) -> list[int]:
    """Indices kept by greedy non-maximum suppression (IoU > threshold is suppressed), best score first; ties
    by index.
    """
    overlap = iou_matrix(boxes, boxes)
    kept: list[int] = []
    for i in np.argsort(-np.asarray(scores, dtype=np.float64), kind="stable").tolist():
        if all(overlap[i, j] <= threshold for j in kept):
            kept.append(i)
    return kept


def from_xywh(boxes: ArrayLike) -> Boxes:
    """(x, y, width, height) in pixels to xyxy: x2 = x + w, without "-1" (COCO)."""
    b = as_boxes(boxes)
    return np.concatenate([b[:, :2], b[:, :2] + b[:, 2:]], axis=1)


def to_xywh(boxes: ArrayLike) -> Boxes:
    """xyxy to (x, y, width, height) in pixels."""
    b = as_boxes(boxes)
    return np.concatenate([b[:, :2], b[:, 2:] - b[:, :2]], axis=1)


def from_xyxy_unit(boxes: ArrayLike, frame: Frame) -> Boxes:
    """Fractions of the image's sides (Open Images) to pixels."""
    return as_boxes(boxes) * np.array([frame.width, frame.height] * 2, dtype=np.float64)


def to_xyxy_unit(boxes: ArrayLike, frame: Frame) -> Boxes:
    """xyxy pixels to fractions of the image's sides."""
    return as_boxes(boxes) / np.array([frame.width, frame.height] * 2, dtype=np.float64)


def from_cxcywh_unit(boxes: ArrayLike, frame: Frame) -> Boxes:
    """(centre x, centre y, width, height) as fractions of the image's sides (YOLO, DETR) to xyxy pixels."""
    b = as_boxes(boxes)
    corners = np.concatenate([b[:, :2] - b[:, 2:] / 2, b[:, :2] + b[:, 2:] / 2], axis=1)
    return from_xyxy_unit(corners, frame)


def to_cxcywh_unit(boxes: ArrayLike, frame: Frame) -> Boxes:
    """xyxy pixels to (centre x, centre y, width, height) as fractions of the image's sides."""
    b = as_boxes(boxes) / np.array([frame.width, frame.height] * 2, dtype=np.float64)
    return np.concatenate([(b[:, :2] + b[:, 2:]) / 2, b[:, 2:] - b[:, :2]], axis=1)
