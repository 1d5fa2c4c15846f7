"""Results come in the order of the items, and no more is begun than was said."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from spr.models.ahead import Ahead


def test_results_come_in_order_whatever_ends_first() -> None:
    second = threading.Event()

    def work(item: int) -> int:
        if item == 0:
            assert second.wait(10)
        if item == 1:
            second.set()
        return item * item

    with Ahead(work, range(7), threads=2, depth=3) as results:
        assert list(results) == [0, 1, 4, 9, 16, 25, 36]
        assert not results.ready


def test_no_more_is_begun_than_depth_allows() -> None:
    """What is ahead holds memory."""
    taken: list[int] = []

    def items() -> Iterator[int]:
        for item in range(10):
            taken.append(item)
            yield item

    with Ahead(str, items(), threads=2, depth=3) as results:
        assert len(taken) == 3
        assert next(results) == "0"
        assert len(taken) == 4
    assert len(taken) == 4


def test_what_goes_wrong_is_raised_where_it_is_asked_for() -> None:
    with Ahead(lambda item: 1 // item, [1, 0, 1]) as results:
        assert next(results) == 1
        with pytest.raises(ZeroDivisionError):
            next(results)
        assert next(results) == 1
