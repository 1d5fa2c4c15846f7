"""Results come in the order of the items, or by their names, and no more is begun than was said."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from spr.errors import ConfigError
from spr.models.ahead import Expected, for_throughput
from spr.store.ahead import Ahead


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


def test_what_is_expected_is_begun_before_it_is_asked_for() -> None:
    begun: list[str] = []
    second = threading.Event()

    def work(name: str) -> str:
        begun.append(name)
        if len(begun) == 2:
            second.set()
        return name.upper()

    expected = Expected(work, threads=1, depth=2)
    expected.expect({name: name for name in "abcde"})
    assert second.wait(10)
    assert begun == ["a", "b"]
    assert expected.get("a", "a") == "A"
    assert expected.with_following("c", "c", 2) == {"c": "C", "d": "D"}  # b is passed over
    assert expected.with_following("a", "a", 3) == {"a": "A", "e": "E"}  # not expected any more: done now
    assert sorted(begun) == ["a", "a", "b", "c", "d", "e"]


def test_expecting_other_things_forgets_the_old_ones() -> None:
    expected = Expected(str.upper, threads=2, depth=4)
    expected.expect({"a": "a", "b": "b"})
    expected.expect({"c": "c"})
    assert expected.with_following("a", "a", 9) == {"a": "A", "c": "C"}
    assert expected.get("b", "b") == "B"


def test_what_goes_wrong_with_an_expected_thing_is_its_own() -> None:
    def work(name: str) -> str:
        if name == "b":
            raise OSError("gone")
        return name

    expected = Expected(work, threads=2, depth=3)
    expected.expect({name: name for name in "abc"})
    assert expected.get("a", "a") == "a"
    with pytest.raises(OSError, match="gone"):
        expected.get("b", "b")
    assert expected.get("c", "c") == "c"
    expected.expect({name: name for name in "abc"})
    found = expected.with_following("a", "a", 3)
    assert [found["a"], type(found["b"]), found["c"]] == ["a", OSError, "c"]


def test_what_may_run_together() -> None:
    assert [for_throughput("detector", name) for name in ("per_item", "throughput")] == [False, True]
    with pytest.raises(ConfigError, match=r"^detector\.batching: unknown batching 'fast'"):
        for_throughput("detector", "fast")
