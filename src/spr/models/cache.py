"""Keys and values of what the model has read and written, for a batch whose rows come and go.

transformers' own layers join the new columns to the old ones, so that every token of an answer copies all
that was there before it. Here each layer has room behind its last column, and a step writes one. All rows end
at the same column: shorter ones are padded on the left.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

ROOM = 64  # ours: columns that a layer grows by


class RoomyLayer(DynamicLayer):  # type: ignore[no-untyped-call]
    """A layer with full attention. `keys` and `values` (B, heads, columns, width) are views of longer
    tensors.
    """

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the new columns behind the old ones."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        begin = self.get_seq_length()
        if begin == 0:
            self._long = tuple(x.new_empty(*x.shape[:2], 0, x.shape[3]) for x in (key_states, value_states))
        end = begin + key_states.shape[-2]
        if end > self._long[0].shape[-2]:
            self._long = tuple(_longer(x[:, :, :begin], end + ROOM) for x in self._long)
        for long, new in zip(self._long, (key_states, value_states), strict=True):
            long[:, :, begin:end] = new
        return self._show(end)

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Go on with these rows."""
        end = self.get_seq_length()
        self._long = tuple(
            _longer(x[:, :, :end].index_select(0, indices.to(x.device)), end + ROOM) for x in self._long
        )
        self._show(end)

    def _show(self, end: int) -> tuple[torch.Tensor, torch.Tensor]:
        keys, values = (x[:, :, :end] for x in self._long)
        self.keys, self.values = keys, values
        return keys, values


def _longer(x: torch.Tensor, columns: int) -> torch.Tensor:
    """A tensor with room for `columns`, that begins with `x`."""
    long = x.new_empty(*x.shape[:2], columns, x.shape[3])
    long[:, :, : x.shape[2]] = x
    return long


def new_cache(config: Any) -> DynamicCache:
    """An empty cache for a model."""
    cache = DynamicCache(config=config)
    roomy: Any = RoomyLayer
    cache.layers = [roomy() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


def is_known(config: Any) -> bool:
    """Whether rows of this model's cache can come and go: keys and values in every layer, of all columns or
    of a window. Not so where a layer keeps a state of its own (linear attention).
    """
    return all(type(layer) in (RoomyLayer, DynamicSlidingWindowLayer) for layer in new_cache(config).layers)


def is_roomy(config: Any) -> bool:
    """Whether rows can be put beside others: every layer keeps all columns."""
    return all(type(layer) is RoomyLayer for layer in new_cache(config).layers)


def joined(parts: Sequence[tuple[DynamicCache, torch.Tensor, int]], columns: int) -> DynamicCache:
    """What of several roomy caches goes on, as one: of each the rows that are named and the columns from
    `start` on, padded on the left to `columns`. They are emptied on the way: memory holds one layer twice.
    """
    result = parts[0][0]
    layers: list[Any] = result.layers
    for number, layer in enumerate(layers):
        others = [(cache.layers[number], rows, start) for cache, rows, start in parts]
        long = tuple(
            _right_aligned(
                [_taken(getattr(other, name), rows, start) for other, rows, start in others],
                columns,
            )
            for name in ("keys", "values")
        )
        for other, _, _ in others[1:]:
            other.reset()
        layer._long = long
        layer._show(columns)
    return result


def _taken(x: torch.Tensor, rows: torch.Tensor, start: int) -> torch.Tensor:
    """Some rows, and their columns from `start` on. A layer may be on a device of its own."""
    return x[:, :, start:].index_select(0, rows.to(x.device))


def _right_aligned(parts: Sequence[torch.Tensor], columns: int) -> torch.Tensor:
    """Rows of all parts (B_i, heads, T_i, width), with zeros on their left and room on their right."""
    first = parts[0]
    rows = sum(len(part) for part in parts)
    long = first.new_empty(rows, first.shape[1], columns + ROOM, first.shape[3])
    begin = 0
    for part in parts:
        end, left = begin + len(part), columns - part.shape[2]
        long[begin:end, :, :left] = 0  # masked, but what stands there is multiplied by 0: no NaN
        long[begin:end, :, left:columns] = part
        begin = end
    return long


def bytes_per_token(cache: DynamicCache) -> float:
    """Memory of one column of one row, over all layers."""
    layers: list[Any] = cache.layers
    total: int = sum(x.nbytes for layer in layers for x in (layer.keys, layer.values))
    return total / (len(layers[0].keys) * cache.get_seq_length())
