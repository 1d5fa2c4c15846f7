"""The prefix tree on sequences small enough to check by eye, and as a property: every node sees exactly its
own history.
"""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from spr.training.masks import block_mask, seen
from spr.training.packing import Branch, Layout, Row, branch, fill, grow, one_prompt, shares_image

IMAGE = 9
# prompts and answers of few tokens, so that they often begin alike
SEQUENCES = st.lists(
    st.tuples(
        st.lists(st.integers(0, 3), min_size=1, max_size=6),
        st.lists(st.integers(0, 3), min_size=1, max_size=6),
    ),
    min_size=1,
    max_size=6,
)


def visible(row: Row, layout: Layout = "causal", window: int | None = None) -> NDArray[np.bool_]:
    """Who sees whom in one row."""
    found: NDArray[np.bool_] = seen([row], len(row), layout, window)[0].numpy()
    return found


def made(prompt: list[int], answer: list[int]) -> Branch:
    ids = np.asarray(prompt)
    return branch(prompt, np.arange(len(prompt))[None], ids == IMAGE, answer)


def test_a_pair_by_eye() -> None:
    """Prompt [9 1], chosen [2 3], rejected [2 4]: the answers share their 2, so five nodes stand for eight
    tokens.
    """
    row = grow([made([9, 1], [2, 3]), made([9, 1], [2, 4])])
    assert row.ids.tolist() == [9, 1, 2, 3, 4]
    assert row.parents.tolist() == [-1, 0, 1, 2, 2]
    assert row.positions.tolist() == [[0, 1, 2, 3, 3]]  # the rejected branch restarts
    assert [p.tolist() for p in row.paths] == [[2, 3], [2, 4]]
    assert row.source == 8
    found = [np.flatnonzero(line).tolist() for line in visible(row)]
    assert found == [[0], [0, 1], [0, 1, 2], [0, 1, 2, 3], [0, 1, 2, 4]]  # 4 does not see 3


def test_an_answer_token_is_never_merged_with_a_prompt_token() -> None:
    """Prompts [1] and [1 2], answers [2 3] and [3]: the same text, but what is learnt differs."""
    row = grow([made([1], [2, 3]), made([1, 2], [3])])
    assert [p.tolist() for p in row.paths] == [[1, 2], [4]]
    assert row.prompt.tolist() == [True, False, False, True, False]


def test_window_counts_positions() -> None:
    """With a window of 2 a node sees itself and its parent; in row order the rejected branch would see too
    little.
    """
    row = grow([made([9, 1], [2, 3]), made([9, 1], [5, 6])])
    found = [np.flatnonzero(line).tolist() for line in visible(row, window=2)]
    assert found == [[0], [0, 1], [1, 2], [2, 3], [1, 4], [4, 5]]


def test_bidirectional_blocks() -> None:
    row = grow([made([9, 9, 1], [2]), made([9, 9, 1], [3])])
    assert np.flatnonzero(visible(row, "image_block")[0]).tolist() == [0, 1]
    assert np.flatnonzero(visible(row, "prefix")[0]).tolist() == [0, 1, 2]
    # an answer never sees its rival
    assert np.flatnonzero(visible(row, "prefix")[4]).tolist() == [0, 1, 2, 4]


def test_what_may_share() -> None:
    late, early, other = made([1, 9], [2]), made([9, 1], [2]), made([9, 3], [2])
    assert shares_image([early, other])
    assert not shares_image([late, made([3, 9], [2])])  # the question stands before the image
    assert one_prompt([early, early])
    assert not one_prompt([early, other])


@given(SEQUENCES)
def test_every_node_sees_exactly_its_own_history(pairs: list[tuple[list[int], list[int]]]) -> None:
    branches = [made([IMAGE, *p], a) for p, a in pairs]
    row = grow(branches)
    mask = visible(row)
    for b, path in zip(branches, row.paths, strict=True):
        whole = b.ids.tolist()
        for k, node in enumerate(path.tolist()):
            known = np.flatnonzero(mask[node])
            order = known[np.argsort(row.positions[0, known])]
            assert row.ids[order].tolist() == whole[: b.prompt + k + 1]
            assert row.positions[0, order].tolist() == list(range(b.prompt + k + 1))
    assert (row.parents < np.arange(len(row))).all()
    assert len(row) <= row.source


@pytest.mark.parametrize("layout", get_args(Layout))
@given(st.lists(SEQUENCES, min_size=1, max_size=3), st.none() | st.integers(1, 5), st.integers(0, 3))
def test_a_mask_is_found_by_walking_up_the_tree(
    layout: Layout, trees: list[list[tuple[list[int], list[int]]]], window: int | None, spare: int
) -> None:
    """Rows side by side, with padding; as a square, and as FlexAttention asks for it, entry by entry."""
    rows = [grow([made([IMAGE, IMAGE, *p], a) for p, a in tree]) for tree in trees]
    length = max(map(len, rows)) + spare
    expected = np.tile(np.eye(length, dtype=np.bool_), (len(rows), 1, 1))
    for square, row in zip(expected, rows, strict=True):
        position, n = row.positions[0], len(row)
        for node in range(n):
            above = node
            while above >= 0:
                square[node, above] = window is None or position[node] - position[above] < window
                above = int(row.parents[above])
        if layout != "causal":
            block = row.image if layout == "image_block" else row.prompt
            square[:n, :n] |= block[:, None] & block[None, :]
    assert (seen(rows, length, layout, window).numpy() == expected).all()
    mask = block_mask(rows, length, layout, window)
    every, batch = torch.arange(length), torch.arange(len(rows))
    asked = mask.mask_mod(batch[:, None, None], torch.tensor(0), every[:, None], every[None, :])
    assert (asked.numpy() == expected).all()


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 50)), max_size=20), st.integers(1, 120))
def test_fill_keeps_the_budget_and_loses_nothing(units: list[tuple[int, int]], budget: int) -> None:
    batches = fill(units, budget)
    assert sorted(i for b in batches for i in b) == list(range(len(units)))
    for b in batches:
        padded = sum(units[i][0] for i in b) * max(units[i][1] for i in b)
        assert len(b) == 1 or padded <= budget
