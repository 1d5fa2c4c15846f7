"""When memory does not suffice: batches are halved, and what does not fit alone is one item's failure."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import psutil
import torch

log = logging.getLogger(__name__)
T = TypeVar("T")
R = TypeVar("R")
# what torch says on a CPU, and what CUDA's libraries say, in a RuntimeError
_SAID = ("not enough memory", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")


def _is_out_of_memory(e: BaseException) -> bool:
    """Whether an error says that memory does not suffice."""
    return isinstance(e, MemoryError | torch.OutOfMemoryError) or (
        isinstance(e, RuntimeError) and any(said in str(e) for said in _SAID)
    )


def available_bytes(device: torch.device) -> int:
    """Memory of a device that nobody uses, with what torch holds back for itself there."""
    if device.type == "cpu":
        return int(psutil.virtual_memory().available)
    free, _ = torch.accelerator.get_memory_info(device)
    return free + torch.accelerator.memory_reserved(device) - torch.accelerator.memory_allocated(device)


def total_bytes(device: torch.device) -> int:
    """Memory of a device, whoever uses it."""
    if device.type == "cpu":
        return int(psutil.virtual_memory().total)
    return int(torch.accelerator.get_memory_info(device)[1])


@contextlib.contextmanager
def memory_errors() -> Iterator[None]:
    """Whatever says that memory does not suffice becomes a MemoryError of one line."""
    try:
        yield
    except Exception as e:
        if not _is_out_of_memory(e):
            raise
        first = (str(e).splitlines() or [type(e).__name__])[0]
        torch.cuda.empty_cache()
        raise MemoryError(first) from None


def in_halves(
    work: Callable[[Sequence[T]], Sequence[R]],
    items: Sequence[T],
    size: int,
    alone: Callable[[T, MemoryError], R] | None = None,
) -> tuple[list[R], int]:
    """`work` over batches of at most `size` items, and the size at the end: where memory does not suffice it
    is halved, logged and kept. `alone` answers for an item that does not fit by itself; without it that is a
    MemoryError.
    """
    found: list[R] = []
    while len(found) < len(items):
        try:
            with memory_errors():
                found += work(items[len(found) : len(found) + size])
        except MemoryError as e:
            if min(size, len(items) - len(found)) == 1:
                if alone is None:
                    raise
                found.append(alone(items[len(found)], e))
                continue
            size = max(1, min(size, len(items) - len(found)) // 2)
            log.warning("a batch did not fit into memory: going on with batches of %d", size)
    return found, size
