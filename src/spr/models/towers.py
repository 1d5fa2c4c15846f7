"""Vision transformers of dual encoders: the embedding of a picture, and of regions of it through local
attention (method 2.3).

In: pixel tensors of one image and, per region, which patches lie in it. Out: region embeddings, not
normalised.
Class-token towers (CLIP and its kin): the full image runs through all blocks but the last once; in the last
one the class token attends only to itself and to the patches of the region; then the usual rest of the block,
post-norm and projection. Probe towers (SigLIP, SigLIP 2) have no class token: the pooling probe attends only
to the patches of the region. A region that holds every patch gives the embedding of the whole image.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F  # noqa: N812

from spr.errors import ConfigError
from spr.types import Box


class Tower(Protocol):
    """What a scorer needs of a vision tower."""

    def states(self, pixels: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """What all regions of one image share. (1, tokens, width)."""
        ...

    def regions(self, states: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
        """Embeddings (R, E) of regions, given which patches are inside, (R, patches) bool, at least one
        each.
        """
        ...


class ClassTokenTower:
    """CLIP and towers built like it."""

    def __init__(self, model: Any) -> None:
        self.vision, self.project = model.vision_model, model.visual_projection
        self.last = self.vision.encoder.layers[-1]

    def states(self, pixels: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """What goes into the last block."""
        states: torch.Tensor = self.vision(**pixels, output_hidden_states=True).hidden_states[-2]
        return states

    def regions(self, states: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
        """The last block for the class token alone, once per region."""
        attention, count = self.last.self_attn, len(inside)
        seen = torch.cat([torch.ones_like(inside[:, :1]), inside], dim=1)[:, None, None]
        normed = self.last.layer_norm1(states)

        def heads(x: torch.Tensor) -> torch.Tensor:
            return x.view(1, x.shape[1], attention.num_heads, -1).transpose(1, 2).expand(count, -1, -1, -1)

        q, k, v = (
            heads(attention.q_proj(normed[:, :1])),
            heads(attention.k_proj(normed)),
            heads(attention.v_proj(normed)),
        )
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=seen, scale=attention.scale)
        token = states[:, :1] + attention.out_proj(mixed.transpose(1, 2).reshape(count, 1, -1))
        token = token + self.last.mlp(self.last.layer_norm2(token))
        embedding: torch.Tensor = self.project(self.vision.post_layernorm(token[:, 0]))
        return embedding


class ProbeTower:
    """SigLIP and SigLIP 2."""

    def __init__(self, model: Any) -> None:
        self.vision, self.head = model.vision_model, model.vision_model.head

    def states(self, pixels: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The patches after the last block and its norm."""
        states: torch.Tensor = self.vision(**pixels).last_hidden_state
        return states

    def regions(self, states: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
        """The pooling head, once per region; patches that only pad the picture are never inside."""
        count = len(inside)
        outside = torch.ones(count, states.shape[1], dtype=torch.bool, device=states.device)
        outside[:, : inside.shape[1]] = ~inside
        keys = states.expand(count, -1, -1)
        pooled = self.head.attention(
            self.head.probe.repeat(count, 1, 1), keys, keys, key_padding_mask=outside, need_weights=False
        )[0]
        pooled = pooled + self.head.mlp(self.head.layernorm(pooled))
        embedding: torch.Tensor = pooled[:, 0]
        return embedding


def tower_of(model: Any, folder: str) -> Tower:
    """The tower of a dual encoder. Raises ConfigError for one that is built differently."""
    vision = getattr(model, "vision_model", None)
    attention = getattr(getattr(getattr(vision, "encoder", None), "layers", [None])[-1], "self_attn", None)
    if (
        hasattr(model, "visual_projection")
        and hasattr(vision, "post_layernorm")
        and all(hasattr(attention, n) for n in ("q_proj", "out_proj", "scale"))
    ):
        return ClassTokenTower(model)
    if hasattr(getattr(vision, "head", None), "probe"):
        return ProbeTower(model)
    raise ConfigError(
        f"semantic.folder: found a {model.config.model_type!r} model in {folder!r}, expected a dual "
        "encoder whose vision transformer has a class"
        " token (CLIP) or a pooling probe (SigLIP)"
    )


def patches_inside(centres: NDArray[np.float64], region: Box) -> NDArray[np.bool_]:
    """Which patches have their centre (P, 2) in the region; the nearest one when none has."""
    x, y = centres[:, 0], centres[:, 1]
    found = (x >= region[0]) & (x < region[2]) & (y >= region[1]) & (y < region[3])
    if not found.any():
        gap_x = np.maximum(np.maximum(region[0] - x, x - region[2]), 0)
        gap_y = np.maximum(np.maximum(region[1] - y, y - region[3]), 0)
        middle = np.hypot(x - (region[0] + region[2]) / 2, y - (region[1] + region[3]) / 2)
        found[np.lexsort((middle, np.hypot(gap_x, gap_y)))[0]] = True
    result: NDArray[np.bool_] = found
    return result
