"""Grounding DINO and MM-Grounding-DINO: one phrase per caption, the image backbone once per image.

The text is fused into the image from the encoder on, so only the backbone's features are shared; captions
with equally many tokens run as one batch: rounding decides which of the image's places just become queries,
and padding rounds more. Images run together where the processor makes them equally large. A detection's score
is the largest probability over the phrase's own tokens. A phrase beyond the text limit (256 tokens) is asked
in pieces.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import nn

from spr.models.inputs import placed
from spr.models.memory import in_halves
from spr.models.windows import sentence_windows
from spr.types import Detection

ENDS = 3  # [CLS], the full stop, [SEP]


@dataclass(frozen=True, slots=True)
class Pixels:
    """values (1, 3, H, W) and mask (1, H, W) of an image, and its original size (width, height)."""

    values: torch.Tensor
    mask: torch.Tensor
    size: tuple[int, int]


@dataclass(frozen=True, slots=True)
class PreparedImage:
    """An image on the device, and what the backbone made of it: (features, mask) and positions per level."""

    pixels: Pixels
    features: Sequence[tuple[torch.Tensor, torch.Tensor]]
    positions: Sequence[torch.Tensor]


class _GivenBackbone(nn.Module):
    """Stands in the place of the backbone and hands out what it made of the prepared images, one for each
    caption.
    """

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner
        self.position_embedding = inner.position_embedding
        self.images: Sequence[PreparedImage] = ()

    def forward(
        self, pixel_values: torch.Tensor, pixel_mask: torch.Tensor
    ) -> tuple[list[Any], list[torch.Tensor]]:
        levels = range(len(self.images[0].features))
        features = [
            tuple(torch.cat([image.features[level][part] for image in self.images]) for part in (0, 1))
            for level in levels
        ]
        return features, [torch.cat([image.positions[level] for image in self.images]) for level in levels]


class GroundingDinoEngine:
    """A Grounding DINO with its processor."""

    batch = 4  # ours: captions per forward

    def __init__(self, model: Any, processor: Any) -> None:
        self.model, self.processor, self.tokenizer = model, processor, processor.tokenizer
        self.backbone = _GivenBackbone(model.model.backbone)
        model.model.backbone = self.backbone
        self.limit = int(model.config.max_text_len)

    def pixels(self, image: Image.Image) -> Pixels:
        """What the processor makes of an image."""
        inputs = self.processor.image_processor(images=image.convert("RGB"), return_tensors="pt")
        return Pixels(inputs["pixel_values"], inputs["pixel_mask"], image.size)

    def prepare(self, images: Sequence[Pixels]) -> list[PreparedImage]:
        """The backbone's features of images; those of one shape in one pass."""
        by_shape: dict[torch.Size, list[int]] = {}
        for k, image in enumerate(images):
            by_shape.setdefault(image.values.shape, []).append(k)
        found: dict[int, PreparedImage] = {}
        for numbers in by_shape.values():
            pixels = placed(torch.cat([images[k].values for k in numbers]), self.model)
            mask = placed(torch.cat([images[k].mask for k in numbers]), self.model)
            features, positions = self.backbone.inner(pixels, mask)
            for row, k in enumerate(numbers):
                one = slice(row, row + 1)
                found[k] = PreparedImage(
                    Pixels(pixels[one], mask[one], images[k].size),
                    [(source[one], seen[one]) for source, seen in features],
                    [position[one] for position in positions],
                )
        return [found[k] for k in range(len(images))]

    def _tokens(self, phrase: str) -> tuple[int, ...]:
        """`[CLS] phrase . [SEP]`; a full stop inside would end the phrase, so it becomes a blank."""
        words = " ".join(phrase.lower().replace(".", " ").replace("?", " ").split())
        return tuple(self.tokenizer(f"{words}.", verbose=False)["input_ids"])

    def find(
        self, asked: Sequence[tuple[PreparedImage, str]], threshold: float, batch: int
    ) -> list[list[Detection]]:
        """For each image with a phrase every box whose score is above `threshold`, best first. At most
        `batch` captions run at once.
        """
        alike: dict[tuple[torch.Size, int], list[_Caption]] = {}
        for k, (image, phrase) in enumerate(asked):
            for piece in sentence_windows(phrase, lambda t: len(self._tokens(t)), self.limit):
                if len(ids := self._tokens(piece)) > ENDS:
                    shape = image.pixels.values.shape, len(ids)
                    alike.setdefault(shape, []).append(_Caption(k, image, phrase, ids))
        found: list[list[Detection]] = [[] for _ in asked]
        for captions in alike.values():
            boxes = in_halves(lambda part: self._ask(part, threshold), captions, batch)[0]
            for caption, detections in zip(captions, boxes, strict=True):
                found[caption.number] += detections
        return [sorted(detections, key=lambda d: -d.score) for detections in found]

    def _ask(self, captions: Sequence[_Caption], threshold: float) -> list[list[Detection]]:
        ids = torch.tensor([caption.ids for caption in captions], device=self.model.device)
        self.backbone.images = [caption.image for caption in captions]
        out = self.model(
            pixel_values=torch.cat([caption.image.pixels.values for caption in captions]),
            pixel_mask=torch.cat([caption.image.pixels.mask for caption in captions]),
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            token_type_ids=torch.zeros_like(ids),
        )
        self.backbone.images = ()
        cx, cy, bw, bh = out.pred_boxes.float().unbind(-1)
        corners = torch.stack([cx - bw / 2, cy - bh / 2, cx + bw / 2, cy + bh / 2], dim=-1)
        found = []
        for k, caption in enumerate(captions):
            w, h = caption.image.pixels.size
            scores = torch.sigmoid(out.logits[k, :, 1 : ids.shape[1] - 2].float()).amax(-1)
            boxes = corners[k] * torch.tensor([w, h, w, h], device=corners.device)
            found.append(_above(boxes, scores, caption.phrase, threshold))
        return found


@dataclass(frozen=True, slots=True)
class _Caption:
    """A phrase, or a piece of one, that is asked about an image; `number`: for which question."""

    number: int
    image: PreparedImage
    phrase: str
    ids: tuple[int, ...]


def _above(boxes: torch.Tensor, scores: torch.Tensor, phrase: str, threshold: float) -> list[Detection]:
    kept = torch.nonzero(~(scores <= threshold))[:, 0]  # what is no number is seen by whoever asked
    found = zip(boxes[kept].double().tolist(), scores[kept].double().tolist(), strict=True)
    return [Detection((x1, y1, x2, y2), score, phrase) for (x1, y1, x2, y2), score in found]
