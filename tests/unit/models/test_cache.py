"""The cache whose rows come and go holds what transformers' own would hold."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import DynamicCache, LlamaConfig
from transformers.cache_utils import DynamicLayer

from spr.models.cache import ROOM, RoomyLayer, bytes_per_token, is_known, is_roomy, joined, new_cache

HEADS, WIDTH, LAYERS = 2, 3, 2
CONFIG: Any = LlamaConfig(num_hidden_layers=LAYERS, num_attention_heads=HEADS, hidden_size=HEADS * WIDTH)


def states(rows: int, columns: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(rows, HEADS, columns, WIDTH), torch.randn(rows, HEADS, columns, WIDTH)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(
    st.lists(
        st.one_of(st.integers(1, ROOM + 5), st.lists(st.integers(0, 2), min_size=1, max_size=4)),
        min_size=1,
        max_size=8,
    )
)
def test_a_layer_is_transformers_own(steps: list[int | list[int]]) -> None:
    """Any order of new columns (a number) and chosen rows (a list, perhaps some of them twice)."""
    torch.manual_seed(0)
    build: Any = (RoomyLayer, DynamicLayer)
    ours, theirs = (cls() for cls in build)
    rows = 3
    for step in [2, *steps]:
        if isinstance(step, int):
            new = states(rows, step)
            for x, y in zip(ours.update(*new), theirs.update(*new), strict=True):
                assert torch.equal(x, y)
        else:
            chosen = torch.tensor([i % rows for i in step])
            rows = len(step)
            ours.batch_select_indices(chosen)
            theirs.batch_select_indices(chosen)
        assert torch.equal(ours.keys, theirs.keys)
        assert torch.equal(ours.values, theirs.values)
        assert ours.get_seq_length() == theirs.get_seq_length()


def test_a_step_copies_nothing_of_what_was_there() -> None:
    """transformers' layer copies all columns for each token: most of the time of a step."""
    layer: Any = RoomyLayer  # type: ignore[no-untyped-call]
    layer = layer()
    layer.update(*states(2, 5))
    before = layer.keys.data_ptr()
    for _ in range(ROOM):
        layer.update(*states(2, 1))
    assert layer.keys.data_ptr() == before
    layer.update(*states(2, 1))
    assert layer.keys.data_ptr() != before


def test_rows_of_several_caches_end_at_the_same_column() -> None:
    torch.manual_seed(0)
    caches = [new_cache(CONFIG) for _ in range(2)]
    for cache, rows, columns in zip(caches, (3, 2), (7, 4), strict=True):
        for layer in range(LAYERS):
            cache.update(*states(rows, columns), layer)
    a, b = ([layer.keys.clone() for layer in cache.layers] for cache in caches)  # type: ignore[union-attr]
    found = joined([(caches[0], torch.tensor([2, 0]), 1), (caches[1], torch.tensor([1]), 0)], 6)
    for layer in range(LAYERS):
        keys = found.layers[layer].keys  # type: ignore[union-attr]
        assert keys is not None
        assert torch.equal(keys[:2], a[layer][[2, 0], :, 1:])
        assert torch.equal(keys[2, :, 2:], b[layer][1])
        assert torch.equal(keys[2, :, :2], torch.zeros(HEADS, 2, WIDTH))  # padding is no NaN
    found.update(*states(3, 1), 0)
    assert found.get_seq_length() == 7


def test_a_token_takes_what_its_keys_and_values_take() -> None:
    cache = new_cache(CONFIG)
    for layer in range(LAYERS):
        cache.update(*states(3, 5), layer)
    assert bytes_per_token(cache) == LAYERS * 2 * HEADS * WIDTH * 4


@pytest.mark.parametrize(
    ("kinds", "known", "roomy"),
    [
        (["full_attention", "full_attention"], True, True),
        (["full_attention", "sliding_attention"], True, False),
        (["full_attention", "linear_attention"], False, False),
        (["full_attention", "hybrid"], False, False),
        (["full_attention", "indexed_attention"], False, False),
    ],
)
def test_what_a_cache_keeps_decides_the_road(kinds: list[str], known: bool, roomy: bool) -> None:
    config = LlamaConfig(num_hidden_layers=2, num_attention_heads=2, hidden_size=6)
    config.layer_types = kinds
    config.sliding_window = 4
    assert len(DynamicCache(config=config).layers) == 2
    assert (is_known(config), is_roomy(config)) == (known, roomy)
