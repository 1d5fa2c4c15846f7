"""Boxes for phrases (method 2.4) from an open-vocabulary detector; the image backbone runs once per image.

In: an image and phrases. Out: per phrase what was found, best first, in pixels of the original image. The
unit of a query is one phrase: joining several in one caption changes their boxes. A phrase that was asked
about the same image before is not asked again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import torch
from transformers import AutoModelForZeroShotObjectDetection

from spr.errors import ConfigError
from spr.models.grounding_dino import GroundingDinoEngine
from spr.models.loading import load_model, load_processor
from spr.models.memory import memory_errors
from spr.models.owl import OwlEngine
from spr.models.pictures import LoadImage
from spr.types import Checkpoint, Detection


class Engine(Protocol):
    """One family of detectors: an image is prepared once, phrases are asked about what was prepared."""

    def prepare(self, image: Any) -> Any:
        """Everything about an image that does not depend on the phrases."""
        ...

    def find(self, prepared: Any, phrases: Sequence[str], threshold: float) -> list[list[Detection]]:
        """Per phrase the detections above `threshold`, best first."""
        ...


ENGINES: Mapping[str, Callable[[Any, Any], Engine]] = {
    "owlv2": OwlEngine,
    "owlvit": OwlEngine,
    "grounding-dino": GroundingDinoEngine,
    "mm-grounding-dino": GroundingDinoEngine,
}


def check_kind(config: Any, folder: str) -> str:
    """The `model_type` of a detector's configuration. Raises ConfigError for one that has no engine here."""
    if config.model_type not in ENGINES:
        raise ConfigError(
            f"detector.folder: found a {config.model_type!r} model in {folder!r}, expected one of "
            f"{', '.join(ENGINES)}"
        )
    return str(config.model_type)


class OpenVocabularyDetector:
    """A checkpoint folder behind the port `Detector`. `threshold` in [0, 1] is the least score of a box that
    is returned.
    """

    def __init__(
        self, model: str | Checkpoint, load_image: LoadImage, device: str = "auto", threshold: float = 0.35
    ) -> None:
        checkpoint = replace(Checkpoint.of(model), attention=None)
        loaded = load_model(AutoModelForZeroShotObjectDetection, checkpoint, device)
        engine = ENGINES[check_kind(loaded.config, checkpoint.folder)]
        self.engine = engine(loaded, load_processor(checkpoint))
        self.load_image, self.threshold = load_image, threshold
        self._image: str | None = None
        self._prepared: Any = None
        self._found: dict[str, list[Detection]] = {}

    @torch.inference_mode()
    def detect(self, image: str, phrases: Sequence[str]) -> list[list[Detection]]:
        """One list of detections per phrase, best first, in pixels of the original image. Raises MemoryError
        when the picture does not fit with one phrase.
        """
        with memory_errors():
            if image != self._image:
                self._image = None
                self._prepared, self._found = self.engine.prepare(self.load_image(image)), {}
                self._image = image
            new = [p for p in dict.fromkeys(phrases) if p not in self._found]
            if new:
                found = self.engine.find(self._prepared, new, self.threshold)
                self._found.update(zip(new, found, strict=True))
        return [self._found[p] for p in phrases]

    def forget(self) -> None:
        """Forget the image of earlier calls."""
        self._image, self._prepared, self._found = None, None, {}
