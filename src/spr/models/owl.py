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

from spr.models.windows import embed_in_windows, sentence_windows, unit
from spr.types import Detection


@dataclass(frozen=True, slots=True)
class PreparedImage:
    """features (1, patches, width); boxes (patches, 4) xyxy in pixels of the original image."""

    features: torch.Tensor
    boxes: torch.Tensor


class OwlEngine:
    """OWLv2 or OWL-ViT with its processor."""

    def __init__(self, model: Any, processor: Any) -> None:
        self.model, self.processor, self.tokenizer = model, processor, processor.tokenizer
        self.inner = model.owlv2 if model.config.model_type == "owlv2" else model.owlvit
        self.square = model.config.model_type == "owlv2"
        self.length = int(model.config.text_config.max_position_embeddings)

    def prepare(self, image: Image.Image) -> PreparedImage:
        """The image's features and all boxes."""
        pixels = self.processor.image_processor(images=image.convert("RGB"), return_tensors="pt")[
            "pixel_values"
        ]
        grid, _ = self.model.image_embedder(pixel_values=pixels.to(self.model.device))
        features = grid.flatten(1, 2)
        cx, cy, w, h = self.model.box_predictor(features, grid)[0].unbind(-1)
        corners = torch.stack([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], dim=-1)
        size = (max(image.size),) * 2 if self.square else image.size
        return PreparedImage(features, corners * torch.tensor([*size, *size], device=corners.device))

    def _embed(self, texts: list[str]) -> torch.Tensor:
        batch = self.tokenizer(
            texts, padding="max_length", truncation=True, max_length=self.length, return_tensors="pt"
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
        self, prepared: PreparedImage, phrases: Sequence[str], threshold: float
    ) -> list[list[Detection]]:
        """Per phrase every patch whose score (sigmoid) is above `threshold`, best first."""
        queries = embed_in_windows([self._windows(p) for p in phrases], self._embed)
        known = torch.ones(1, len(phrases), dtype=torch.bool, device=queries.device)
        logits, _ = self.model.class_predictor(prepared.features, queries[None], known)
        scores = torch.sigmoid(logits[0]).T
        return [
            self._of_phrase(prepared.boxes, row, phrase, threshold)
            for row, phrase in zip(scores, phrases, strict=True)
        ]

    def _of_phrase(
        self, boxes: torch.Tensor, scores: torch.Tensor, phrase: str, threshold: float
    ) -> list[Detection]:
        kept = torch.nonzero(~(scores <= threshold))[:, 0]  # what is no number is seen by whoever asked
        kept = kept[scores[kept].argsort(descending=True, stable=True)]
        found = zip(boxes[kept].double().tolist(), scores[kept].double().tolist(), strict=True)
        return [Detection((x1, y1, x2, y2), score, phrase) for (x1, y1, x2, y2), score in found]
