"""What a stage is made from, and the refusal to mix it with anything else.

An `Origin` names the options that differ from their defaults, and digests of what the stage reads. Where a
file lies is no part of it, and neither is an option that a later version adds: its value is its default. So a
default that changes its meaning needs a new name.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from spr.errors import StaleRunError
from spr.store.folders import CONFIG_FILE
from spr.store.run import Run

_PACKAGES = ("numpy", "pyarrow", "torch", "transformers", "peft", "trl", "accelerate")


@dataclass(frozen=True, slots=True)
class Origin:
    """What a stage is made from: `stage` is its verb."""

    stage: str
    config: Mapping[str, Any]
    inputs: Mapping[str, str]

    def plain(self) -> dict[str, Any]:
        """As it stands in a file."""
        value: dict[str, Any] = json.loads(
            json.dumps({"config": self.config, "inputs": self.inputs}, default=str)
        )
        return value

    @property
    def digest(self) -> str:
        """The same for equal origins."""
        return digest_of(self.plain())


def options(settings: Any, without: Collection[str] = ()) -> dict[str, Any]:
    """The fields of a dataclass that differ from their defaults, by name; all of a field without default."""
    found = {}
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if field.name in without or value == _default(field):
            continue
        found[field.name] = _plain(value)
    return found


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return options(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list | tuple) else value


def digest_of(config: Mapping[str, Any]) -> str:
    """SHA-256 (first 16 hex digits) of a configuration, independent of the order of keys."""
    return hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode()).hexdigest()[:16]


def changed_fields(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Dotted names of the fields whose values differ."""
    names: list[str] = []
    for key in sorted({*old, *new}):
        a, b = old.get(key), new.get(key)
        if a == b:
            continue
        if isinstance(a, Mapping | None) and isinstance(b, Mapping | None):
            names += changed_fields(a or {}, b or {}, f"{prefix}{key}.")
        else:
            names.append(f"{prefix}{key}")
    return names


def check_origin(run: Run, folder: tuple[str, ...], origin: Origin) -> None:
    """Raise StaleRunError when what stands in the folder was made from something else. Writes nothing."""
    before = run.read_json(*folder, CONFIG_FILE)
    now = origin.plain()
    if before is None or {k: before.get(k) for k in now} == now:
        return
    names = [
        *changed_fields(before.get("config") or {}, now["config"]),
        *changed_fields(before.get("inputs") or {}, now["inputs"]),
    ]
    raise StaleRunError(
        f"{run.path(*folder)}: made from something else (changed: {', '.join(names) or 'its form'}); use "
        f"--overwrite {origin.stage} to redo it"
    )


def hold_origin(run: Run, folder: tuple[str, ...], origin: Origin, shard_size: int | None = None) -> None:
    """Say what the folder is made from, before its first file is written. Raises StaleRunError for shards of
    another size, which would not fit together.
    """
    check_origin(run, folder, origin)
    before = run.read_json(*folder, CONFIG_FILE)
    if before is None:
        run.write_json({**origin.plain(), "shard_size": shard_size}, *folder, CONFIG_FILE)
    elif before.get("shard_size") != shard_size:
        raise StaleRunError(
            f"{run.path(*folder)}: begun with another size of shards (changed: runtime.shard_size, was "
            f"{before.get('shard_size')}); use --overwrite {origin.stage} to redo it"
        )


def versions() -> dict[str, str]:
    """Versions of what the numbers may depend on (installed packages only; nothing is imported)."""
    found = {"python": sys.version.split()[0]}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
