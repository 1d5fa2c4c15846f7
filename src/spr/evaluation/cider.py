"""CIDEr of captions (Vedantam, Zitnick, Parikh, CVPR 2015), in the form that everybody reports: CIDEr-D as
pycocoevalcap computes it.

In: tokens of one caption and of its references, per item. Out: one score per item; their mean is the score of
the set. For n = 1 … 4: vectors of term frequency times log(N / document frequency), N = items, a document =
the references of one item; the caption's entries are clipped to the reference's, the cosine is damped by
exp(-d^2 / 72) with d = difference of lengths, averaged over references and n, times ten. Weights come from
the evaluated set: a score of one item alone, or a mean over shards, is another number.
As in pycocoevalcap: a caption's length is its number of bigrams; frequencies are not normalised by length.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TypeAlias

Tokens: TypeAlias = Sequence[str]
Gram: TypeAlias = tuple[str, ...]
ORDER = 4
SIGMA = 6.0


def grams(tokens: Tokens) -> Counter[Gram]:
    """How often each run of 1 … 4 tokens occurs."""
    return Counter(tuple(tokens[i : i + n]) for n in range(1, ORDER + 1) for i in range(len(tokens) - n + 1))


class _Vector:
    """The weights of a text by order of gram, their norms, and the number of bigrams."""

    def __init__(self, counts: Mapping[Gram, int], frequency: Mapping[Gram, int], log_items: float) -> None:
        self.weights: list[dict[Gram, float]] = [{} for _ in range(ORDER)]
        for gram, count in counts.items():
            self.weights[len(gram) - 1][gram] = count * (
                log_items - math.log(max(1.0, frequency.get(gram, 0)))
            )
        self.norms = [math.sqrt(sum(w * w for w in part.values())) for part in self.weights]
        self.length = sum(count for gram, count in counts.items() if len(gram) == 2)


def _similarity(caption: _Vector, reference: _Vector) -> float:
    """Mean over the orders of the clipped, damped cosine."""
    damp = math.exp(-((caption.length - reference.length) ** 2) / (2 * SIGMA**2))
    total = 0.0
    for mine, theirs, a, b in zip(
        caption.weights, reference.weights, caption.norms, reference.norms, strict=True
    ):
        dot = sum(min(w, theirs.get(gram, 0.0)) * theirs.get(gram, 0.0) for gram, w in mine.items())
        total += (dot / (a * b) if a and b else dot) * damp
    return total / ORDER


def cider(captions: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> list[float]:
    """The score of each caption in [0, 10], with weights from all `references`. An item without references is
    a ValueError.
    """
    if len(captions) != len(references):
        raise ValueError(
            f"cider: found {len(captions)} captions and {len(references)} lists of references, expected as "
            "many"
        )
    counted = [[grams(r) for r in group] for group in references]
    if not all(counted):
        raise ValueError("cider: found an item without references, expected at least one")
    frequency: Counter[Gram] = Counter()
    for group in counted:
        frequency.update({gram for counts in group for gram in counts})
    log_items = math.log(len(references)) if references else 0.0
    scores = []
    for caption, group in zip(captions, counted, strict=True):
        mine = _Vector(grams(caption), frequency, log_items)
        found = [_similarity(mine, _Vector(counts, frequency, log_items)) for counts in group]
        scores.append(10.0 * sum(found) / len(found))
    return scores
