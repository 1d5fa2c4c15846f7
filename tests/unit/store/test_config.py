"""Every mistake in a configuration is one line that names the key, what was found and what was expected."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from spr.errors import ConfigError
from spr.store.config import apply_overrides, load, read_yaml, resolve


@dataclass(frozen=True)
class Inner:
    number: int = 1
    kind: Literal["a", "b"] = "a"


@dataclass(frozen=True)
class Outer:
    name: str
    inner: Inner = field(default_factory=Inner)
    many: tuple[Inner, ...] = ()
    maybe: Inner | None = None
    named: Mapping[str, Inner] = field(default_factory=dict)


def test_values_arrive() -> None:
    assert load(Outer, {"name": "x", "inner": {"number": 2}, "many": [{"kind": "b"}]}) == Outer(
        "x", Inner(2), (Inner(1, "b"),)
    )


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            {"name": "x", "iner": {}},
            "iner: unknown key 'iner' (did you mean 'inner'?); known: inner, many, maybe, name, named",
        ),
        ({"name": "x", "inner": {"nmber": 1}}, "inner.nmber: unknown key 'nmber' (did you mean 'number'?)"),
        ({"name": "x", "many": [{}, {"nmber": 1}]}, "many.1.nmber: unknown key"),
        ({"name": "x", "maybe": {"nmber": 1}}, "maybe.nmber: unknown key"),
        ({"name": "x", "inner": {"number": "many"}}, "inner.number: found 'many', expected"),
        ({"name": "x", "inner": {"kind": "c"}}, "inner.kind: found 'c', expected"),
        ({"name": "x", "named": {"a": {"nmber": 1}}}, "named.a.nmber: unknown key"),
        ({"name": "x", "inner": 3}, "inner: found int, expected a mapping"),
        ({}, "name: found nothing"),
    ],
)
def test_mistakes_are_one_line(data: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as e:
        load(Outer, data)
    assert message in str(e.value)
    assert "\n" not in str(e.value)


def test_overrides_are_read_as_yaml() -> None:
    assert apply_overrides({"a": {"b": 1}}, ["a.b=2", "c.d=[x, y]", "e=null"]) == {
        "a": {"b": 2},
        "c": {"d": ["x", "y"]},
        "e": None,
    }
    # one of a list
    assert apply_overrides({"many": [{"a": 1, "b": 1}, {"a": 2}]}, ["many.0.a=5"]) == {
        "many": [{"a": 5, "b": 1}, {"a": 2}]
    }
    with pytest.raises(ConfigError, match=r"expected a\.b=value"):
        apply_overrides({}, ["a.b"])
    with pytest.raises(ConfigError, match=r"--set .*: not valid YAML"):
        apply_overrides({}, ["a.b=[1"])


def test_a_broken_file_names_its_place(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("a: 1\nb: [1, 2\n")
    with pytest.raises(ConfigError, match=r"c\.yaml:3:1: not valid YAML"):
        read_yaml(path)
    path.write_text("- 1\n")
    with pytest.raises(ConfigError, match="found list, expected a mapping"):
        read_yaml(path)
    with pytest.raises(ConfigError, match="no such file"):
        read_yaml(tmp_path / "none.yaml")


def test_paths_are_relative_to_the_file() -> None:
    assert resolve("x/y", Path("/base")) == "/base/x/y"
    assert resolve("/x", Path("/base")) == "/x"
    assert resolve("s3://b/x", Path("/base")) == "s3://b/x"
