"""Rows of Parquet and Arrow files from elsewhere.

In: an open file. Out: its schema and its batches. Every batch is validated before anybody looks into it:
pyarrow trusts the lengths and offsets in an Arrow file, and a damaged one ends the process.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

# what pyarrow raises about a file that is not what it says
BROKEN = (pa.ArrowException, OSError, ValueError, TypeError, KeyError, OverflowError, NotImplementedError)


def open_batches(file: Any, arrow: bool, rows: int) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    """Schema and batches of at most `rows` rows, of a Parquet file or (`arrow`) an Arrow stream or file. Here
    and while the batches are read, one of BROKEN for a file that is not whole.
    """
    schema, batches = _arrow(file) if arrow else _parquet(file, rows)
    _ = schema.names  # a name may not be UTF-8
    return schema, _cut(_validated(batches), rows)


def _parquet(file: Any, rows: int) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    whole = pq.ParquetFile(file)
    return whole.schema_arrow, whole.iter_batches(rows)


def _arrow(file: Any) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    try:
        stream = pa.ipc.open_stream(file)
    except pa.ArrowInvalid:
        file.seek(0)
        whole = pa.ipc.open_file(file)
        return whole.schema, (whole.get_batch(k) for k in range(whole.num_record_batches))
    return stream.schema, iter(stream)


def _validated(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        batch.validate(full=True)
        yield batch


def _cut(batches: Iterator[pa.RecordBatch], rows: int) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        yield from (batch.slice(i, rows) for i in range(0, batch.num_rows, rows))
