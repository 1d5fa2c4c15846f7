"""Random checkpoints of the embedded architectures, saved and loaded like any other, and pictures of
noise.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from spr.models.loading import save_checkpoint
from spr.scenes.recipe.architectures import build_clip, build_mllm, build_owl


def noise(seed: int, size: tuple[int, int] = (224, 224)) -> Image.Image:
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8))
    return small.resize(size, Image.Resampling.BICUBIC)


def load_noise(path: str) -> Image.Image:
    """`<seed>` or `<seed>@<width>x<height>`; "missing" is a file that is not there."""
    if path == "missing":
        raise FileNotFoundError(2, "No such file", path)
    seed, _, size = path.partition("@")
    width, _, height = (size or "224x224").partition("x")
    return noise(int(seed), (int(width), int(height)))


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """Folder of a random checkpoint of the embedded world: mllm, clip or owl."""
    root = tmp_path_factory.mktemp("checkpoints")
    builders = {"mllm": build_mllm, "clip": build_clip, "owl": build_owl}

    def folder(name: str) -> str:
        path = Path(root) / name
        if not path.exists():
            torch.manual_seed(5)
            model, processor = builders[name]()
            save_checkpoint(model, processor, path)
        return str(path)

    return folder
