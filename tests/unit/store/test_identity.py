"""What makes two runs the same, and what does not."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from spr.errors import StaleRunError
from spr.store.identity import Origin, check_origin, hold_origin, options
from spr.store.run import Run


@dataclass(frozen=True)
class Inner:
    width: int = 3
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Old:
    needed: str
    samples: int = 2
    inner: Inner = field(default_factory=Inner)


@dataclass(frozen=True)
class New(Old):
    """A later version with an option more."""

    later: bool = False


def test_only_what_differs_from_its_default_counts() -> None:
    assert options(Old("x")) == {"needed": "x"}
    assert options(Old("x", 3, Inner(4))) == {"needed": "x", "samples": 3, "inner": {"width": 4}}
    assert options(Old("x", 3), without=("needed",)) == {"samples": 3}


def test_an_option_added_later_changes_nothing_at_its_default(tmp_path: Path) -> None:
    """Else every new version would refuse every run that there is."""
    run = Run(str(tmp_path))
    hold_origin(run, ("scores",), Origin("score", {"score": options(Old("x"))}, {}))
    check_origin(run, ("scores",), Origin("score", {"score": options(New("x"))}, {}))
    with pytest.raises(StaleRunError, match=r"changed: score\.later\); use --overwrite score"):
        check_origin(run, ("scores",), Origin("score", {"score": options(New("x", later=True))}, {}))


@pytest.mark.parametrize(
    ("config", "inputs", "changed"),
    [
        ({"a": {"b": 1}}, {"model": "m"}, None),
        ({"a": {"b": 2}}, {"model": "m"}, "a.b"),
        ({"a": {}}, {"model": "m"}, "a.b"),
        ({"a": {"b": 1}}, {"model": "other"}, "model"),
        ({"a": {"b": 1}}, {"model": "m", "adapter": "x"}, "adapter"),
    ],
)
def test_a_change_is_named(
    tmp_path: Path, config: dict[str, Any], inputs: dict[str, str], changed: str | None
) -> None:
    """And looking changes nothing: a refused command has written nothing."""
    run = Run(str(tmp_path))
    check_origin(run, ("x",), Origin("pair", config, inputs))
    assert not list(tmp_path.iterdir())
    hold_origin(run, ("x",), Origin("pair", {"a": {"b": 1}}, {"model": "m"}))
    if changed is None:
        check_origin(run, ("x",), Origin("pair", config, inputs))
        return
    with pytest.raises(StaleRunError) as caught:
        check_origin(run, ("x",), Origin("pair", config, inputs))
    assert f"changed: {changed})" in str(caught.value)


def test_shards_of_two_sizes_never_mix(tmp_path: Path) -> None:
    run, origin = Run(str(tmp_path)), Origin("score", {}, {})
    hold_origin(run, ("scores",), origin, 32)
    hold_origin(run, ("scores",), origin, 32)
    with pytest.raises(StaleRunError, match=r"runtime\.shard_size, was 32"):
        hold_origin(run, ("scores",), origin, 16)
    assert replace(origin).digest == origin.digest
