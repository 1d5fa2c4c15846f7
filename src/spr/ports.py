"""The Protocols through which models come in: three, and one for those that look ahead. The adapters behind
them live in `spr.models`; anything with these methods will do.

Every method takes and returns plain records; images are named by fsspec path and loaded by the adapter
through `spr.data.images`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

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
class AskedTogether(Protocol):
    """A describer that waits for others (a server): several threads may ask it at once."""

    def stop(self) -> None:
        """End what other threads are asking."""
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


@runtime_checkable
class LooksAhead(Protocol):
    """A scorer or a detector that wants to know what it will be asked, to have it ready."""

    def expect(self, asked: Mapping[str, Sequence[Any]]) -> None:
        """Images in the order in which they will come, each with its regions (scorer) or phrases
        (detector).
        """
        ...
