"""What a checkpoint's `model_type` implies: its notation of boxes.

In: a folder. Out: the name of a dialect with its options. A type implies a dialect only where the family's
own sources say which notation it writes; for every other type, and for fine-tunes that write something else,
the configuration names it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spr.dialects import known_names, resize_options
from spr.errors import ConfigError

# model_type -> dialect, only where the table of docs/dialects.md is verified.
DIALECTS: Mapping[str, str] = {
    "kosmos-2": "kosmos2",
    "qwen2_vl": "qwen2_vl",
    "qwen2_5_vl": "qwen2_5_vl",
    "qwen3_vl": "qwen3_vl",
    "qwen3_vl_moe": "qwen3_vl",
    "internvl": "internvl",
    "paligemma": "paligemma",
    "florence2": "florence2",
    "glm4v": "glm4v",
    "glm4v_moe": "glm4v",
    "glm46v": "glm4v",
}
# Why a type needs `dialect:`; any other type has no notation that we know of.
WHY_REQUIRED: Mapping[str, str] = {
    "llava": "its frame is disputed (llava: the padded square, for a processor that pads; most of its "
    "fine-tunes say what they write)",
    "llava_onevision": "no source says which frame its boxes span (llava:original is a guess)",
    "qwen3_5": "no code or cookbook of its authors shows what it writes (their answers say 0 to 1000, as "
    "qwen3_vl; `spr doctor` tells)",
    "qwen3_5_moe": "no code or cookbook of its authors shows what it writes (their answers say 0 to 1000, as "
    "qwen3_vl; `spr doctor` tells)",
    "gemma3": "its authors document no notation of boxes",
    "idefics3": "its authors document no notation of boxes",
    "smolvlm": "its authors document no notation of boxes",
}


def cached_path(name: str, file: str, revision: str | None = None) -> Path | None:
    """A file of a hub name in the local cache, where it is loaded into when the hub can be reached; None when
    there is none.
    """
    from transformers.utils.hub import cached_file

    try:
        found = cached_file(
            name,
            file,
            revision=revision,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
    except OSError:
        found = None
    return Path(found) if found is not None else None


def read_json(folder: str, file: str, revision: str | None = None) -> dict[str, Any] | None:
    """A JSON file of a checkpoint, from a folder or from the local cache of the hub; None when it has
    none.
    """
    path = Path(folder) / file if Path(folder).is_dir() else cached_path(folder, file, revision)
    if path is None or not path.is_file():
        return None
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as e:
        raise ConfigError(f"{path}: not valid JSON ({e})") from None
    return value if isinstance(value, dict) else None


def image_settings(
    folder: str, changes: Mapping[str, Any] | None = None, revision: str | None = None
) -> dict[str, Any]:
    """The settings of the checkpoint's image processor, wherever this version of transformers wrote them,
    with the configuration's changes.
    """
    both = (read_json(folder, "processor_config.json", revision) or {}).get("image_processor")
    return {**(both or read_json(folder, "preprocessor_config.json", revision) or {}), **(changes or {})}


def model_type_of(folder: str, revision: str | None = None) -> str:
    """The checkpoint's `model_type`. Raises ConfigError when the folder is no checkpoint."""
    config = read_json(folder, "config.json", revision)
    if config is None or not config.get("model_type"):
        raise ConfigError(
            f"model.folder: found no config.json with a model_type in {folder!r}, expected a checkpoint of "
            "transformers"
        )
    return str(config["model_type"])


def dialect_for_checkpoint(
    folder: str, changes: Mapping[str, Any] | None = None, revision: str | None = None
) -> tuple[str, dict[str, Any]]:
    """(name, options) of the dialect that the checkpoint's family writes; `changes` of its image processor's
    settings count.

    Raises ConfigError when `model.dialect` has to say it.
    """
    model_type = model_type_of(folder, revision)
    name = DIALECTS.get(model_type)
    if name is None:
        why = WHY_REQUIRED.get(model_type, "no verified notation of boxes is known for it")
        raise ConfigError(
            f"model.dialect: found nothing for model_type {model_type!r}: {why}; expected one of "
            f"{', '.join(known_names())}"
        )
    return name, resize_options(image_settings(folder, changes, revision)) if name == "qwen2_5_vl" else {}
