"""Questions to a finished index.

In: the folder of an index and a DuckDB expression. Out: records. `where` is an expression over one row of
`images`: image_id, width, height, objects (boxes that are neither crowd nor ignore), crowds, categories (a
list of names); sub-queries may use the tables `images`, `annotations` and
`categories`, e.g.  objects >= 5 AND list_contains(categories, 'dog')
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from spr.data.spool import numbers_of, text_column
from spr.data.where import SECONDS, TABLES, check_where, limited, lock, wrong
from spr.errors import DataError
from spr.store.run import Run
from spr.types import Annotation, ImageRecord

if TYPE_CHECKING:
    import duckdb

_TEXTS = ("annotation_id", "image_id", "category")
PART = 1 << 16  # images read at once
POINTER = "location.json"  # stands in a run's index folder when the index itself is in a shared cache


def place_of(path: str) -> str:
    """Where the index of that folder really lies: there, or in a shared cache. Raises DamagedRunError."""
    folder = Run(path.rstrip("/"))
    pointer = folder.read_json(POINTER)
    return str(pointer["location"]) if isinstance(pointer, dict) and "location" in pointer else folder.root


class Index:
    """A finished index. Opening is cheap; nothing is held in memory but the bounds of the row groups."""

    def __init__(self, path: str) -> None:
        self.path = place_of(path)
        fs, base = fsspec.core.url_to_fs(self.path)
        missing = [name for name in TABLES if not fs.exists(f"{base}/{name}.parquet")]
        if missing:
            raise DataError(
                f"{self.path}: found no {', '.join(f'{name}.parquet' for name in missing)}, expected a "
                "finished index; run `spr index`"
            )
        self._fs = fs
        self._boxes = pq.ParquetFile(
            fs.open(f"{base}/annotations.parquet", "rb"), read_dictionary=list(_TEXTS)
        )
        bounds = [
            self._boxes.metadata.row_group(n).column(0).statistics for n in range(self._boxes.num_row_groups)
        ]
        self._low, self._high = [s.min for s in bounds], [s.max for s in bounds]

    def connect(self) -> duckdb.DuckDBPyConnection:
        """A DuckDB connection with the views images, annotations, categories and rejected. It reads their
        files and nothing else.
        """
        import duckdb  # here: the reading of annotations does without

        con = duckdb.connect()
        if "://" in self.path and "file" not in self._fs.protocol:
            con.register_filesystem(self._fs)
        for name in TABLES:
            con.read_parquet(f"{self.path}/{name}.parquet").create_view(name)
        plain = self._fs.unstrip_protocol(self._fs._strip_protocol(self.path)).removeprefix("file://")
        lock(con, [f"{place}/{name}.parquet" for place in {self.path, plain} for name in TABLES])
        return con

    def images(self, where: str = "", most: int | None = None) -> list[ImageRecord]:
        """The images for which `where` holds, in order of image id; the first `most` of them. Raises what
        `image_parts` raises.
        """
        return image_records(gather(self.image_parts(where), lambda found: in_order(found)[:most], most))

    def image_parts(self, where: str = "") -> Iterator[pa.Table]:
        """image_id, width, height, objects of the images for which `where` holds, in parts of any order.
        Raises ConfigError for what is no expression over the tables (`spr.data.where`), or takes too long.
        """
        import duckdb

        condition = ""
        if where.strip():
            check_where(where)
            condition = f"WHERE ({where}\n)"
        with self.connect() as con, limited(con):
            known = ", ".join(con.sql("FROM images LIMIT 0").columns)
            try:
                found = con.sql(f"SELECT image_id, width, height, objects FROM images {condition}")
                reader = found.to_arrow_reader(PART)
                yield reader.schema.empty_table()
                for batch in reader:
                    yield pa.Table.from_batches([batch])
            except (duckdb.Error, pa.ArrowException, OSError) as e:
                if "INTERRUPT Error" in str(e).splitlines()[0]:  # arrow wraps what comes later than the first
                    raise wrong(where, f"takes longer than {SECONDS:g} seconds") from None
                raise wrong(where, f"{str(e).splitlines()[0]}; columns: {known}") from None

    def annotations_of(self, ids: Collection[str]) -> dict[str, Sequence[Annotation]]:
        """The annotations of these images, each in source order. An image without annotations has an empty
        list.
        """
        found: dict[str, list[Annotation]] = {image_id: [] for image_id in ids}
        if not found:
            return {}
        low, high = min(found), max(found)
        groups = [n for n in range(len(self._low)) if self._low[n] <= high and self._high[n] >= low]
        wanted = text_column(list(found))
        for n in groups:
            # for a group this small threads cost more than they save
            table = self._boxes.read_row_group(n, use_threads=False)
            for annotation in _annotations(
                table.filter(pc.is_in(table["image_id"], wanted)).combine_chunks()
            ):
                found[annotation.image_id].append(annotation)
        return dict(found)

    def rejected(self) -> dict[str, int]:
        """How many things were set aside, by reason."""
        with self.connect() as con:
            return dict(
                con.sql("SELECT reason, count(*) FROM rejected GROUP BY reason ORDER BY reason").fetchall()
            )


def gather(parts: Iterable[pa.Table], keep: Callable[[pa.Table], pa.Table], most: int | None) -> pa.Table:
    """What `keep` leaves of all parts together: at most `most` rows, however many there are. No more than
    that, twice, and a part are held at once.
    """
    held: list[pa.Table] = []
    for part in parts:
        held.append(part)
        if most is not None and sum(map(len, held)) > 2 * most:
            held = [keep(pa.concat_tables(held))]
    return keep(pa.concat_tables(held))


def in_order(images: pa.Table) -> pa.Table:
    """The images in order of image id."""
    ids = images["image_id"]
    ordered = pc.all(pc.less(ids[:-1], ids[1:])).as_py() is not False
    return images if ordered else images.sort_by("image_id")


def image_records(table: pa.Table) -> list[ImageRecord]:
    """The images of a part."""
    columns = (table[name].to_pylist() for name in ("image_id", "width", "height"))
    return [
        ImageRecord(image_id, image_id, width, height)
        for image_id, width, height in zip(*columns, strict=True)
    ]


def open_index(path: str) -> Index:
    """The index in a folder (or at an fsspec URL). Raises DataError when there is none."""
    return Index(path)


def _annotations(table: pa.Table) -> list[Annotation]:
    if len(table) == 0:
        return []
    texts = [_texts(table[name].chunk(0)) for name in _TEXTS]
    boxes = np.stack([numbers_of(table[name].chunk(0)) for name in ("x1", "y1", "x2", "y2")], axis=1).tolist()
    flags = [table[name].to_pylist() for name in ("crowd", "ignore", "difficult")]
    return [
        Annotation(a, i, c, (x1, y1, x2, y2), *f)
        for a, i, c, (x1, y1, x2, y2), f in zip(*texts, boxes, zip(*flags, strict=True), strict=True)
    ]


def _texts(column: pa.DictionaryArray) -> list[str]:
    """The strings of a column, equal ones shared."""
    values = column.dictionary.to_pylist()
    return [values[code] for code in numbers_of(column.indices).tolist()]
