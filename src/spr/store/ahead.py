"""Work that is done in threads before its results are asked for."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

In = TypeVar("In")
Out = TypeVar("Out")


class Ahead(Generic[In, Out]):
    """`work` of each item, in order, at most `depth` of them before they are asked for. What `work` raises is
    raised when its result is asked for. Close it, or use it as a context.
    """

    def __init__(
        self, work: Callable[[In], Out], items: Iterable[In], threads: int = 1, depth: int = 2
    ) -> None:
        self._work, self._items, self._depth = work, iter(items), depth
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="ahead")
        self._results: deque[Future[Out]] = deque()
        self._fill()

    def _fill(self) -> None:
        for item in itertools.islice(self._items, self._depth - len(self._results)):
            self._results.append(self._pool.submit(self._work, item))

    @property
    def ready(self) -> bool:
        """Whether the next result is there."""
        return bool(self._results) and self._results[0].done()

    def __iter__(self) -> Iterator[Out]:
        return self

    def __next__(self) -> Out:
        if not self._results:
            raise StopIteration
        result = self._results.popleft()
        self._fill()
        return result.result()

    def __enter__(self) -> Ahead[In, Out]:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Begin nothing more, and wait for what is being done."""
        self._pool.shutdown(wait=True, cancel_futures=True)
