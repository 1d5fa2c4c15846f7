"""The processes of one distributed program."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


def gathered(items: Sequence[T]) -> list[T]:
    """The items of all processes, in the order of their ranks; one's own where there is only one process.

    Collective: every process has to call it. The items are pickled. Without torch there is no process group,
    so torch is not imported for this.
    """
    torch = sys.modules.get("torch")
    if torch is None or not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return list(items)
    parts: list[Sequence[T]] = [()] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(parts, items)
    return [item for part in parts for item in part]
