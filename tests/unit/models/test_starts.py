"""Attention to a start that is kept once is attention to a cache that holds it in every row."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spr.models.starts import Starts, attend, joined_starts, starts_in

WIDTH = 4


def made(groups: list[int], lengths: list[int], heads: int, columns: int) -> Starts:
    """Starts of some lengths, padded on the left with numbers that must not matter."""
    seen = torch.arange(columns)[None] >= columns - torch.tensor(lengths)[:, None]
    layer = SimpleNamespace(
        keys=torch.randn(len(lengths), heads, columns, WIDTH),
        values=torch.randn(len(lengths), heads, columns, WIDTH),
    )
    return starts_in(SimpleNamespace(layers=[layer]), None if seen.all() else seen.long(), groups)


def plain(
    starts: Starts, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor, each: int
) -> torch.Tensor:
    """torch's attention over whole rows: each has its start's keys and its own."""
    keys = torch.cat([starts.keys[0][starts.groups], k], dim=2).repeat_interleave(each, dim=1)
    values = torch.cat([starts.values[0][starts.groups], v], dim=2).repeat_interleave(each, dim=1)
    seen = starts.seen[starts.groups][:, None, None].expand(-1, -1, q.shape[2], -1)
    whole = torch.cat([seen, mask], dim=3)
    found: torch.Tensor = torch.nn.functional.scaled_dot_product_attention(q, keys, values, attn_mask=whole)
    return found.transpose(1, 2)


@settings(deadline=None, derandomize=True, max_examples=80)
@given(st.data())
def test_it_is_attention_to_whole_rows(data: st.DataObject) -> None:
    """Any groups in any order, several heads per key head, one query or several, padding on either part; also
    after rows have left and others have come.
    """
    torch.manual_seed(data.draw(st.integers(0, 1000)))
    heads, each = data.draw(st.sampled_from([1, 2])), data.draw(st.sampled_from([1, 3]))

    def some() -> Starts:
        lengths = data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=3))
        order = data.draw(st.lists(st.integers(0, len(lengths) - 1), max_size=4))
        groups = data.draw(st.permutations([*range(len(lengths)), *order]))
        return made(list(groups), lengths, heads, max(lengths))

    starts = some()
    if data.draw(st.booleans()):
        parts = [(s, data.draw(st.permutations(range(len(s.groups))))[:3]) for s in (starts, some())]
        keys = torch.cat([s.keys[0][[s.groups[r] for r in rows]][:, :, -1] for s, rows in parts])
        starts = joined_starts(parts)
        assert torch.equal(starts.keys[0][starts.groups][:, :, -1], keys)  # each row has the start it had
        assert starts.seen.any(0)[0]  # no column is left of all of them
    rows, length, own = len(starts.groups), data.draw(st.sampled_from([1, 2])), data.draw(st.integers(2, 5))
    own = length if length > 1 else own
    q = torch.randn(rows, heads * each, length, WIDTH)
    k, v = torch.randn(rows, heads, own, WIDTH), torch.randn(rows, heads, own, WIDTH)
    mask = torch.ones(rows, 1, length, own, dtype=torch.bool).tril(own - length)
    left_out = length == 1 or data.draw(st.booleans())
    if not left_out or length == 1:
        mask[0, :, :, 0] = False  # a padded row
    expected = plain(starts, q, k, v, mask, each)
    with starts.used():
        module = SimpleNamespace(layer_idx=0)
        found, _ = attend(module, q, k, v, None if left_out and length > 1 else mask)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_without_starts_it_is_transformers_own() -> None:
    q, k, v = (torch.randn(2, 2, 3, WIDTH) for _ in range(3))
    module = SimpleNamespace(layer_idx=0, is_causal=True)
    found, _ = attend(module, q, k, v, None)
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    torch.testing.assert_close(found, expected.transpose(1, 2))


def test_starts_are_left_when_something_goes_wrong() -> None:
    """The next forward must not follow the starts of a batch that has failed."""
    starts = made([0], [2], 1, 2)
    try:
        with starts.used():
            raise MemoryError
    except MemoryError:
        pass
    test_without_starts_it_is_transformers_own()
