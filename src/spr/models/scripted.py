"""Models that follow a script: ordinary public classes behind the same ports, without torch, so that a whole
run works offline and in tests.

Each takes a plain function and calls it; nothing else happens. They are what a test, a notebook or a dry run
uses in the place of a real model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spr.types import Answer, Box, Detection, Query, Sampling


@dataclass(frozen=True, slots=True)
class ScriptedDescriber:
    """Answers with `script(query, sample index)`: a text, or a whole Answer."""

    script: Callable[[Query, int], str | Answer]

    def answer(self, queries: Sequence[Query], sampling: Sampling) -> list[list[Answer]]:
        """`sampling.n` answers per query, in order."""
        return [[self._one(query, k) for k in range(sampling.n)] for query in queries]

    def _one(self, query: Query, sample: int) -> Answer:
        said = self.script(query, sample)
        return said if isinstance(said, Answer) else Answer(said)


@dataclass(frozen=True, slots=True)
class ScriptedScorer:
    """Cosines from `script(image, region, text)` -> (with the crop, with the region embedding)."""

    script: Callable[[str, Box, str], tuple[float, float]]

    def similarities(
        self, image: str, regions: Sequence[Box], texts: Sequence[str], pairs: Sequence[tuple[int, int]]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Cosines of the pairs (region index, text index), each of shape (len(pairs),)."""
        found = np.array(
            [self.script(image, regions[r], texts[t]) for r, t in pairs], dtype=np.float64
        ).reshape(-1, 2)
        return found[:, 0], found[:, 1]


@dataclass(frozen=True, slots=True)
class ScriptedDetector:
    """Finds what `boxes[image][phrase]` lists; phrases are compared without regard to case, unknown ones find
    nothing.
    """

    boxes: Mapping[str, Mapping[str, Sequence[tuple[Box, float]]]]

    def detect(self, image: str, phrases: Sequence[str]) -> list[list[Detection]]:
        """One list of detections per phrase, best first."""
        here = {phrase.casefold(): found for phrase, found in self.boxes.get(image, {}).items()}
        listed = [sorted(here.get(phrase.casefold(), ()), key=lambda found: -found[1]) for phrase in phrases]
        return [
            [Detection(box, score, phrase) for box, score in found]
            for phrase, found in zip(phrases, listed, strict=True)
        ]
