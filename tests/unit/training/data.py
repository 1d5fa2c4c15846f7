"""Made-up pairs: chosen answers end in "yes", rejected ones in "no", so that a model can learn the
difference.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from spr.errors import DataError
from spr.training.config import TrainConfig
from spr.types import Score, TrainingPair

SCORE = Score(0.5, 0.3, 0.3, 0.3, 0.7)
FAST = TrainConfig(learning_rate=1e-2, batch=4, lora_r=4, device="cpu")


def load_image(path: str) -> Image.Image:
    """A picture of noise for any name; "broken" cannot be read."""
    if path == "broken":
        raise DataError("broken: not an image")
    noise = np.random.default_rng(sum(map(ord, path))).integers(0, 255, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((60, 60))


def made_pairs(count: int, per_image: int = 2, seed: int = 0) -> list[TrainingPair]:
    """`count` pairs, `per_image` of them about each image."""
    rng = np.random.default_rng(seed)

    def box() -> str:
        return "[" + ", ".join(str(v) for v in rng.integers(0, 1000, 4)) + "]"

    def pair(i: int) -> TrainingPair:
        start = f"a cat {box()}"
        answers = (f"{start} yes", f"{start} and a dog {box()} no")
        return TrainingPair(
            f"r{i}",
            f"image{i // per_image}",
            60,
            60,
            (0, 0, 9, 9),
            f"Describe {box()}.",
            *answers,
            0.1 * (i + 1),
            0,
            1,
            SCORE,
            SCORE,
        )

    return [pair(i) for i in range(count)]
