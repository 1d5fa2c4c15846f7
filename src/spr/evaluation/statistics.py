"""Metrics as functions of sums over items, so that one bootstrap over images serves them all.

In: a `Table`, i.e. per-item columns that add up (hits, matched boxes, words, …), the image of each item, and
named metrics of the sums. Out: values with 95 % intervals; differences of two tables on the same items with
paired intervals.
Resampling is over images, because the questions of one image are not independent. A metric that is undefined
in a resample is left out of that interval; one that is undefined on the whole has the value None.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]
Sums: TypeAlias = Mapping[str, Floats]  # column -> (b,) sums, one per resample
Mask: TypeAlias = NDArray[np.bool_]
Metric: TypeAlias = Callable[[Sums], Floats]  # (b,) values; NaN = undefined


@dataclass(frozen=True, slots=True)
class Table:
    """Per-item columns (n,) that add up, and the metrics of their sums. `right` says per item what a metric
    counts as right.
    """

    columns: Mapping[str, Floats]
    metrics: Mapping[str, Metric]
    right: Mapping[str, NDArray[np.bool_]]

    def only(self, keep: NDArray[np.bool_]) -> Table:
        """The same for some of the items."""
        return Table(
            {k: v[keep] for k, v in self.columns.items()},
            self.metrics,
            {k: v[keep] for k, v in self.right.items()},
        )


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its 95 % interval and its standard error over the resamples; None = undefined."""

    value: float | None
    low: float | None
    high: float | None
    error: float | None


Part: TypeAlias = tuple[Table, Mask]  # a table of some of the items, and which of all items (n,) they are


def over(numerator: str, denominator: str) -> Metric:
    """The ratio of two sums; undefined where the denominator is 0."""

    def metric(sums: Sums) -> Floats:
        return divide(sums[numerator], sums[denominator])

    return metric


def divide(a: Floats, b: Floats) -> Floats:
    """a / b with NaN where b is 0."""
    quotient: Floats = np.divide(a, b, out=np.full(np.shape(a), np.nan), where=b != 0)
    return quotient


def resamples(images: int, count: int, seed: int) -> NDArray[np.uint16]:
    """(count, images) how often each image is drawn in each resample; each row sums to `images`. Two bytes
    each: 30,000 images are 120 MB.
    """
    rng = np.random.default_rng(seed)
    drawn = np.zeros((count, images), dtype=np.uint16)
    for row in drawn:
        row[:] = np.bincount(rng.integers(0, images, size=images), minlength=images) if images else 0
    return drawn


def image_numbers(images: Sequence[str]) -> tuple[NDArray[np.int64], int]:
    """(n,) the number of each item's image, and how many images there are."""
    numbers = {name: k for k, name in enumerate(dict.fromkeys(images))}
    return np.array([numbers[name] for name in images], dtype=np.int64), len(numbers)


def _sums(table: Table, at: NDArray[np.int64], count: int, weights: NDArray[np.uint16]) -> dict[str, Floats]:
    per_image = np.stack(
        [np.bincount(at, weights=column, minlength=count) for column in table.columns.values()], axis=1
    )
    step = max(1, (1 << 22) // max(1, count))  # rows at a time, so that the floats stay small
    parts = [weights[k : k + step].astype(np.float64) @ per_image for k in range(0, len(weights), step)]
    return dict(
        zip(table.columns, np.concatenate([np.zeros((0, per_image.shape[1])), *parts]).T, strict=True)
    )


def _values(
    tables: Sequence[tuple[Table, NDArray[np.int64]]], count: int, weights: NDArray[np.uint16]
) -> dict[str, Floats]:
    """(b,) values of every metric: of one table, or the unweighted mean over several (the splits)."""
    names = list(tables[0][0].metrics) if tables else []
    parts = [(t, _sums(t, at, count, weights)) for t, at in tables]
    return {name: np.mean([t.metrics[name](sums) for t, sums in parts], axis=0) for name in names}


class Bootstrap:
    """Resampling of the images of a benchmark, the same for every model and metric."""

    def __init__(self, images: Sequence[str], count: int = 2000, seed: int = 0) -> None:
        self._at, self._count = image_numbers(images)
        self._weights = resamples(self._count, count, seed)
        self._whole = np.ones((1, self._count), dtype=np.uint16)

    def _both(self, parts: Sequence[Part]) -> tuple[dict[str, Floats], dict[str, Floats]]:
        tables = [(table, self._at[keep]) for table, keep in parts]
        return _values(tables, self._count, self._whole), _values(tables, self._count, self._weights)

    def estimates(self, parts: Sequence[Part]) -> dict[str, Estimate]:
        """Every metric; with several parts (the splits) the unweighted mean over them."""
        whole, drawn = self._both(parts)
        return {name: _estimate(float(whole[name][0]), drawn[name]) for name in whole}

    def differences(self, ours: Sequence[Part], reference: Sequence[Part]) -> dict[str, Estimate]:
        """Every metric of `ours` minus that of `reference`, on the same resampled images (paired)."""
        a, a_drawn = self._both(ours)
        b, b_drawn = self._both(reference)
        return {name: _estimate(float(a[name][0] - b[name][0]), a_drawn[name] - b_drawn[name]) for name in a}


def _estimate(value: float, drawn: Floats) -> Estimate:
    defined = drawn[np.isfinite(drawn)]
    if not np.isfinite(value):
        return Estimate(None, None, None, None)
    if defined.size == 0:
        return Estimate(value, None, None, None)
    low, high = np.percentile(defined, [2.5, 97.5])
    return Estimate(value, float(low), float(high), float(defined.std()))
