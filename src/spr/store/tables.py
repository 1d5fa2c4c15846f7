"""Records <-> Arrow tables and Parquet bytes.

In: frozen dataclasses of `spr.types` (fields: str, int, float, bool, tuples, nested records, and `| None` of
these). Out: tables whose columns are typed by the annotations of the class; equal records are equal bytes.
"""

from __future__ import annotations

import dataclasses
import io
import types
import typing
from collections.abc import Sequence
from functools import cache
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from spr.errors import DataError

T = TypeVar("T")
_PLAIN = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}


def _strip_optional(annotation: Any) -> tuple[Any, bool]:
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        rest = [a for a in typing.get_args(annotation) if a is not type(None)]
        if len(rest) == 1:
            return rest[0], True
    return annotation, False


def _arrow_type(annotation: Any) -> pa.DataType:
    annotation, _ = _strip_optional(annotation)
    if annotation in _PLAIN:
        return _PLAIN[annotation]
    if typing.get_origin(annotation) is typing.Literal:
        return pa.string()
    if typing.get_origin(annotation) is tuple:
        inner = set(typing.get_args(annotation)) - {Ellipsis}
        if len(inner) == 1:
            return pa.list_(_arrow_type(inner.pop()))
    if dataclasses.is_dataclass(annotation) and isinstance(annotation, type):
        return pa.struct(list(schema_of(annotation)))
    raise TypeError(f"no column type for {annotation!r}")


@cache
def _hints(cls: Any) -> dict[str, Any]:
    hints = typing.get_type_hints(cls)
    return {f.name: hints[f.name] for f in dataclasses.fields(cls)}


@cache
def schema_of(cls: Any) -> pa.Schema:
    """The Arrow schema of a record class, from its annotations."""
    return pa.schema([pa.field(name, _arrow_type(hint)) for name, hint in _hints(cls).items()])


def _from_arrow(annotation: Any, value: Any) -> Any:
    annotation, _ = _strip_optional(annotation)
    if value is None:
        return None
    if typing.get_origin(annotation) is tuple:
        inner = typing.get_args(annotation)[0]
        return tuple(_from_arrow(inner, v) for v in value)
    if dataclasses.is_dataclass(annotation) and isinstance(annotation, type):
        return annotation(
            **{name: _from_arrow(hint, value[name]) for name, hint in _hints(annotation).items()}
        )
    return value


def to_table(records: Sequence[Any], cls: type) -> pa.Table:
    """Records as an Arrow table with the columns of `cls`."""
    return pa.Table.from_pylist([dataclasses.asdict(r) for r in records], schema=schema_of(cls))


def from_table(table: pa.Table, cls: type[T]) -> list[T]:
    """The records of an Arrow table. Raises DataError when a column of `cls` is missing."""
    wanted: Any = cls
    missing = [name for name in schema_of(wanted).names if name not in table.column_names]
    if missing:
        raise DataError(
            f"columns {missing} are missing; found {table.column_names}, expected those of {cls.__name__}"
        )
    return [_from_arrow(cls, row) for row in table.to_pylist()]


def parquet_bytes(records: Sequence[Any], cls: type) -> bytes:
    """Records of one class as a Parquet file; equal records are equal bytes."""
    sink = io.BytesIO()
    pq.write_table(to_table(records, cls), sink, compression="zstd", write_page_checksum=True)
    return sink.getvalue()
