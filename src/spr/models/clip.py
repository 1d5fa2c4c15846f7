"""The semantic score's two cosines (method 2.3) from a dual encoder: CLIP, SigLIP, SigLIP 2 and their kin.

In: an image, regions, texts, and which pairs to compare. Out: for each pair the cosine of the text with the
cropped region, and with the region's embedding from the full image. The full image runs once for all its
regions, also across calls; crops and distinct texts are batched; a text longer than the encoder's context is
cut into sentence windows whose embeddings are averaged and normalised again.
Images that are expected are loaded and preprocessed ahead, in threads, with the crops of their regions.
`per_item`: an image runs alone, so that its numbers depend on nothing else; `throughput`: some of the next
ones run together.
Raw cosines, no rescaling. Known gap: the crop is stretched to a square like the image, as is usual, so thin
regions are distorted.
"""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from transformers import AutoModel

from spr.errors import ConfigError, unknown_name
from spr.models.ahead import Expected, for_throughput
from spr.models.fit import Fit
from spr.models.inputs import placed
from spr.models.loading import load_model, load_processor, precision
from spr.models.memory import in_halves, memory_errors
from spr.models.pictures import LoadImage, crop
from spr.models.towers import patches_inside, tower_of
from spr.models.windows import embed_in_windows, sentence_windows, unit
from spr.types import Box, Checkpoint

LONG_TEXTS = ("windows", "truncate")
CROPS, TEXTS = 32, 64  # ours: sizes of batches
TOGETHER = 16  # ours: images that run together under `throughput`
REMEMBERED = 2  # images whose pass is kept, at least
# trained on texts padded to their full length (model cards)
PADDED_TO_LENGTH = frozenset({"siglip", "siglip2"})


@dataclass(frozen=True, slots=True)
class _Ready:
    """An image with what the processor made of it and of the crops of some regions."""

    picture: Image.Image
    whole: dict[str, torch.Tensor]
    centres: NDArray[np.float64]
    crops: dict[Box, dict[str, torch.Tensor]]


@dataclass(slots=True)
class _Seen:
    """An image after its one full pass, where its patches lie, and the embeddings of crops."""

    picture: Image.Image
    states: torch.Tensor
    centres: NDArray[np.float64]
    crops: dict[Box, torch.Tensor] = field(default_factory=dict)


class DualEncoderScorer:
    """A checkpoint folder behind the port `ImageTextScorer`. Raises ConfigError for one that is no dual
    encoder with a vision transformer. `batch`: crops that run at once.
    """

    def __init__(
        self,
        model: str | Checkpoint,
        load_image: LoadImage,
        device: str = "auto",
        clip_fit: str = "squash",
        long_text: str = "windows",
        batch: int = CROPS,
        batching: str = "per_item",
    ) -> None:
        if long_text not in LONG_TEXTS:
            raise ConfigError("semantic.long_text: " + unknown_name("way", long_text, LONG_TEXTS))
        self.batch, self._together = batch, TOGETHER if for_throughput("semantic", batching) else 1
        checkpoint = replace(Checkpoint.of(model), attention=None)
        self.model: Any = load_model(AutoModel, checkpoint, device)
        self.dtype = checkpoint.dtype
        processor = load_processor(checkpoint)
        self.tower = tower_of(self.model, checkpoint.folder)
        self.fit = Fit(processor.image_processor, self.model.config.vision_config, clip_fit)
        self.tokenizer = processor.tokenizer
        self.load_image, self.long_text = load_image, long_text
        positions = int(self.model.config.text_config.max_position_embeddings)
        self.length = min(positions, int(self.tokenizer.model_max_length))
        self._expected = Expected(self._ready, threads=2, depth=2 * self._together)
        self._seen: OrderedDict[str, _Seen | Exception] = OrderedDict()

    def expect(self, asked: Mapping[str, Sequence[Box]]) -> None:
        """What will be asked, in this order: regions by image."""
        self._expected.expect({image: (image, regions) for image, regions in asked.items()})

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
        self._seen.clear()
        self._expected.forget()

    # --- pictures ---------------------------------------------------------------------------------

    def _ready(self, asked: tuple[str, Sequence[Box]]) -> _Ready:
        """An image and the crops of regions, as the processor makes them."""
        image, regions = asked
        picture = self.load_image(image)
        whole = self.fit.pixels([picture])
        return _Ready(picture, whole, self.fit.centres(picture.size, whole), self._crops_of(picture, regions))

    def _crops_of(self, picture: Image.Image, regions: Sequence[Box]) -> dict[Box, dict[str, torch.Tensor]]:
        if not regions:
            return {}
        parts = self.fit.pixels([crop(picture, region) for region in regions])
        return {region: {k: v[i : i + 1] for k, v in parts.items()} for i, region in enumerate(regions)}

    def _placed(self, parts: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """Tensors of several pictures as one batch, on the model's device."""
        return {name: placed(torch.cat([part[name] for part in parts]), self.model) for name in parts[0]}

    def _embed_crops(self, crops: Sequence[Mapping[str, torch.Tensor]]) -> list[torch.Tensor]:
        return list(unit(self.model.get_image_features(**self._placed(crops)).pooler_output.float()))

    def _states_of(self, images: Sequence[_Ready]) -> list[torch.Tensor | MemoryError]:
        states = self.tower.states(self._placed([image.whole for image in images]))
        return [states[k : k + 1] for k in range(len(images))]

    def _look(self, image: str, regions: Sequence[Box] = ()) -> _Seen:
        """The image after its pass, with the embeddings of these regions' crops."""
        if image not in self._seen:
            self._look_at(image, regions)
        seen = self._seen[image]
        if isinstance(seen, Exception):
            del self._seen[image]
            raise seen
        new = [region for region in dict.fromkeys(regions) if region not in seen.crops]
        crops = self._crops_of(seen.picture, new)
        found = in_halves(self._embed_crops, list(crops.values()), self.batch)[0]
        seen.crops.update(zip(crops, found, strict=True))
        return seen

    def _look_at(self, image: str, regions: Sequence[Box]) -> None:
        """Look at an image, and at those that follow it as far as they run together. What goes wrong with one
        is raised when it is asked for.
        """
        found = self._expected.with_following(image, (image, regions), self._together)
        self._seen.update({name: e for name, e in found.items() if isinstance(e, Exception)})
        ready = {name: one for name, one in found.items() if isinstance(one, _Ready)}
        for names in _alike(ready):
            images = [ready[name] for name in names]
            passed = in_halves(self._states_of, images, self._together, lambda _, e: e)[0]
            for name, one, states in zip(names, images, passed, strict=True):
                if isinstance(states, MemoryError):
                    self._seen[name] = states
                else:
                    self._seen[name] = _Seen(one.picture, states, one.centres)
        while len(self._seen) > max(REMEMBERED, self._together):
            self._seen.popitem(last=False)
        crops = [(name, region, part) for name in ready for region, part in ready[name].crops.items()]
        with contextlib.suppress(MemoryError):  # whoever is asked about that picture is told
            embedded = in_halves(self._embed_crops, [part for _, _, part in crops], self.batch)[0]
            for (name, region, _), embedding in zip(crops, embedded, strict=True):
                if isinstance(seen := self._seen[name], _Seen):
                    seen.crops[region] = embedding

    def crops(self, image: str, regions: Sequence[Box]) -> torch.Tensor:
        """Unit embeddings (R, E) of the cropped regions."""
        with torch.inference_mode(), memory_errors(), precision(self.dtype):
            seen = self._look(image, regions)
            return torch.stack([seen.crops[region] for region in regions])

    def regions(self, image: str, regions: Sequence[Box]) -> torch.Tensor:
        """Unit embeddings (R, E) of the regions, seen in the full image."""
        with torch.inference_mode(), memory_errors(), precision(self.dtype):
            seen = self._look(image)
            inside = np.stack([patches_inside(seen.centres, region) for region in regions])
            embedded = self.tower.regions(seen.states, torch.from_numpy(inside).to(seen.states.device))
            return unit(embedded.float())

    # --- texts ------------------------------------------------------------------------------------

    def _count(self, text: str) -> int:
        return len(self.tokenizer(text, verbose=False)["input_ids"])

    def windows(self, text: str) -> list[str]:
        """The text, in pieces that fit the encoder's context."""
        return [text] if self.long_text == "truncate" else sentence_windows(text, self._count, self.length)

    def texts(self, texts: Sequence[str]) -> torch.Tensor:
        """Unit embeddings (T, E) of texts."""

        def embed(windows: list[str]) -> torch.Tensor:
            return torch.stack(in_halves(lambda batch: list(self._embed_texts(batch)), windows, TEXTS)[0])

        with torch.inference_mode(), precision(self.dtype):
            return embed_in_windows([self.windows(text) for text in texts], embed)

    def _embed_texts(self, texts: Sequence[str]) -> torch.Tensor:
        padding = "max_length" if self.model.config.model_type in PADDED_TO_LENGTH else True
        batch = self.tokenizer(
            list(texts), padding=padding, truncation=True, max_length=self.length, return_tensors="pt"
        )
        return unit(self.model.get_text_features(**batch.to(self.model.device)).pooler_output.float())


def _alike(images: Mapping[str, _Ready]) -> list[list[str]]:
    """The names of images whose tensors have the same shapes."""
    found: dict[Any, list[str]] = {}
    for name, image in images.items():
        shapes = tuple((k, tuple(v.shape[1:])) for k, v in sorted(image.whole.items()))
        found.setdefault(shapes, []).append(name)
    return list(found.values())
