"""How work is spread over processes, machines and accelerators: none of it changes a row.

The threads of the numerical libraries are fixed per worker, because another count of threads rounds
differently. A worker has a seat: its number, and the accelerators that workers take in turn.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from spr.errors import ConfigError
from spr.ranges import Amount, Count, check_ranges


@dataclass(frozen=True, slots=True)
class RuntimeConfig:
    """How the work is spread. None of it changes a row, except `shard_size` under `batching: throughput`."""

    workers: Count = 1  # processes (actors) per stage
    threads: Count = 1  # threads of the numerical libraries per worker
    shard_size: Count = 256  # items per shard: what a kill can lose (design: ours)
    executor: Literal["local", "ray"] = "local"  # processes of this machine, or actors of a Ray cluster
    # local: the accelerators that the workers take in turn (auto: all that are visible)
    devices: str | tuple[str, ...] = "auto"
    # ray: GPUs per actor, 0.5: two share one (none: 1 where the cluster has any)
    num_gpus: Amount | None = None

    def __post_init__(self) -> None:
        """Raise ConfigError for values that cannot be."""
        check_ranges(self, "runtime")
        if self.devices == ():
            raise ConfigError("runtime.devices: found none, expected auto or at least one, e.g. [cuda:0]")


def set_threads(threads: int) -> None:
    """Fix the number of threads of the numerical libraries in this process."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(threads)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)


@dataclass(frozen=True, slots=True)
class Seat:
    """The place of a worker among those of its machine. `devices`: what they take in turn; None: all
    accelerators that are visible.
    """

    number: int = 0
    devices: tuple[str, ...] | None = None

    @classmethod
    def of(cls, runtime: RuntimeConfig, number: int = 0) -> Seat:
        """The seat of a local worker."""
        named = (runtime.devices,) if isinstance(runtime.devices, str) else runtime.devices
        return cls(number, None if named == ("auto",) else named)

    def device(self, visible: Sequence[str]) -> str | None:
        """The device of this seat, of those that are visible; None where there is none of them."""
        mine = [name for name in self.devices or visible if name in visible]
        return mine[self.number % len(mine)] if mine else None


_seat = Seat()


def take_seat(seat: Seat) -> None:
    """This process works there from now on."""
    global _seat
    _seat = seat


def own_seat() -> Seat:
    """Where this process works."""
    return _seat
