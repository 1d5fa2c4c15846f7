"""Work that is done in threads before its results are asked for, so that a device need not wait for files and
processors.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, TypeVar

from spr.errors import ConfigError, DataError, unknown_name

BATCHINGS = ("per_item", "throughput")
Out = TypeVar("Out")


def for_throughput(where: str, batching: str) -> bool:
    """Whether what is asked for may run together with what else there is. Raises ConfigError for an unknown
    batching.
    """
    if batching not in BATCHINGS:
        raise ConfigError(f"{where}.batching: " + unknown_name("batching", batching, BATCHINGS))
    return batching == "throughput"


class Expected(Generic[Out]):
    """Work on what will be asked for, in about this order: `expect` names it, `get` gives it.

    At most `depth` are begun before they are asked for. What is passed over is forgotten; what was not
    expected is done when it is asked for.
    """

    def __init__(self, work: Callable[[Any], Out], threads: int = 1, depth: int = 2) -> None:
        self._work, self._threads, self._depth = work, threads, depth
        self._pool: ThreadPoolExecutor | None = None
        self._waiting: OrderedDict[str, Any] = OrderedDict()
        self._begun: OrderedDict[str, Future[Out]] = OrderedDict()

    def expect(self, items: Mapping[str, Any]) -> None:
        """From now on: what will be asked for, by name, and what `work` is given for it."""
        self.forget()
        self._waiting.update(items)
        self._fill()

    def forget(self) -> None:
        """Expect nothing."""
        for result in self._begun.values():
            result.cancel()
        self._begun.clear()
        self._waiting.clear()

    def get(self, name: str, item: Any) -> Out:
        """The result for a name; raises what `work` raises. `item` is what `work` is given otherwise."""
        if name not in self._begun and name not in self._waiting:
            return self._work(item)
        while name not in self._begun or next(iter(self._begun)) != name:
            if self._begun:
                self._begun.popitem(last=False)[1].cancel()
            self._fill()
        result = self._begun.pop(name)
        self._fill()
        return result.result()

    def with_following(self, name: str, item: Any, count: int) -> dict[str, Out | Exception]:
        """The results for a name and for those that follow it, `count` in all; in the place of one that could
        not be had, why (OSError, DataError, ValueError).
        """
        found: dict[str, Out | Exception] = {}
        following: Iterator[str] = iter((name,))
        while len(found) < count and (one := next(following, None)) is not None:
            try:
                found[one] = self.get(one, item)
            except (OSError, DataError, ValueError) as e:
                found[one] = e
            following = itertools.chain(self._begun, self._waiting)
        return found

    def _fill(self) -> None:
        if self._pool is None and self._waiting:
            self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="expected")
        while self._waiting and len(self._begun) < self._depth:
            assert self._pool is not None
            name, item = self._waiting.popitem(last=False)
            self._begun[name] = self._pool.submit(self._work, item)
