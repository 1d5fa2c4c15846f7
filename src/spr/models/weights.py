"""Which weights a checkpoint holds: by the content of its files, or by the commit of a hub name.

In: a folder or a hub name. Out: a text that is equal for equal weights, wherever they lie.
"""

from __future__ import annotations

from pathlib import Path

from fsspec.implementations.local import LocalFileSystem

from spr.errors import ConfigError
from spr.models.families import cached_path
from spr.store.digests import files_digest
from spr.types import Checkpoint

ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin")
_SMALL = (".json", ".jinja")


def checkpoint_digest(checkpoint: Checkpoint, weights: bool = True) -> str:
    """The digest of a checkpoint: of all files that `from_pretrained` may read, or without `weights` of its
    settings alone. A hub name has the commit that its revision stands for.
    """
    folder = Path(checkpoint.folder)
    if folder.is_dir():
        files = [*folder.iterdir(), *folder.glob("chat_templates/*")]
        names = [str(p.relative_to(folder)) for p in files if p.is_file() and _is_read(p, weights)]
        return files_digest(LocalFileSystem(), str(folder), names)
    if folder.is_absolute():
        raise ConfigError(f"{folder}: no such folder, expected a checkpoint")
    found = cached_path(checkpoint.folder, "config.json", checkpoint.revision)
    if found is not None and found.parent.parent.name == "snapshots":
        return f"{checkpoint.folder}@{found.parent.name}"
    if not weights:
        return checkpoint.folder  # a server has them, and nothing here needs to
    raise ConfigError(
        f"{checkpoint.folder}: found no such folder and no such name in the cache of the hub, which cannot "
        "be reached; expected a checkpoint"
    )


def _is_read(path: Path, weights: bool) -> bool:
    if path.name.startswith(".") or path.suffix == ".md":
        return False
    return weights or path.suffix in _SMALL


def adapter_digest(folder: str) -> str:
    """The digest of a PEFT adapter. Raises ConfigError when the folder holds none."""
    names = [name for name in ADAPTER_FILES if (Path(folder) / name).is_file()]
    if len(names) < 2:
        raise ConfigError(f"{folder}: found no PEFT adapter, expected {ADAPTER_FILES[0]} and its weights")
    return files_digest(LocalFileSystem(), folder, names)
