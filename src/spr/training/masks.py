"""Who sees whom in packed rows, in the form that the model's attention takes.

In: rows (prefix trees), side by side, padded to one length. Out: for SDPA and eager attention a mask of
(rows, 1, length, length) that is added to the logits; for FlexAttention a block mask, whose empty blocks of
128 x 128 are not computed. Both are made on the device from a few numbers per token.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask

from spr.errors import ConfigError
from spr.training.families import FLEX, Family
from spr.training.packing import Layout, Row, spans

ALIGNED = 16  # of torch's memory-efficient attention
BLOCK = 128  # of FlexAttention

Sees = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class _Tokens:
    """What decides who is seen, each (rows, length), or the part of it for some queries or keys. A token sees
    those in whose `enter` to `leave` its own `enter` lies: its ancestors and itself.
    """

    enter: Tensor
    leave: Tensor
    position: Tensor
    image: Tensor
    prompt: Tensor

    @classmethod
    def of(cls, rows: Sequence[Row], length: int, device: Any) -> _Tokens:
        """The tokens of rows on a device. Padding is a tree of its own per token: it sees itself only."""
        alone = np.tile(np.arange(length), (len(rows), 1))
        enter, leave, position, image, prompt = alone, alone + 1, 0 * alone, 0 * alone, 0 * alone
        for i, row in enumerate(rows):
            n = len(row)
            enter[i, :n], leave[i, :n] = spans(row)
            position[i, :n], image[i, :n], prompt[i, :n] = row.positions[0], row.image, row.prompt
        facts = torch.from_numpy(np.stack([enter, leave, position, image, prompt])).int().to(device)
        return cls(facts[0], facts[1], facts[2], facts[3] > 0, facts[4] > 0)

    def at(self, *index: Any) -> _Tokens:
        """Those at an index."""
        return _Tokens(
            self.enter[index], self.leave[index], self.position[index], self.image[index], self.prompt[index]
        )


def _sees(query: _Tokens, key: _Tokens, layout: Layout, window: int | None) -> Tensor:
    """Whether queries see keys. See `seen`."""
    found = (key.enter <= query.enter) & (query.enter < key.leave)
    if window is not None:
        found = found & (query.position - key.position < window)
    if layout == "image_block":
        found = found | (query.image & key.image)
    elif layout == "prefix":
        found = found | (query.prompt & key.prompt)
    return found


def seen(
    rows: Sequence[Row],
    length: int,
    layout: Layout = "causal",
    window: int | None = None,
    device: Any = "cpu",
) -> Tensor:
    """Who sees whom: bool (rows, length, length), [row, query, key]. `window` counts positions, not nodes: a
    key at least that far back is not seen.

    causal: ancestors and itself · image_block: image tokens also see each other · prefix: all prompt tokens
    see each other. Padding sees itself only.
    """
    tokens = _Tokens.of(rows, length, device)
    return _sees(tokens.at(slice(None), slice(None), None), tokens.at(slice(None), None), layout, window)


def block_mask(
    rows: Sequence[Row],
    length: int,
    layout: Layout = "causal",
    window: int | None = None,
    device: Any = "cpu",
) -> Any:
    """The same as FlexAttention's `BlockMask`."""
    tokens = _Tokens.of(rows, length, device)

    def sees(batch: Tensor, _: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return _sees(tokens.at(batch, query), tokens.at(batch, key), layout, window)

    return create_block_mask(sees, len(rows), None, length, length, device=device)


def padded(length: int, attention: str) -> int:
    """The length of a batch whose longest row has `length` tokens: FlexAttention is compiled again for
    every other number of blocks.
    """
    return -(-length // BLOCK) * BLOCK if attention == FLEX else length


def masks_of(
    rows: Sequence[Row], length: int, family: Family, attention: str, dtype: torch.dtype, device: Any
) -> Any:
    """The mask that a model of this family takes; one per kind of layer where the family has two."""

    def mask(window: int | None) -> Any:
        asked = (rows, length, family.layout or "causal", window, device)
        return block_mask(*asked) if attention == FLEX else _added(seen(*asked), dtype)

    if family.window is None:
        return mask(None)
    return {"full_attention": mask(None), "sliding_attention": mask(family.window)}


def _added(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """What attention adds to its logits: 0 where seen, the type's least value elsewhere. SDPA would make it
    anew from True and False in every layer, and keep each for the backward pass; its rows begin at multiples
    of 16, where kernels take them as they are.
    """
    rows, length, _ = mask.shape
    width = -(-length // ALIGNED) * ALIGNED
    made = torch.zeros(rows, 1, length, width, dtype=dtype, device=mask.device)[..., :length]
    return made.masked_fill_(~mask[:, None], torch.finfo(dtype).min)


def check_attention(attention: str, device: torch.device) -> None:
    """Raise ConfigError where this implementation of attention cannot be trained with."""
    if attention == FLEX and device.type == "cpu":
        raise ConfigError(
            f"train.attention: found {FLEX}, which has no backward pass on a CPU; expected sdpa there"
        )
