"""The three Protocols through which models come in. The adapters behind them live in `spr.models`; anything
with these methods will do.

Every method takes and returns plain records; images are named by fsspec path and loaded by the adapter
through `spr.data.images`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from spr.types import Answer, Box, Detection, Query, Sampling


@runtime_checkable
class Describer(Protocol):
    """A multimodal language model that answers questions about an image."""

    def answer(self, queries: Sequence[Query], sampling: Sampling) -> list[list[Answer]]:
        """`sampling.n` answers per query, in order. A query that fails gives answers whose `failed`
        says why.
        """
        ...


@runtime_checkable
class ImageTextScorer(Protocol):
    """A dual encoder (CLIP, SigLIP)."""

    def similarities(
        self, image: str, regions: Sequence[Box], texts: Sequence[str], pairs: Sequence[tuple[int, int]]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Cosines in [-1, 1] of `pairs` = (region index, text index): (of the crop, of the region embedding),
        each of shape (len(pairs),).
        """
        ...


@runtime_checkable
class Detector(Protocol):
    """An open-vocabulary detector."""

    def detect(self, image: str, phrases: Sequence[str]) -> list[list[Detection]]:
        """What it finds for each phrase, best first, in original pixels. One list per phrase, in order."""
        ...
