"""Boxes for phrases (method 2.4) from an open-vocabulary detector; the image backbone runs once per image.

In: an image and phrases. Out: per phrase what was found, best first, in pixels of the original image. The
unit of a query is one phrase: joining several in one caption changes their boxes. A phrase that was asked
about the same image before is not asked again.
Images that are expected are loaded and preprocessed ahead, in threads. `per_item`: an image runs alone, so
that its numbers depend on nothing else; `throughput`: some of the next ones run together.
"""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from transformers import AutoModelForZeroShotObjectDetection

from spr.errors import ConfigError
from spr.models.ahead import Expected, for_throughput
from spr.models.grounding_dino import GroundingDinoEngine
from spr.models.loading import load_model, load_processor, precision
from spr.models.memory import in_halves, memory_errors
from spr.models.owl import OwlEngine
from spr.models.pictures import LoadImage
from spr.types import Checkpoint, Detection

TOGETHER = 8  # ours: images that run together under `throughput`


class Engine(Protocol):
    """One family of detectors: images are prepared once, phrases are asked about what was prepared."""

    batch: int  # phrases that run at once, unless somebody says otherwise

    def pixels(self, image: Any) -> Any:
        """What the processor makes of an image, on the CPU."""
        ...

    def prepare(self, images: Sequence[Any]) -> Sequence[Any]:
        """Everything about images that does not depend on the phrases."""
        ...

    def find(self, asked: Sequence[tuple[Any, str]], threshold: float, batch: int) -> list[list[Detection]]:
        """For each prepared image with a phrase the detections above `threshold`, best first."""
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


@dataclass(slots=True, eq=False)
class _Seen:
    """An image that was looked at, and what was found in it for each phrase."""

    prepared: Any
    found: dict[str, list[Detection]] = field(default_factory=dict)


class OpenVocabularyDetector:
    """A checkpoint folder behind the port `Detector`. `threshold` in [0, 1] is the least score of a box that
    is returned; `batch`: phrases that run at once (None: the engine's own).
    """

    def __init__(
        self,
        model: str | Checkpoint,
        load_image: LoadImage,
        device: str = "auto",
        threshold: float = 0.35,
        batch: int | None = None,
        batching: str = "per_item",
    ) -> None:
        checkpoint = replace(Checkpoint.of(model), attention=None)
        loaded = load_model(AutoModelForZeroShotObjectDetection, checkpoint, device)
        engine = ENGINES[check_kind(loaded.config, checkpoint.folder)]
        self.engine = engine(loaded, load_processor(checkpoint))
        self.load_image, self.threshold, self.dtype = load_image, threshold, checkpoint.dtype
        self.batch = batch or self.engine.batch
        self._together = TOGETHER if for_throughput("detector", batching) else 1
        self._expected = Expected(self._pixels, threads=2, depth=2 * self._together)
        self._asked: Mapping[str, Sequence[str]] = {}
        self._seen: OrderedDict[str, _Seen | Exception] = OrderedDict()

    def _pixels(self, image: str) -> Any:
        return self.engine.pixels(self.load_image(image))

    def expect(self, asked: Mapping[str, Sequence[str]]) -> None:
        """What will be asked, in this order: phrases by image."""
        self._asked = asked
        self._expected.expect({image: image for image in asked})

    def detect(self, image: str, phrases: Sequence[str]) -> list[list[Detection]]:
        """One list of detections per phrase, best first, in pixels of the original image. Raises MemoryError
        when the picture does not fit with one phrase.
        """
        with torch.inference_mode(), memory_errors(), precision(self.dtype):
            if image not in self._seen:
                self._look_at(image, phrases)
            seen = self._seen[image]
            if isinstance(seen, Exception):
                del self._seen[image]
                raise seen
            self._find([(seen, phrase) for phrase in phrases])
        return [seen.found[p] for p in phrases]

    def _look_at(self, image: str, phrases: Sequence[str]) -> None:
        """Look at an image, and at those that follow it as far as they run together. What goes wrong with one
        is raised when it is asked for.
        """
        found = self._expected.with_following(image, image, self._together)
        pixels = {name: ready for name, ready in found.items() if not isinstance(ready, Exception)}
        prepared = in_halves(self.engine.prepare, list(pixels.values()), self._together, lambda _, e: e)[0]
        for name, ready in zip(pixels, prepared, strict=True):
            found[name] = ready if isinstance(ready, MemoryError) else _Seen(ready)
        self._seen.update(found)
        while len(self._seen) > self._together:
            self._seen.popitem(last=False)
        asked = {**self._asked, image: phrases}
        with contextlib.suppress(MemoryError):  # whoever is asked about that picture is told
            self._find([(s, p) for name, s in found.items() if isinstance(s, _Seen) for p in asked[name]])

    def _find(self, asked: Sequence[tuple[_Seen, str]]) -> None:
        """Ask what was not asked before."""
        new = [(seen, phrase) for seen, phrase in dict.fromkeys(asked) if phrase not in seen.found]
        if new:
            pairs = [(seen.prepared, phrase) for seen, phrase in new]
            found = self.engine.find(pairs, self.threshold, self.batch)
            for (seen, phrase), detections in zip(new, found, strict=True):
                seen.found[phrase] = detections

    def forget(self) -> None:
        """Forget the images of earlier calls."""
        self._seen.clear()
        self._expected.forget()
