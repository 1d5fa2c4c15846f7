"""OWLv2 and OWL-ViT: one box per patch, scored against each phrase's text embedding.

The image features and boxes are computed once per image; a phrase costs one short text encoding and one
product with the patches. OWLv2 pads an image to a square at the bottom and right before it resizes, OWL-ViT
squashes it: boxes are scaled back accordingly, as their processors do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from spr.models.inputs import placed
from spr.models.memory import in_halves
from spr.models.windows import embed_in_windows, sentence_windows, unit
from spr.types import Detection


@dataclass(frozen=True, slots=True)
class Pixels:
    """values (1, 3, H, W) of an image, and its original size (width, height)."""

    values: torch.Tensor
    size: tuple[int, int]


@dataclass(frozen=True, slots=True)
class PreparedImage:
    """features (1, patches, width); boxes (patches, 4) xyxy in pixels of the original image."""

    features: torch.Tensor
    boxes: torch.Tensor


class OwlEngine:
    """OWLv2 or OWL-ViT with its processor."""

    batch = 64  # ours: phrases per forward

    def __init__(self, model: Any, processor: Any) -> None:
        self.model, self.processor, self.tokenizer = model, processor, processor.tokenizer
        self.inner = model.owlv2 if model.config.model_type == "owlv2" else model.owlvit
        self.square = model.config.model_type == "owlv2"
        self.length = int(model.config.text_config.max_position_embeddings)

    def pixels(self, image: Image.Image) -> Pixels:
        """What the processor makes of an image."""
        pixels = self.processor.image_processor(images=image.convert("RGB"), return_tensors="pt")
        return Pixels(pixels["pixel_values"], image.size)

    def prepare(self, images: Sequence[Pixels]) -> list[PreparedImage]:
        """The features and all boxes of images, in one pass."""
        pixels = placed(torch.cat([image.values for image in images]), self.model)
        grid, _ = self.model.image_embedder(pixel_values=pixels)
        features = grid.flatten(1, 2)
        cx, cy, w, h = self.model.box_predictor(features, grid).float().unbind(-1)
        corners = torch.stack([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], dim=-1)
        found = []
        for k, image in enumerate(images):
            size = (max(image.size),) * 2 if self.square else image.size
            boxes = corners[k] * torch.tensor([*size, *size], device=corners.device)
            found.append(PreparedImage(features[k : k + 1], boxes))
        return found

    def _embed(self, texts: Sequence[str]) -> torch.Tensor:
        batch = self.tokenizer(
            list(texts), padding="max_length", truncation=True, max_length=self.length, return_tensors="pt"
        ).to(self.model.device)
        return unit(
            self.inner.get_text_features(
                input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]
            ).pooler_output
        )

    def _windows(self, phrase: str) -> list[str]:
        """A phrase in pieces that the text encoder reads (16 tokens), so that nothing is cut."""
        return sentence_windows(
            phrase, lambda text: len(self.tokenizer(text, verbose=False)["input_ids"]), self.length
        )

    def find(
        self, asked: Sequence[tuple[PreparedImage, str]], threshold: float, batch: int
    ) -> list[list[Detection]]:
        """For each image with a phrase every patch whose score (sigmoid) is above `threshold`, best first. At
        most `batch` phrases are read at once.
        """
        phrases = list(dict.fromkeys(phrase for _, phrase in asked))

        def embed(windows: list[str]) -> torch.Tensor:
            return torch.stack(in_halves(lambda part: list(self._embed(part)), windows, batch)[0])

        queries = embed_in_windows([self._windows(p) for p in phrases], embed).to(self.model.dtype)
        place = {phrase: k for k, phrase in enumerate(phrases)}
        by_image: dict[int, list[int]] = {}
        for k, (image, _) in enumerate(asked):
            by_image.setdefault(id(image), []).append(k)
        found: list[list[Detection]] = [[] for _ in asked]
        for numbers in by_image.values():
            image = asked[numbers[0]][0]
            mine = queries[[place[asked[k][1]] for k in numbers]]
            known = torch.ones(1, len(mine), dtype=torch.bool, device=mine.device)
            logits, _ = self.model.class_predictor(image.features, mine[None], known)
            for k, scores in zip(numbers, torch.sigmoid(logits[0].float()).T, strict=True):
                found[k] = self._of_phrase(image.boxes, scores, asked[k][1], threshold)
        return found

    def _of_phrase(
        self, boxes: torch.Tensor, scores: torch.Tensor, phrase: str, threshold: float
    ) -> list[Detection]:
        kept = torch.nonzero(~(scores <= threshold))[:, 0]  # what is no number is seen by whoever asked
        kept = kept[scores[kept].argsort(descending=True, stable=True)]
        found = zip(boxes[kept].double().tolist(), scores[kept].double().tolist(), strict=True)
        return [Detection((x1, y1, x2, y2), score, phrase) for (x1, y1, x2, y2), score in found]
