"""How a picture is made to fit a square vision tower, and where each patch then lies in the picture.

`squash` (default, ours): resized to the square, so that nothing is cut off; `pad`: centred on a square of the
mean colour; `center_crop`: the shorter side resized, the middle taken, as CLIP's own processor does, which
hides the sides of a wide picture. Towers of variable resolution (SigLIP 2 NaFlex) keep their processor's way.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from spr.errors import ConfigError, unknown_name

FITS = ("squash", "pad", "center_crop")


class Fit:
    """Pictures -> pixel tensors for one dual encoder, and the geometry that goes with it."""

    def __init__(self, processor: Any, vision_config: Any, fit: str) -> None:
        if fit not in FITS:
            raise ConfigError("semantic.clip_fit: " + unknown_name("fit", fit, FITS))
        self.processor, self.fit = processor, fit
        self.variable = "spatial_shapes" in getattr(processor, "model_input_names", [])
        self.side = int(getattr(vision_config, "image_size", 0) or 0)
        self.grid = self.side // int(vision_config.patch_size) if self.side else 0
        if fit == "center_crop" and not hasattr(processor, "crop_size"):
            raise ConfigError(
                "semantic.clip_fit: found 'center_crop', but this checkpoint's processor has no centre "
                "crop, expected squash or pad"
            )

    def _padded(self, image: Image.Image) -> Image.Image:
        side = max(image.size)
        mean = tuple(round(255 * m) for m in self.processor.image_mean)
        square = Image.new("RGB", (side, side), mean)
        square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
        return square

    def pixels(self, images: Sequence[Image.Image]) -> dict[str, torch.Tensor]:
        """Tensors for the tower, one row per picture."""
        pictures = [image.convert("RGB") for image in images]
        settings: dict[str, Any] = {}
        square = {"height": self.side, "width": self.side}
        if not self.variable and self.fit == "center_crop":
            settings = {"size": {"shortest_edge": self.side}, "crop_size": square, "do_center_crop": True}
        elif not self.variable:
            settings = {"size": square, "do_center_crop": False}
            pictures = [self._padded(p) for p in pictures] if self.fit == "pad" else pictures
        return dict(self.processor(images=pictures, return_tensors="pt", **settings))

    def centres(self, size: tuple[int, int], pixels: dict[str, torch.Tensor]) -> NDArray[np.float64]:
        """The centre of every patch in pixels of the original picture of `size` (width, height). Shape
        (patches, 2), row by row.
        """
        if self.variable:
            rows, columns = (int(n) for n in pixels["spatial_shapes"][0])
        else:
            rows = columns = self.grid
        y, x = (
            v.ravel()
            for v in np.meshgrid(
                (np.arange(rows) + 0.5) / rows, (np.arange(columns) + 0.5) / columns, indexing="ij"
            )
        )
        w, h = size
        if self.variable or self.fit == "squash":
            return np.stack([x * w, y * h], axis=1)
        if self.fit == "pad":
            side = max(size)
            return np.stack([x * side - (side - w) // 2, y * side - (side - h) // 2], axis=1)
        scale = self.side / min(size)
        return np.stack(
            [(x - 0.5) * self.side / scale + w / 2, (y - 0.5) * self.side / scale + h / 2], axis=1
        )
