"""Rows in which nothing is computed twice: the prefix tree of some sequences, laid out as one row.

In: sequences (prompt + answer) about the same image. Out: one node per *distinct* token history. A node sees
its ancestors only, and its position is the one it has in its own sequence, so every node's hidden state
equals that of the plain sequence: `[image + prompt | chosen | rejected]` when there is one pair, `image ->
prompts -> answers` when there are several, and answers that begin alike share their beginning too.

The idea for one prompt with a chosen and a rejected answer is published for text models (arXiv 2410.20305,
and the flash-pref package); images, trees over several prompts, the families with bidirectional blocks, and
shared beginnings of answers are added here.
Nothing is ever cut. Pure numpy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

Ints: TypeAlias = NDArray[np.int64]
Bools: TypeAlias = NDArray[np.bool_]
Layout: TypeAlias = Literal["causal", "image_block", "prefix"]


@dataclass(frozen=True, slots=True)
class Branch:
    """One sequence. `ids` (L,), the first `prompt` of them are the prompt; `positions` (axes, L); `image`
    (L,) marks image tokens.
    """

    ids: Ints
    prompt: int
    positions: Ints
    image: Bools


@dataclass(frozen=True, slots=True)
class Row:
    """A prefix tree of n nodes. `parents` (n,), -1 = root; a parent stands before its children.

    `paths[k]` lists the nodes of the answer of branch k, in order. `source` is how many tokens the branches
    have together.
    """

    ids: Ints
    parents: Ints
    positions: Ints
    image: Bools
    prompt: Bools
    paths: tuple[Ints, ...]
    source: int

    def __len__(self) -> int:
        return len(self.ids)


def branch(prompt: Sequence[int], positions: Ints, image: Bools, answer: Sequence[int]) -> Branch:
    """A prompt with an answer; text positions go on after the largest position of the prompt (also for
    several axes).
    """
    after = np.arange(len(answer), dtype=np.int64) + (int(positions.max()) + 1 if positions.size else 0)
    return Branch(
        ids=np.concatenate([np.asarray(prompt, dtype=np.int64), np.asarray(answer, dtype=np.int64)]),
        prompt=len(prompt),
        positions=np.concatenate([positions, np.broadcast_to(after, (len(positions), len(answer)))], axis=1),
        image=np.concatenate([image, np.zeros(len(answer), dtype=np.bool_)]),
    )


def grow(branches: Sequence[Branch]) -> Row:
    """The prefix tree of branches about one image. Prompt tokens are never shared with answer tokens."""
    children: dict[tuple[int, int, bool], int] = {}
    ids: list[int] = []
    parents: list[int] = []
    origin: list[tuple[int, int]] = []  # (branch, index) that made the node
    paths = []
    for number, b in enumerate(branches):
        node, path = -1, []
        for index, token in enumerate(b.ids.tolist()):
            key = (node, token, index < b.prompt)
            found = children.get(key)
            if found is None:
                found = children[key] = len(ids)
                ids.append(token)
                parents.append(node)
                origin.append((number, index))
            node = found
            path.append(found)
        paths.append(np.asarray(path[b.prompt :], dtype=np.int64))
    return Row(
        ids=np.asarray(ids, dtype=np.int64),
        parents=np.asarray(parents, dtype=np.int64),
        positions=np.stack([branches[n].positions[:, i] for n, i in origin], axis=1),
        image=np.asarray([branches[n].image[i] for n, i in origin], dtype=np.bool_),
        prompt=np.asarray([i < branches[n].prompt for n, i in origin], dtype=np.bool_),
        paths=tuple(paths),
        source=sum(len(b.ids) for b in branches),
    )


def spans(row: Row) -> tuple[Ints, Ints]:
    """(enter, leave), each (n,): the numbers of a walk through the tree, in which the nodes below a node
    follow it. A node is the other or below it exactly when enter[other] <= enter[node] < leave[other].
    """
    n, parents = len(row), row.parents.tolist()
    size = [1] * n + [0]  # the last is what the roots hang on, as parent -1
    for node in reversed(range(n)):
        size[parents[node]] += size[node]
    enter, free = [0] * n, [0] * (n + 1)
    for node, parent in enumerate(parents):
        enter[node] = free[parent]
        free[parent] += size[node]
        free[node] = enter[node] + 1
    first = np.asarray(enter, dtype=np.int64)
    return first, first + np.asarray(size[:n], dtype=np.int64)


def one_prompt(branches: Sequence[Branch]) -> bool:
    """Whether all branches have the same prompt."""
    first = branches[0]
    return all(
        b.prompt == first.prompt and np.array_equal(b.ids[: b.prompt], first.ids[: first.prompt])
        for b in branches
    )


def shares_image(branches: Sequence[Branch]) -> bool:
    """Whether the image comes before any token in which the prompts differ, so that its tokens can be
    shared.
    """
    first = branches[0]
    last = int(np.flatnonzero(first.image)[-1]) + 1 if first.image.any() else 0
    return all(
        len(b.ids) >= last
        and np.array_equal(b.ids[:last], first.ids[:last])
        and b.image.sum() == first.image.sum()
        for b in branches
    )


def fill(units: Sequence[tuple[int, int]], budget: int) -> list[list[int]]:
    """Cut units of (rows, longest row) into batches of at most `budget` padded tokens; a larger unit gets a
    batch of its own. Returns indices.

    Longest first, so that rows of like length stand together and memory peaks in the first batch.
    """
    order = sorted(range(len(units)), key=lambda i: (-units[i][1], i))
    batches: list[list[int]] = []
    rows = width = 0
    for i in order:
        if batches and (rows + units[i][0]) * width <= budget:
            batches[-1].append(i)
            rows += units[i][0]
        else:
            batches.append([i])
            rows, width = units[i]
    return batches
