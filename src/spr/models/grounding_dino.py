"""Grounding DINO and MM-Grounding-DINO: one phrase per caption, the image backbone once per image.

The text is fused into the image from the encoder on, so only the backbone's features are shared; captions
with equally many tokens run as one batch. A detection's score is the largest probability over the phrase's
own tokens. A phrase beyond the text limit (256 tokens) is asked in pieces.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import nn

from spr.models.memory import in_halves
from spr.models.windows import sentence_windows
from spr.types import Detection

BATCH = 4  # ours: captions per forward
ENDS = 3  # [CLS], the full stop, [SEP]


@dataclass(frozen=True, slots=True)
class PreparedImage:
    """pixels (1, 3, H, W), mask (1, H, W), what the backbone made of them, and the original size (width,
    height).
    """

    pixels: torch.Tensor
    mask: torch.Tensor
    features: Sequence[tuple[torch.Tensor, torch.Tensor]]
    positions: Sequence[torch.Tensor]
    size: tuple[int, int]


class _GivenBackbone(nn.Module):
    """Stands in the place of the backbone and hands out what it made of the prepared image, for as many
    captions as are asked.
    """

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner
        self.position_embedding = inner.position_embedding
        self.image: PreparedImage | None = None

    def forward(
        self, pixel_values: torch.Tensor, pixel_mask: torch.Tensor
    ) -> tuple[list[Any], list[torch.Tensor]]:
        assert self.image is not None
        count = len(pixel_values)
        features = [
            (source.expand(count, -1, -1, -1), mask.expand(count, -1, -1))
            for source, mask in self.image.features
        ]
        return features, [p.expand(count, -1, -1, -1) for p in self.image.positions]


class GroundingDinoEngine:
    """A Grounding DINO with its processor."""

    def __init__(self, model: Any, processor: Any) -> None:
        self.model, self.processor, self.tokenizer = model, processor, processor.tokenizer
        self.backbone = _GivenBackbone(model.model.backbone)
        model.model.backbone = self.backbone
        self.limit = int(model.config.max_text_len)

    def prepare(self, image: Image.Image) -> PreparedImage:
        """The backbone's features of an image."""
        inputs = self.processor.image_processor(images=image.convert("RGB"), return_tensors="pt").to(
            self.model.device
        )
        pixels, mask = inputs["pixel_values"], inputs["pixel_mask"]
        features, positions = self.backbone.inner(pixels, mask)
        return PreparedImage(pixels, mask, features, positions, image.size)

    def _tokens(self, phrase: str) -> tuple[int, ...]:
        """`[CLS] phrase . [SEP]`; a full stop inside would end the phrase, so it becomes a blank."""
        words = " ".join(phrase.lower().replace(".", " ").replace("?", " ").split())
        return tuple(self.tokenizer(f"{words}.", verbose=False)["input_ids"])

    def find(
        self, prepared: PreparedImage, phrases: Sequence[str], threshold: float
    ) -> list[list[Detection]]:
        """Per phrase every box whose score is above `threshold`, best first."""
        pieces = [
            (p, self._tokens(w))
            for p in phrases
            for w in sentence_windows(p, lambda t: len(self._tokens(t)), self.limit)
        ]
        pieces = [(p, ids) for p, ids in pieces if len(ids) > ENDS]
        by_length: dict[int, list[tuple[str, tuple[int, ...]]]] = {}
        for phrase, ids in pieces:
            by_length.setdefault(len(ids), []).append((phrase, ids))
        found: dict[str, list[Detection]] = {p: [] for p in phrases}
        self.backbone.image = prepared
        for same in by_length.values():
            for phrase, detections in in_halves(lambda b: self._ask(prepared, b, threshold), same, BATCH)[0]:
                found[phrase] += detections
        return [sorted(found[p], key=lambda d: -d.score) for p in phrases]

    def _ask(
        self, prepared: PreparedImage, batch: Sequence[tuple[str, tuple[int, ...]]], threshold: float
    ) -> list[tuple[str, list[Detection]]]:
        count = len(batch)
        ids = torch.tensor([tokens for _, tokens in batch], device=self.model.device)
        out = self.model(
            pixel_values=prepared.pixels.expand(count, -1, -1, -1),
            pixel_mask=prepared.mask.expand(count, -1, -1),
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            token_type_ids=torch.zeros_like(ids),
        )
        scores = torch.sigmoid(out.logits[..., 1 : ids.shape[1] - 2]).amax(-1)
        w, h = prepared.size
        cx, cy, bw, bh = out.pred_boxes.unbind(-1)
        corners = torch.stack([cx - bw / 2, cy - bh / 2, cx + bw / 2, cy + bh / 2], dim=-1) * torch.tensor(
            [w, h, w, h], device=cx.device
        )
        return [
            (phrase, _above(corners[k], scores[k], phrase, threshold)) for k, (phrase, _) in enumerate(batch)
        ]


def _above(boxes: torch.Tensor, scores: torch.Tensor, phrase: str, threshold: float) -> list[Detection]:
    kept = torch.nonzero(~(scores <= threshold))[:, 0]  # what is no number is seen by whoever asked
    found = zip(boxes[kept].double().tolist(), scores[kept].double().tolist(), strict=True)
    return [Detection((x1, y1, x2, y2), score, phrase) for (x1, y1, x2, y2), score in found]
