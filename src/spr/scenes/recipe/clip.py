"""Stage `clip`: the semantic scorer, a CLIPModel that knows which description fits a crop.

Contrastive training on crops of regions and on whole scenes, each with its plain description; every image
also meets one spoiled description (a noun swapped, dropped or added). The temperature stays at 100, where
large CLIP models end.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from spr.scenes.language import names
from spr.scenes.recipe.architectures import CLIP_LENGTH, build_clip, load_tower
from spr.scenes.recipe.dense import pixels
from spr.scenes.recipe.loop import Schedule, Workshop, train_stage
from spr.scenes.recipe.questions import NOUN_LIST
from spr.scenes.world import Thing


def spoiled(things: Sequence[Thing], rng: random.Random) -> list[Thing]:
    """The same things with one noun swapped (half of the time), one left out, or one too many."""
    found, kind = list(things), rng.random()
    i = rng.randrange(len(found))
    other = rng.choice([n for n in NOUN_LIST if n != found[i].noun])
    if kind < 0.5 or (kind < 0.75 and len(found) == 1):
        found[i] = replace(found[i], noun=other)
    elif kind < 0.75:
        found.pop(i)
    else:
        x = rng.uniform(0, 448)
        found.append(Thing(other, (x, 0.0, x, 1.0)))
    return found


def train_clip(shop: Workshop, steps: int) -> None:
    """Train the dual encoder."""
    torch.manual_seed(0)
    model, processor = build_clip()
    model.set_attn_implementation("eager")
    load_tower(shop.part("dense", "tower."), model.vision_model)
    scenes, regions = shop.set("train"), shop.set("regions")
    assert regions.crops is not None
    crops = regions.crops

    def texts(things: Sequence[Sequence[Thing]]) -> Tensor:
        said = [f"{names(t)}." for t in things]
        tokens = processor.tokenizer(
            said,
            padding=True,
            truncation=True,
            max_length=CLIP_LENGTH,
            return_tensors="pt",
            return_token_type_ids=False,
        )
        return functional.normalize(
            model.text_projection(model.text_model(**tokens).pooler_output).float(), dim=-1
        )

    def loss_at(step: int) -> tuple[Tensor, Mapping[str, float]]:
        rng = random.Random(f"clip/{step}")
        a = shop.draw("clip crops", step, len(regions.seen), 96)
        b = shop.draw("clip scenes", step, len(scenes.seen), 32)
        said = [regions.seen[i].held for i in a] + [scenes.seen[i].things for i in b]
        with torch.autocast("cpu", torch.bfloat16):
            x = pixels(np.concatenate([crops[a], scenes.images[b]]))
            images = functional.normalize(
                model.visual_projection(model.vision_model(pixel_values=x).pooler_output).float(), dim=-1
            )
            written = texts([*said, *(spoiled(s, rng) for s in said)])
        logits = model.logit_scale.exp() * images @ written.T
        target, n = torch.arange(len(said)), len(said)
        loss = (
            functional.cross_entropy(logits, target) + functional.cross_entropy(logits[:, :n].T, target)
        ) / 2
        return loss, {"right_texts": (logits.argmax(1) == target).float().mean().item()}

    train_stage(
        "clip",
        model,
        loss_at,
        Schedule(shop.steps(steps), 1e-3, weight_decay=0.1, slow="vision_model"),
        shop.folder,
    )
