"""Which device a model goes to.

auto       the first accelerator of this machine, or the CPU
cpu, cuda, cuda:1, mps …   that one, as torch names it
spread     a large model over all accelerators, layer by layer (accelerate's device_map)
"""

from __future__ import annotations

import gc

import torch

from spr.errors import ConfigError

AUTO, SPREAD = "auto", "spread"


def accelerator() -> str | None:
    """The kind of accelerator of this machine, as torch names it; None where there is the CPU alone."""
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return None if device is None else device.type


def devices() -> list[str]:
    """The devices of this machine: cpu, cuda:0, cuda:1 …"""
    kind = accelerator()
    count = 0 if kind is None else torch.accelerator.device_count()
    return ["cpu", *(f"{kind}:{number}" for number in range(count))]


def device_named(name: str, where: str = "device") -> str:
    """The torch device of a name of the configuration, or `spread`. Raises ConfigError for one that this
    machine does not have.
    """
    here = devices()
    if name == AUTO:
        return here[1] if len(here) > 1 else "cpu"
    if name == SPREAD or name in here:
        return name
    if f"{name}:0" in here:
        return f"{name}:0"
    raise ConfigError(
        f"{where}: found {name!r}, expected {AUTO}, {SPREAD} or a device of this machine: {', '.join(here)}"
    )


def free_memory() -> None:
    """Give back what models of this process held that nobody holds any more: other processes may need it."""
    gc.collect()
    if accelerator() is not None:
        torch.accelerator.memory.empty_cache()
