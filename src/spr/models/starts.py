"""Prompts that begin alike keep their start once: its keys and values stand beside the cache, not in it.

In: a batch of rows, of which some begin with the same tokens (a picture, a prompt with several samples).
Their attention is one softmax over two parts: the start, read once for all rows of its group, and what each
row has of its own, which is all that its cache holds. A step reads a picture's hundreds of columns once, not
once for every answer about it, and memory holds them once.
Runs in the place of transformers' sdpa attention while a start is in use, and hands over to it otherwise.
Scores are rounded to the type of the model, as in eager attention.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "spr_starts"


@dataclass(slots=True)
class Starts:
    """The starts of a batch. `groups[row]` is the number of the row's start."""

    keys: list[torch.Tensor]  # per layer (G, heads, P, width), left-padded
    values: list[torch.Tensor]
    seen: torch.Tensor  # (G, P): False where a start is padded
    groups: list[int]
    padded: bool = field(init=False)
    _slots: torch.Tensor = field(init=False)  # (G, R): rows of each group, the last one repeated
    _places: torch.Tensor | None = field(init=False)  # (B,): where each row stands in them; None: in order

    def __post_init__(self) -> None:
        members: list[list[int]] = [[] for _ in self.seen]
        for row, group in enumerate(self.groups):
            members[group].append(row)
        most = max(map(len, members))
        places = [0] * len(self.groups)
        for group, rows in enumerate(members):
            for k, row in enumerate(rows):
                places[row] = group * most + k
        in_order = places == list(range(len(self.seen) * most))
        device = self.seen.device
        self._places = None if in_order else torch.tensor(places, device=device)
        padded = [(rows + [rows[-1] if rows else 0] * most)[:most] for rows in members]
        self._slots = torch.tensor(padded, device=device)
        self.padded = not bool(self.seen.all())

    @property
    def tokens(self) -> int:
        """Columns that are kept."""
        return self.seen.numel()

    def take(self, rows: Sequence[int]) -> Starts:
        """The starts of these rows."""
        return joined_starts([(self, rows)])

    def by_group(self, x: torch.Tensor) -> torch.Tensor:
        """(B, heads, M, …) -> (G, heads, R * M, …)."""
        _, heads, length, width = x.shape
        groups, most = self._slots.shape
        x = x if self._places is None else x[self._slots.flatten().to(x.device)]
        x = x.reshape(groups, most, heads, length, width).transpose(1, 2)
        return x.reshape(groups, heads, most * length, width)

    def by_row(self, x: torch.Tensor, length: int) -> torch.Tensor:
        """(G, heads, R * M, …) -> (B, heads, M, …), M = `length`."""
        groups, heads, _, width = x.shape
        most = self._slots.shape[1]
        x = x.reshape(groups, heads, most, length, width).transpose(1, 2)
        x = x.reshape(groups * most, heads, length, width)
        return x if self._places is None else x[self._places.to(x.device)]

    @contextlib.contextmanager
    def used(self) -> Iterator[None]:
        """Within: what the model reads follows these starts."""
        global _current
        _current = self
        try:
            yield
        finally:
            _current = None


_current: Starts | None = None


def starts_in(cache: Any, mask: torch.Tensor | None, groups: list[int]) -> Starts:
    """What a cache holds, as the starts of rows of these groups; `mask` (G, P), None: nothing is padded."""
    keys = [layer.keys for layer in cache.layers]
    device = keys[0].device
    seen = torch.ones(len(keys[0]), keys[0].shape[2], device=device) if mask is None else mask
    return Starts(keys, [layer.values for layer in cache.layers], seen.bool(), groups)


def joined_starts(parts: Sequence[tuple[Starts, Sequence[int]]]) -> Starts:
    """The starts of some rows of several batches, as one."""
    used = [sorted({starts.groups[row] for row in rows}) for starts, rows in parts]
    columns = max(starts.seen.shape[1] for starts, _ in parts)

    def whole(tensors: Sequence[torch.Tensor], *pads: int) -> torch.Tensor:
        if len(tensors) == 1 and len(used[0]) == len(tensors[0]):
            return tensors[0]
        chosen = [
            torch.nn.functional.pad(
                x.index_select(0, torch.tensor(groups, device=x.device)),
                (*pads, columns - starts.seen.shape[1], 0),
            )
            for x, groups, (starts, _) in zip(tensors, used, parts, strict=True)
        ]
        return torch.cat(chosen)

    layers = range(len(parts[0][0].keys))
    groups: list[int] = []
    before = 0
    for (starts, rows), kept in zip(parts, used, strict=True):
        number = {group: before + k for k, group in enumerate(kept)}
        groups += [number[starts.groups[row]] for row in rows]
        before += len(kept)
    seen = whole([starts.seen for starts, _ in parts])
    empty = int(seen.int().argmax(1).min())  # columns that are left of every start
    return Starts(
        [whole([starts.keys[layer] for starts, _ in parts], 0, 0)[:, :, empty:] for layer in layers],
        [whole([starts.values[layer] for starts, _ in parts], 0, 0)[:, :, empty:] for layer in layers],
        seen[:, empty:],
        groups,
    )


def attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of (B, heads, length, width) queries to the starts in use and to the rows' own keys."""
    starts = _current
    if starts is None:
        sdpa: Any = sdpa_attention_forward
        found: tuple[torch.Tensor, None] = sdpa(
            module, query, key, value, attention_mask, scaling=scaling, **kwargs
        )
        return found
    rows, heads, length, width = query.shape
    shared = key.shape[1]  # several heads of queries read one of keys
    each = heads // shared * length
    q = (query * (width**-0.5 if scaling is None else scaling)).reshape(rows, shared, each, width)
    own = q @ key.transpose(-1, -2)
    if attention_mask is None and length > 1:  # transformers leaves out a mask that is merely causal
        attention_mask = torch.ones(length, key.shape[2], dtype=torch.bool, device=key.device).tril()
    if attention_mask is not None:
        by_head = own.reshape(rows, shared, heads // shared, length, -1)
        own = by_head.masked_fill(~attention_mask[..., None, :, :], -torch.inf).reshape(own.shape)
    keys, values = starts.keys[module.layer_idx], starts.values[module.layer_idx]
    before = starts.by_group(q) @ keys.transpose(-1, -2)
    if starts.padded:
        before = before.masked_fill(~starts.seen.to(before.device)[:, None, None], -torch.inf)
    scores = torch.cat([starts.by_row(before, each), own], dim=-1)
    weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(value.dtype)
    columns = keys.shape[2]
    out = starts.by_row(starts.by_group(weights[..., :columns]) @ values, each)
    out = out + weights[..., columns:] @ value
    return out.reshape(rows, heads, length, width).transpose(1, 2).contiguous(), None


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, sdpa_mask)
