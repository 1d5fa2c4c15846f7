"""Long texts in windows: whole sentences, as many as fit, so that nothing is silently cut.

In: a text and a function that counts its tokens. Out: pieces that fit, in order, which together hold every
word; or their mean embedding.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

import torch

_SENTENCE_END = re.compile(r"(?<=[.!?;])\s+")


def _packed(parts: Sequence[str], fits: Callable[[str], bool]) -> Iterator[str]:
    """Neighbouring parts joined with a blank while they fit. A part that does not fit alone stays alone."""
    held = ""
    for part in parts:
        longer = f"{held} {part}" if held else part
        if held and not fits(longer):
            yield held
            held = part
        else:
            held = longer
    if held:
        yield held


def _pieces(word: str, fits: Callable[[str], bool]) -> Iterator[str]:
    """A word that does not fit, in halves until each fits (a single letter always does)."""
    if len(word) == 1 or fits(word):
        yield word
        return
    middle = len(word) // 2
    yield from _pieces(word[:middle], fits)
    yield from _pieces(word[middle:], fits)


def sentence_windows(text: str, count: Callable[[str], int], limit: int) -> list[str]:
    """Windows of at most `limit` tokens: sentences packed together; a longer sentence at its words, a longer
    word in halves.
    """

    def fits(piece: str) -> bool:
        return count(piece) <= limit

    if fits(text):
        return [text]
    windows: list[str] = []
    for window in _packed(_SENTENCE_END.split(text.strip()), fits):
        if fits(window):
            windows.append(window)
        else:
            words = [piece for word in window.split() for piece in _pieces(word, fits)]
            windows += _packed(words, fits)
    return windows


def unit(x: torch.Tensor) -> torch.Tensor:
    """Vectors (..., E) of length 1."""
    scaled: torch.Tensor = x / x.norm(dim=-1, keepdim=True)
    return scaled


def embed_in_windows(
    windows: Sequence[Sequence[str]], embed: Callable[[list[str]], torch.Tensor]
) -> torch.Tensor:
    """Unit embeddings (T, E) of texts given as windows: `embed` gives unit vectors; those of a text are
    averaged and normalised again (ours).
    """
    flat = list(dict.fromkeys(w for ws in windows for w in ws))
    embedded, place = embed(flat), {w: i for i, w in enumerate(flat)}
    return torch.stack([unit(embedded[[place[w] for w in ws]].mean(dim=0)) for ws in windows])
