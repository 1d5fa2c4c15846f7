"""Whether a checkpoint could be built, found out in seconds: its settings, its processor and the names of its
files, but none of its weights.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModel, AutoModelForImageTextToText

from spr.errors import ConfigError
from spr.models.detector import check_kind
from spr.models.families import read_json
from spr.models.loading import dtype_named, load_processor, read_config
from spr.models.towers import tower_of
from spr.types import Checkpoint

auto_model: Any = AutoModel
INDEX = "model.safetensors.index.json"
WEIGHTS = ("*.safetensors", "*.bin")


def check_mllm(checkpoint: Checkpoint) -> Any:
    """The processor of a whole image-text-to-text checkpoint. Raises ConfigError for one that is not."""
    dtype_named(checkpoint.dtype)
    config = read_config(checkpoint)
    known = AutoModelForImageTextToText._model_mapping
    if type(config) not in known and not checkpoint.trust_remote_code:
        raise ConfigError(
            f"{checkpoint.folder}: found a {config.model_type!r} model, expected one that takes an image and "
            "a text and writes a text"
        )
    check_files(checkpoint)
    return load_processor(checkpoint)


def check_scorer(checkpoint: Checkpoint) -> None:
    """Raise ConfigError for what is no dual encoder with all its files."""
    config = read_config(checkpoint)
    with torch.device("meta"):
        tower_of(auto_model.from_config(config), checkpoint.folder)
    check_files(checkpoint)
    load_processor(checkpoint)


def check_detector(checkpoint: Checkpoint) -> None:
    """Raise ConfigError for what is no open-vocabulary detector with all its files."""
    check_kind(read_config(checkpoint), checkpoint.folder)
    check_files(checkpoint)
    load_processor(checkpoint)


def check_files(checkpoint: Checkpoint) -> None:
    """Raise ConfigError for a folder that lacks weights. The hub's own cache is left to transformers."""
    folder = Path(checkpoint.folder)
    if not folder.is_dir():
        return
    named = (read_json(checkpoint.folder, INDEX) or {}).get("weight_map")
    if isinstance(named, dict):
        missing = sorted({str(name) for name in named.values()} - {p.name for p in folder.iterdir()})
        if missing:
            raise ConfigError(f"{folder}: found no {missing[0]}, which its {INDEX} names")
    elif not any(path for pattern in WEIGHTS for path in folder.glob(pattern)):
        raise ConfigError(f"{folder}: found no weights (*.safetensors), expected a complete checkpoint")
