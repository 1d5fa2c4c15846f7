"""Images that lie in the rows of Parquet or Arrow files, as the `datasets` package writes them, by
"<file>/<row>".

The image column is the first that holds encoded images: a struct with `bytes`, or binary. Of a Parquet file
one row group is read at a time and the last one kept; Arrow files are memory-mapped.
"""

from __future__ import annotations

from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from spr.data.arrow import open_batches

ROWS = "rows://"  # an image root of this kind: rows://<folder>


def image_column(schema: pa.Schema) -> str | None:
    """The name of the first column with encoded images, if any."""
    for field in schema:
        if pa.types.is_binary(field.type) or pa.types.is_large_binary(field.type):
            return str(field.name)
        if pa.types.is_struct(field.type) and field.type.get_field_index("bytes") >= 0:
            return str(field.name)
    return None


def image_bytes(value: Any) -> bytes | None:
    """The encoded image of a cell, None when it only names a file."""
    data = value.get("bytes") if isinstance(value, dict) else value
    return data if isinstance(data, bytes) else None


class RowFiles:
    """The few calls of an fsspec file system that an image store makes, over the rows below a folder. Not for
    several threads at once.
    """

    def __init__(self, folder: str) -> None:
        self._fs, self._folder = fsspec.core.url_to_fs(folder)
        self._tables: dict[str, _Rows] = {}

    def exists(self, name: str) -> bool:
        """Whether there is the folder itself ("") or a file in it."""
        return bool(self._fs.exists(f"{self._folder}/{name}".rstrip("/")))

    def cat_file(self, name: str) -> bytes:
        """The encoded image of "<file>/<row>". Raises FileNotFoundError."""
        file, _, row = name.rpartition("/")
        path = f"{self._folder}/{file}"
        if not row.isdecimal() or not self._fs.isfile(path):
            raise FileNotFoundError(name)
        try:
            if file not in self._tables:
                self._tables[file] = (
                    _ArrowRows(path) if file.endswith(".arrow") else _ParquetRows(self._fs.open(path, "rb"))
                )
            data = self._tables[file].image(int(row))
        except pa.ArrowException as e:
            raise ValueError(f"{path}: not readable ({e})") from None
        if data is None:
            raise FileNotFoundError(name)
        return data


class _ArrowRows:
    def __init__(self, path: str) -> None:
        with pa.memory_map(path) as source:
            schema, batches = open_batches(source, True, 1 << 20)
            table = pa.Table.from_batches(batches, schema)
        column = image_column(schema)
        self._column = table[column] if column is not None else None

    def image(self, row: int) -> bytes | None:
        if self._column is None or row >= len(self._column):
            return None
        return image_bytes(self._column[row].as_py())


class _ParquetRows:
    def __init__(self, file: Any) -> None:
        self._file = pq.ParquetFile(file)
        self._column = image_column(self._file.schema_arrow)
        sizes = [self._file.metadata.row_group(n).num_rows for n in range(self._file.num_row_groups)]
        self._starts = np.cumsum([0, *sizes])
        self._held: tuple[int, Any] | None = None

    def image(self, row: int) -> bytes | None:
        if self._column is None or row >= self._starts[-1]:
            return None
        group = int(np.searchsorted(self._starts, row, side="right")) - 1
        if self._held is None or self._held[0] != group:
            self._held = group, self._file.read_row_group(group, columns=[self._column])[self._column]
        return image_bytes(self._held[1][row - int(self._starts[group])].as_py())


_Rows = _ArrowRows | _ParquetRows
