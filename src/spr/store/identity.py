"""What a stage was made from: digests of configurations, and the refusal to go on with another one."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import sys
from collections.abc import Mapping
from typing import Any

from spr.errors import DataError, StaleRunError
from spr.store.folders import CONFIG_FILE, FOLDERS, STAGE_FILE
from spr.store.run import Run

_PACKAGES = ("numpy", "pyarrow", "torch", "transformers", "peft", "trl", "accelerate")


def digest_of(config: Mapping[str, Any]) -> str:
    """SHA-256 (first 16 hex digits) of a configuration, independent of the order of keys."""
    return hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode()).hexdigest()[:16]


def changed_fields(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Dotted names of the fields whose values differ."""
    names: list[str] = []
    for key in sorted({*old, *new}):
        a, b = old.get(key), new.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            names += changed_fields(a, b, f"{prefix}{key}.")
        elif a != b:
            names.append(f"{prefix}{key}")
    return names


def claim(run: Run, name: str, folder: tuple[str, ...], config: Mapping[str, Any]) -> str:
    """Write the stage's `_config.json`, or refuse when it was started with another one. Returns the
    digest.
    """
    config = json.loads(json.dumps(config, default=str))
    before = run.read_json(*folder, CONFIG_FILE)
    if before is None:
        run.write_json(config, *folder, CONFIG_FILE)
    elif before != config:
        fields = ", ".join(changed_fields(before, config))
        raise StaleRunError(
            f"{run.path(*folder)}: made with another configuration (changed: {fields}); use --overwrite "
            f"{name} to redo it"
        )
    return digest_of(config)


def versions() -> dict[str, str]:
    """Versions of what the numbers may depend on (installed packages only; nothing is imported)."""
    found = {"python": sys.version.split()[0]}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def upstream_digest(run: Run, stage: str, *inner: str) -> str:
    """Digest of a finished stage (of one adapter, `inner`, of stage train). Raises DataError when it is not
    finished.
    """
    folder = (FOLDERS[stage], *inner)
    value = run.read_json(*folder, STAGE_FILE)
    if value is None:
        raise DataError(
            f"{run.path(*folder)}: stage {stage!r} is not finished; run `spr {stage}` first, or `spr run`"
        )
    return str(value["digest"])
