"""One YAML file -> frozen dataclasses, strictly: an unknown key, a wrong type or a missing value is one clear
line.

The dataclasses stand beside the stages that use them; this module only knows how to read them. `a.b=c`
overrides come after the file. Paths in the file are relative to the folder of the file (`base`), unless
absolute or a URL: a field whose metadata says `path` is resolved.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import TypeAdapter, ValidationError
from typing_extensions import override

from spr.errors import ConfigError, unknown_name

T = TypeVar("T")


class _Once(yaml.SafeLoader):
    """YAML in which a key stands once: of two, the first would be lost without a word."""

    @override
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: list[object] = []
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"found the key {key!r} twice, expected it once", key_node.start_mark
                )
            seen.append(key)
        return super().construct_mapping(node, deep)


def parse_yaml(text: str, where: str) -> Any:
    """The value of a YAML text. Raises ConfigError with `where` and the place of what is wrong."""
    try:
        return yaml.load(text, _Once)  # noqa: S506: a SafeLoader
    except yaml.YAMLError as e:
        mark = getattr(e, "problem_mark", None)
        place = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        raise ConfigError(f"{where}{place}: not valid YAML ({getattr(e, 'problem', None) or e})") from None
    except (RecursionError, ValueError, OverflowError) as e:  # nested without end, the 31st of February …
        said = "nested too deeply" if isinstance(e, RecursionError) else e
        raise ConfigError(f"{where}: not valid YAML ({said})") from None


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file. Raises ConfigError with the place of a syntax error."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file, expected a YAML configuration") from None
    except (OSError, ValueError) as e:
        raise ConfigError(f"{path}: cannot be read ({e})") from None
    value = parse_yaml(text, str(path))
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: found {type(value).__name__}, expected a mapping of sections")
    return value


def own_key(cls: type, dotted: str) -> str:
    """A dotted key by the fields' own names: `pairing.lambda` is `pair.lam`. What is unknown stays as
    it is.
    """
    first, dot, rest = dotted.partition(".")
    for field in dataclasses.fields(cls):
        if first in (field.name, field.metadata.get("also")):
            inner, many = _dataclass_in(typing.get_type_hints(cls)[field.name])
            return (
                field.name + dot + (own_key(inner, rest) if dot and inner is not None and not many else rest)
            )
    return dotted


def apply_overrides(data: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """`data` with `a.b=value` set (the value is read as YAML); `a.0.b` is the first of a list. Raises
    ConfigError.
    """
    result: Any = data
    for text in overrides:
        name, sign, value = text.partition("=")
        if not sign or not name.strip():
            raise ConfigError(f"--set {text!r}: expected a.b=value")
        result = _with(result, name.strip().split("."), parse_yaml(value, f"--set {text!r}"))
    return dict(result)


def _with(node: object, keys: Sequence[str], value: object) -> object:
    """A copy of the node with the value under the keys."""
    if not keys:
        return value
    key, *rest = keys
    if isinstance(node, list) and key.isdigit() and int(key) < len(node):
        return [_with(inner, rest, value) if k == int(key) else inner for k, inner in enumerate(node)]
    mapping = node if isinstance(node, Mapping) else {}
    return {**mapping, key: _with(mapping.get(key), rest, value)}


def _dataclass_in(annotation: Any) -> tuple[type | None, bool]:
    """The dataclass in an annotation `D`, `D | None`, `tuple[D, ...]`, `Mapping[str, D]`, and whether it is
    one of several.
    """
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        for part in typing.get_args(annotation):
            found = _dataclass_in(part)
            if found[0] is not None:
                return found
    if typing.get_origin(annotation) is tuple:
        return _dataclass_in(typing.get_args(annotation)[0])[0], True
    if typing.get_origin(annotation) is Mapping:
        return _dataclass_in(typing.get_args(annotation)[1])[0], True
    if dataclasses.is_dataclass(annotation) and isinstance(annotation, type):
        return annotation, False
    return None, False


def _check_keys(cls: type, data: object, where: str) -> None:
    if not isinstance(data, Mapping):
        if data is not None:
            raise ConfigError(
                f"{where or 'configuration'}: found {type(data).__name__}, expected a mapping with keys of "
                f"{cls.__name__}"
            )
        return
    hints = typing.get_type_hints(cls)
    names = [f.name for f in dataclasses.fields(cls)]
    for key, value in data.items():
        dotted = f"{where}.{key}" if where else str(key)
        if key not in names:
            raise ConfigError(f"{dotted}: " + unknown_name("key", str(key), names))
        inner, many = _dataclass_in(hints[key])
        if inner is not None and value is not None:
            values: Iterable[tuple[object, object]] = [("", value)]
            if many:
                values = (
                    value.items()
                    if isinstance(value, Mapping)
                    else enumerate(value)
                    if isinstance(value, list | tuple)
                    else values
                )
            for i, v in values:
                _check_keys(inner, v, f"{dotted}.{i}" if i != "" else dotted)


def own_names(cls: type, data: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    """`data` by the fields' own names: a field whose metadata says `also` is known by that name too. Raises
    ConfigError when both are given.
    """
    named: dict[str, Any] = {}
    for key, value in data.items():
        own = own_key(cls, str(key))
        if own in named:
            raise ConfigError(f"{where}{key}: found {own!r} twice, as {key!r} too; expected it once")
        hint = typing.get_type_hints(cls).get(own)
        inner, many = _dataclass_in(hint) if hint is not None else (None, False)
        named[own] = (
            own_names(inner, value, f"{where}{own}.")
            if inner is not None and not many and isinstance(value, Mapping)
            else value
        )
    return named


def load(cls: type[T], data: Mapping[str, Any], where: str = "") -> T:
    """`data` as the frozen dataclass `cls`. Raises ConfigError naming the key, what was found and what was
    expected.
    """
    _check_keys(cls, data, where)
    try:
        return TypeAdapter(cls).validate_python(dict(data))
    except ValidationError as e:
        first = e.errors()[0]
        name = ".".join(str(p) for p in ((where, *first["loc"]) if where else first["loc"]))
        found = "nothing" if first["type"] == "missing" else repr(first["input"])[:80]
        raise ConfigError(f"{name}: found {found}, expected: {first['msg']}") from None


def resolve(path: str, base: Path) -> str:
    """A path of the configuration: URLs and absolute paths as they are, others relative to `base`."""
    if "://" in path or Path(path).is_absolute():
        return path
    return str(base / path)
