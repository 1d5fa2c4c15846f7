"""Stage `dense`: the vision tower learns what is where.

Every patch whose centre lies in a thing says its noun (cross entropy) and its distances to the four sides of
the box (smooth L1). In: the set `train`. Out: a tower that starts all three models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPVisionConfig, CLIPVisionModel

from spr.scenes.recipe.architectures import GRID, VISION, WIDTH
from spr.scenes.recipe.data import NUMBER, Pixels, Seen
from spr.scenes.recipe.loop import Schedule, Workshop, train_stage

NOTHING = len(NUMBER)  # the class of a patch with no thing over its centre
# CLIP's normalisation, as the shipped processors have it
_MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073])
_STD = torch.tensor([0.26862954, 0.26130258, 0.27577711])
_CENTRE = (torch.arange(GRID) + 0.5) / GRID
CENTRES = torch.stack([_CENTRE.repeat(GRID), _CENTRE.repeat_interleave(GRID)], 1)  # (patches, xy) in 0..1


def pixels(array: Pixels) -> Tensor:
    """(n, H, W, 3) uint8 -> (n, 3, H, W), normalised as the processors do it."""
    x = torch.from_numpy(np.ascontiguousarray(array)).float() / 255
    return ((x - _MEAN) / _STD).permute(0, 3, 1, 2).contiguous()


def owners(seen: Sequence[Seen]) -> tuple[Tensor, Tensor]:
    """Per scene and patch: the noun of the smallest thing over the patch's centre (NOTHING = none), and that
    thing's box in 0..1.
    """
    nouns = torch.full((len(seen), GRID**2), NOTHING)
    boxes = torch.zeros(len(seen), GRID**2, 4)
    for n, scene in enumerate(seen):
        unit = torch.from_numpy(scene.unit_boxes())
        for i in scene.largest_first():
            inside = ((unit[i, :2] <= CENTRES) & (unit[i, 2:] >= CENTRES)).all(1)
            nouns[n, inside], boxes[n, inside] = NUMBER[scene.things[i].noun], unit[i]
    return nouns, boxes


class Dense(nn.Module):
    """The tower with one linear head on its patches: (n, patches, nouns + 1 + 4)."""

    def __init__(self) -> None:
        super().__init__()
        self.tower = CLIPVisionModel(CLIPVisionConfig(**VISION))
        self.tower.set_attn_implementation("eager")
        self.head = nn.Linear(WIDTH, NOTHING + 1 + 4)

    def forward(self, x: Tensor) -> Tensor:
        """What every patch says."""
        with torch.autocast("cpu", torch.bfloat16):
            found: Tensor = self.head(self.tower(pixel_values=x).last_hidden_state[:, 1:])
        return found.float()


def train_dense(shop: Workshop, steps: int) -> None:
    """Train the tower."""
    torch.manual_seed(0)
    model, data = Dense(), shop.set("train")
    nouns, boxes = owners(data.seen)

    def loss_at(step: int) -> tuple[Tensor, Mapping[str, float]]:
        pick = shop.draw("dense", step, len(data.seen), 64)
        said, noun, box = model(pixels(data.images[pick])), nouns[pick], boxes[pick]
        inside = noun != NOTHING
        sides = torch.cat([CENTRES - box[..., :2], box[..., 2:] - CENTRES], -1)
        what = functional.cross_entropy(said[..., : NOTHING + 1].flatten(0, 1), noun.flatten())
        where = functional.smooth_l1_loss(said[..., NOTHING + 1 :][inside], sides[inside] * GRID, beta=0.1)
        right = (said[..., : NOTHING + 1].argmax(-1) == noun)[inside].float().mean()
        return what + where, {"right_patches": right.item()}

    train_stage(
        "dense",
        model,
        loss_at,
        Schedule(shop.steps(steps), 1.5e-3, warmup=200, weight_decay=0.05),
        shop.folder,
    )
