"""Which device a model goes to.

auto       an accelerator of this machine, or the CPU
cuda, mps …   an accelerator of that kind
cpu, cuda:1 …   that one, as torch names it
spread     a large model over all accelerators, layer by layer (accelerate's device_map)

Of several accelerators each worker takes its own (`runtime.devices`); whoever works alone takes the first.
"""

from __future__ import annotations

import gc
from collections.abc import Sequence

import torch

from spr.errors import ConfigError
from spr.store.runtime import own_seat

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


def check_devices(names: str | Sequence[str]) -> None:
    """Raise ConfigError for `runtime.devices` that this machine does not have."""
    here = devices()
    for name in (names,) if isinstance(names, str) else names:
        if name not in (AUTO, *here):
            raise ConfigError(
                f"runtime.devices: found {name!r}, expected {AUTO} or devices of this machine: "
                f"{', '.join(here)}"
            )


def device_named(name: str, where: str = "device") -> str:
    """The torch device of a name of the configuration, or `spread`: of several, the one of this worker's
    seat. Raises ConfigError for one that this machine does not have.
    """
    here = devices()
    name = "cpu" if name.startswith("cpu:") else name  # as processes that train together on it are told
    kinds = [device for device in here[1:] if name == AUTO or device.partition(":")[0] == name]
    if name == SPREAD or name in here:
        return name
    if mine := own_seat().device(kinds):
        return mine
    if name == AUTO:
        return "cpu"
    raise ConfigError(
        f"{where}: found {name!r}, expected {AUTO}, {SPREAD} or a device of this machine: {', '.join(here)}"
    )


def make_current(device: str) -> None:
    """Kernels of other libraries run on the current device, wherever their tensors are."""
    _, _, number = device.partition(":")
    if number:
        torch.accelerator.set_device_index(int(number))


def free_memory() -> None:
    """Give back what models of this process held that nobody holds any more: other processes may need it."""
    gc.collect()
    if accelerator() is not None:
        torch.accelerator.memory.empty_cache()
