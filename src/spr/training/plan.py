"""Which pairs share a row, and which rows share a forward pass.

In: encoded pairs of one step. Out: units (one or more rows whose answers are needed together), in batches of
a token budget. How pairs are grouped changes speed and memory, never a log-probability.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from spr.training.config import Share
from spr.training.encode import Encoded
from spr.training.families import Family
from spr.training.packing import Branch, Row, branch, fill, grow, one_prompt, shares_image


@dataclass(frozen=True, slots=True)
class Unit:
    """Rows about one image. `answers` lists (pair, is chosen) for every path of the rows, in order; pairs are
    indices into the step's list.
    """

    rows: tuple[Row, ...]
    image: str
    question: str  # of the first pair
    answers: tuple[tuple[int, bool], ...]

    @property
    def size(self) -> tuple[int, int]:
        """(rows, longest row)."""
        return len(self.rows), max(len(r) for r in self.rows)


def branches_of(pair: Encoded, rejected: bool) -> list[Branch]:
    """The chosen answer's sequence, and the rejected one's."""
    answers = [pair.chosen, pair.rejected] if rejected else [pair.chosen]
    return [branch(pair.prompt.tolist(), pair.positions, pair.image, a.ids.tolist()) for a in answers]


def _unit(members: Sequence[tuple[int, Sequence[Branch]]], first: Encoded, share: Share) -> Unit:
    answers = tuple((i, side == 0) for i, branches in members for side in range(len(branches)))
    every = [b for _, branches in members for b in branches]
    rows = tuple(grow([b]) for b in every) if share == "none" else (grow(every),)
    return Unit(rows, first.image_path, first.question, answers)


def units_of(
    pairs: Sequence[Encoded], family: Family, share: Share, budget: int, rejected: bool = True
) -> list[Unit]:
    """The pairs of a step as units. Pairs of an image share a row while it stays within `budget` tokens and
    the family allows it.
    """
    if family.layout is None:
        share = "none"
    made = [(i, branches_of(pair, rejected)) for i, pair in enumerate(pairs)]
    if share != "tree":
        return [_unit([m], pairs[m[0]], share) for m in made]
    groups: list[list[tuple[int, list[Branch]]]] = []
    open_group: dict[str, int] = {}
    for i, branches in made:
        at = open_group.get(pairs[i].image_path)
        if at is not None and _fits([*groups[at], (i, branches)], family, budget):
            groups[at].append((i, branches))
        else:
            open_group[pairs[i].image_path] = len(groups)
            groups.append([(i, branches)])
    return [_unit(g, pairs[g[0][0]], share) for g in groups]


def _fits(members: Sequence[tuple[int, Sequence[Branch]]], family: Family, budget: int) -> bool:
    every = [b for _, branches in members for b in branches]
    same = one_prompt(every) if family.layout == "prefix" else shares_image(every)
    longest = max(b.prompt for b in every)
    return (
        same
        and longest + sum(len(b.ids) - b.prompt for b in every) + sum(_own(b, every[0]) for b in every)
        <= budget
    )


def _own(b: Branch, first: Branch) -> int:
    """Upper bound of the prompt tokens that b does not share with the first branch."""
    n = min(b.prompt, first.prompt)
    differ = np.flatnonzero(b.ids[:n] != first.ids[:n])
    return b.prompt - (int(differ[0]) if len(differ) else n)


def batches_of(units: Sequence[Unit], budget: int) -> list[list[Unit]]:
    """Units in forward passes of at most `budget` padded tokens."""
    return [[units[i] for i in batch] for batch in fill([u.size for u in units], budget)]


def is_held_out(image: str, share: float) -> bool:
    """Whether the pairs of an image are measured and not trained on: the same ones in every run and round."""
    number = int.from_bytes(hashlib.sha256(image.encode()).digest()[:8], "big")
    return number < share * 2**64


def steps_of(pairs: Sequence[Encoded], batch: int, epochs: int, seed: int) -> list[list[int]]:
    """The pairs of every optimiser step of all epochs. Images are shuffled, and the pairs of an image stay
    together, so that they can share.

    Depends on the pairs, the batch and the seed only: not on processes, packing or memory. The last step of
    an epoch may be smaller.
    """
    by_image: dict[str, list[int]] = {}
    for i, pair in enumerate(pairs):
        by_image.setdefault(pair.image_path, []).append(i)
    images = list(by_image.values())
    steps = []
    for epoch in range(epochs):
        order = np.random.default_rng([seed, epoch]).permutation(len(images))
        flat = [i for k in order.tolist() for i in images[k]]
        steps += [flat[at : at + batch] for at in range(0, len(flat), batch)]
    return steps
