"""Stage `owl`: the open-vocabulary detector, an OwlViTForObjectDetection that finds the nouns of the world.

The patch under a thing's centre must say its noun (focal loss over all nouns) and its box (L1 and generalised
IoU); all others say nothing, so that no suppression of doubles is needed afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import OwlViTForObjectDetection

from spr.scenes.recipe.architectures import GRID, OWL_LENGTH, build_owl, load_tower
from spr.scenes.recipe.data import NUMBER, Seen
from spr.scenes.recipe.dense import pixels
from spr.scenes.recipe.loop import Schedule, Workshop, train_stage
from spr.stages.prompts import with_article

PHRASES = [with_article(noun) for noun in NUMBER]


def targets(seen: Sequence[Seen]) -> tuple[Tensor, Tensor]:
    """(scenes, patches): the noun whose thing has its centre there, -1 for none, the smaller thing where two
    share a patch; and its box in 0..1.
    """
    nouns, boxes = torch.full((len(seen), GRID**2), -1), torch.zeros(len(seen), GRID**2, 4)
    for n, scene in enumerate(seen):
        unit = torch.from_numpy(scene.unit_boxes())
        cells = ((unit[:, :2] + unit[:, 2:]) / 2 * GRID).long().clamp(0, GRID - 1)
        for i in scene.largest_first():
            patch = int(cells[i, 1]) * GRID + int(cells[i, 0])
            nouns[n, patch], boxes[n, patch] = NUMBER[scene.things[i].noun], unit[i]
    return nouns, boxes


def corners(b: Tensor) -> Tensor:
    """(centre, size) -> xyxy."""
    return torch.cat([b[..., :2] - b[..., 2:] / 2, b[..., :2] + b[..., 2:] / 2], -1)


def generalized_iou(a: Tensor, b: Tensor) -> Tensor:
    """GIoU of boxes row by row (arXiv 1902.09630)."""

    def area(t: Tensor) -> Tensor:
        return (t[..., 2:] - t[..., :2]).clamp(min=0).prod(-1)

    def around(low: Tensor, high: Tensor) -> Tensor:
        return (high - low).clamp(min=0).prod(-1)

    overlap = around(torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:]))
    hull = around(torch.minimum(a[..., :2], b[..., :2]), torch.maximum(a[..., 2:], b[..., 2:]))
    union = area(a) + area(b) - overlap
    return overlap / union.clamp(min=1e-9) - (hull - union) / hull.clamp(min=1e-9)


def predict(model: OwlViTForObjectDetection, tokens: Mapping[str, Any], x: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (n, patches, nouns) and boxes (n, patches, 4) in 0..1."""
    query = model.owlvit.text_projection(model.owlvit.text_model(**tokens).pooler_output)
    feature_map: Tensor = model.image_embedder(pixel_values=x)[0]
    features = feature_map.flatten(1, 2)
    logits: Tensor = model.class_predictor(features, query[None].expand(len(x), -1, -1), None)[0]
    return logits.float(), corners(model.box_predictor(features, feature_map).float())


def train_owl(shop: Workshop, steps: int) -> None:
    """Train the detector."""
    torch.manual_seed(0)
    model, processor = build_owl()
    model.set_attn_implementation("eager")
    load_tower(shop.part("dense", "tower."), model.owlvit.vision_model)
    with torch.no_grad():  # start near the rate of nouns, with logits that can move
        model.class_head.logit_shift.bias.fill_(-1.0)
        model.class_head.logit_scale.bias.fill_(4.0)
    data = shop.set("train")
    nouns, boxes = targets(data.seen)
    tokens = processor.tokenizer(
        PHRASES,
        padding="max_length",
        truncation=True,
        max_length=OWL_LENGTH,
        return_tensors="pt",
        return_token_type_ids=False,
    )

    def loss_at(step: int) -> tuple[Tensor, Mapping[str, float]]:
        pick = shop.draw("owl", step, len(data.seen), 64)
        held, box = nouns[pick] >= 0, boxes[pick]
        said = functional.one_hot(nouns[pick].clamp(min=0), len(PHRASES)).float() * held[..., None]
        with torch.autocast("cpu", torch.bfloat16):
            logits, found = predict(model, tokens, pixels(data.images[pick]))
        p = logits.sigmoid()
        wrong = (1 - p) * said + p * (1 - said)
        focal = (
            0.5 * functional.binary_cross_entropy_with_logits(logits, said, reduction="none") * wrong**2
        ).sum() / held.sum()
        place = (
            5 * (found[held] - box[held]).abs().sum(-1).mean()
            + 2 * (1 - generalized_iou(found[held], box[held])).mean()
        )
        return 2 * focal + place, {"focal": focal.item(), "place": place.item()}

    train_stage(
        "owl",
        model,
        loss_at,
        Schedule(shop.steps(steps), 1e-3, weight_decay=0.05, slow="vision_model"),
        shop.folder,
    )
