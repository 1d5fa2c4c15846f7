"""The semantic score's two cosines (method 2.3) from a dual encoder: CLIP, SigLIP, SigLIP 2 and their kin.

In: an image, regions, texts, and which pairs to compare. Out: for each pair the cosine of the text with the
cropped region, and with the region's embedding from the full image. The full image runs once for all its
regions, also across calls; crops and distinct texts are batched; a text longer than the encoder's context is
cut into sentence windows whose embeddings are averaged and normalised again.
Raw cosines, no rescaling. Known gap: the crop is stretched to a square like the image, as is usual, so thin
regions are distorted.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from transformers import AutoModel

from spr.errors import ConfigError, unknown_name
from spr.models.fit import Fit
from spr.models.loading import load_model, load_processor
from spr.models.memory import in_halves, memory_errors
from spr.models.pictures import LoadImage, crop
from spr.models.towers import patches_inside, tower_of
from spr.models.windows import embed_in_windows, sentence_windows, unit
from spr.types import Box, Checkpoint

LONG_TEXTS = ("windows", "truncate")
CROPS, TEXTS = 32, 64  # ours: sizes of batches
REMEMBERED = 2  # images whose pass is kept
# trained on texts padded to their full length (model cards)
PADDED_TO_LENGTH = frozenset({"siglip", "siglip2"})


class DualEncoderScorer:
    """A checkpoint folder behind the port `ImageTextScorer`. Raises ConfigError for one that is no dual
    encoder with a vision transformer.
    """

    def __init__(
        self,
        model: str | Checkpoint,
        load_image: LoadImage,
        device: str = "auto",
        clip_fit: str = "squash",
        long_text: str = "windows",
    ) -> None:
        if long_text not in LONG_TEXTS:
            raise ConfigError("semantic.long_text: " + unknown_name("way", long_text, LONG_TEXTS))
        checkpoint = replace(Checkpoint.of(model), attention=None)
        self.model: Any = load_model(AutoModel, checkpoint, device)
        processor = load_processor(checkpoint)
        self.tower = tower_of(self.model, checkpoint.folder)
        self.fit = Fit(processor.image_processor, self.model.config.vision_config, clip_fit)
        self.tokenizer = processor.tokenizer
        self.load_image, self.long_text = load_image, long_text
        positions = int(self.model.config.text_config.max_position_embeddings)
        self.length = min(positions, int(self.tokenizer.model_max_length))
        self._whole: OrderedDict[str, tuple[Image.Image, torch.Tensor, NDArray[np.float64]]] = OrderedDict()

    def similarities(
        self, image: str, regions: Sequence[Box], texts: Sequence[str], pairs: Sequence[tuple[int, int]]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Cosines in [-1, 1] of `pairs` = (region index, text index): (of the crop, of the region embedding),
        each of shape (len(pairs),). Raises MemoryError when the picture does not fit alone.
        """
        if not pairs:
            return np.zeros(0), np.zeros(0)
        written = self.texts(list(dict.fromkeys(texts)))
        index = {text: i for i, text in enumerate(dict.fromkeys(texts))}
        rows = torch.tensor([r for r, _ in pairs])
        columns = torch.tensor([index[texts[t]] for _, t in pairs])
        with_crop = self.crops(image, regions)[rows] * written[columns]
        with_region = self.regions(image, regions)[rows] * written[columns]
        return with_crop.sum(-1).cpu().double().numpy(), with_region.sum(-1).cpu().double().numpy()

    def forget(self) -> None:
        """Forget the images of earlier calls."""
        self._whole.clear()

    # --- pictures ---------------------------------------------------------------------------------

    def _embed_pictures(self, images: Sequence[Image.Image]) -> torch.Tensor:
        pixels = {k: v.to(self.model.device) for k, v in self.fit.pixels(images).items()}
        return unit(self.model.get_image_features(**pixels).pooler_output)

    @torch.inference_mode()
    def crops(self, image: str, regions: Sequence[Box]) -> torch.Tensor:
        """Unit embeddings (R, E) of the cropped regions."""
        whole = self._states(image)[0]
        parts = [crop(whole, region) for region in regions]
        return torch.stack(in_halves(lambda batch: list(self._embed_pictures(batch)), parts, CROPS)[0])

    def _states(self, image: str) -> tuple[Image.Image, torch.Tensor, NDArray[np.float64]]:
        """The picture, its one full pass, and where its patches lie."""
        if image not in self._whole:
            picture = self.load_image(image)
            pixels = self.fit.pixels([picture])
            with memory_errors():
                states = self.tower.states({k: v.to(self.model.device) for k, v in pixels.items()})
            self._whole[image] = (picture, states, self.fit.centres(picture.size, pixels))
            while len(self._whole) > REMEMBERED:
                self._whole.popitem(last=False)
        return self._whole[image]

    @torch.inference_mode()
    def regions(self, image: str, regions: Sequence[Box]) -> torch.Tensor:
        """Unit embeddings (R, E) of the regions, seen in the full image."""
        _, states, centres = self._states(image)
        inside = np.stack([patches_inside(centres, region) for region in regions])
        return unit(self.tower.regions(states, torch.from_numpy(inside).to(states.device)))

    # --- texts ------------------------------------------------------------------------------------

    def _count(self, text: str) -> int:
        return len(self.tokenizer(text, verbose=False)["input_ids"])

    def windows(self, text: str) -> list[str]:
        """The text, in pieces that fit the encoder's context."""
        return [text] if self.long_text == "truncate" else sentence_windows(text, self._count, self.length)

    @torch.inference_mode()
    def texts(self, texts: Sequence[str]) -> torch.Tensor:
        """Unit embeddings (T, E) of texts."""

        def embed(windows: list[str]) -> torch.Tensor:
            return torch.stack(in_halves(lambda batch: list(self._embed_texts(batch)), windows, TEXTS)[0])

        return embed_in_windows([self.windows(text) for text in texts], embed)

    def _embed_texts(self, texts: Sequence[str]) -> torch.Tensor:
        padding = "max_length" if self.model.config.model_type in PADDED_TO_LENGTH else True
        batch = self.tokenizer(
            list(texts), padding=padding, truncation=True, max_length=self.length, return_tensors="pt"
        )
        return unit(self.model.get_text_features(**batch.to(self.model.device)).pooler_output)
