"""What `make check-exports` exports for each family, and the tests hold against what it found."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from spr.commands.export import training_of
from spr.commands.trainers import Training
from spr.data.config import DataConfig
from spr.dialects import Dialect, get_dialect
from spr.errors import DialectError
from spr.models.families import dialect_for_checkpoint
from spr.run.wiring import Config, ModelConfig
from spr.training.config import TrainConfig
from spr.types import Box, Frame, Score, TrainingPair

# Families with a checkpoint in tests/contract and a chat template or a bare form, and the dialect of those
# whose model_type does not say it.
FAMILIES: Mapping[str, str | None] = {
    "qwen2_vl": None,
    "qwen2_5_vl": None,
    "qwen3_vl": None,
    "internvl": None,
    "glm4v": None,
    "paligemma": None,
    "llava": "llava",
    "llava_onevision": "ferret",
    "gemma3": "ferret",
    "idefics3": "ferret",
    "smolvlm": "ferret",
    "kosmos2": None,
    "florence2": None,
}
# What a user has to say.
TEMPLATES: Mapping[tuple[str, str], str] = {
    ("llamafactory", "llava"): "llava",
    ("llamafactory", "paligemma"): "paligemma",
    ("ms-swift", "llava"): "llava1_5_hf",
}
SIZES = {"a.png": (200, 100), "b.png": (90, 130), "c.png": (64, 64)}
# questions and phrases with what templates, YAML, JSON and shells could take for their own
WORKS = (
    ("Where is the cat?", "a cat"),
    ('Describe "it":\n{{content}} {0} – größer als 5 %?', "the tree's top"),
    ("user: $HOME \\n #1 'dog'", "a red & blue ball"),
)


def load_image(path: str) -> Image.Image:
    width, height = SIZES[path]
    seed = int(hashlib.sha256(path.encode()).hexdigest()[:8], 16)
    pixels = np.random.default_rng(seed).integers(
        0, 255, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8
    )
    return Image.fromarray(pixels).resize((width, height))


def pairs_of(dialect: Dialect) -> list[TrainingPair]:
    """Three pairs of three images, whose answers differ in a box."""
    score, pairs = Score(0.5, 0.3, 0.3, 0.3, 0.7), []
    for (name, (width, height)), (prompt, phrase) in zip(SIZES.items(), WORKS, strict=True):
        frame = Frame(width, height)
        boxes: list[Box] = [
            (width * left, height * 0.25, width * 0.75, height * 0.875) for left in (0.125, 0.5)
        ]
        chosen, rejected = (_answer(dialect, phrase, box, frame) for box in boxes)
        region = (0, 0, width // 2, height // 2)
        pairs.append(
            TrainingPair(name, name, width, height, region, prompt, chosen, rejected, 0.2, 0, 1, score, score)
        )
    return pairs


def _answer(dialect: Dialect, phrase: str, box: Box, frame: Frame) -> str:
    try:
        return dialect.compose([(phrase, [box])], frame)
    except DialectError:  # no place for a label
        return dialect.compose([f"{phrase} ", (None, [box])], frame)


def dialect_in(family: str, checkpoint: Path) -> Dialect:
    """The dialect of a family's answers."""
    name = FAMILIES[family]
    if name is not None:
        return get_dialect(name)
    name, options = dialect_for_checkpoint(str(checkpoint))
    return get_dialect(name, **options)


def training_in(checkpoint: Path, template: str = "") -> Training:
    """A training of three pairs in one step."""
    config = Config(
        run="run",
        data=DataConfig("coco", "boxes.json"),
        model=ModelConfig(str(checkpoint)),
        seed=7,
        train=TrainConfig(lora_r=4, lora_alpha=8, batch=3, learning_rate=1e-4),
    )
    return training_of(config, template=template)
