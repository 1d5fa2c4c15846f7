"""From a spool to the index: judge the images, sort the boxes by image, judge them, write.

In: a closed spool. Out: images, annotations, categories and rejected as Parquet, sorted by image id, so that
the index of one data set is the same whatever the order of its images, and a query for some images touches
few row groups.
An image is set aside when its id or its path came before: duplicate_image_id, duplicate_image_path. A box is
set aside with the first that holds of:
    annotation_without_image · image_set_aside · unknown_category · box_not_finite · box_negative (x2 < x1) ·
    box_empty (no area) · box_outside (not in its image, or sticks out by more than `max_outside` pixels) ·
    duplicate_annotation_id (not the first of its id)
The sort puts boxes into files of neighbouring images (`Buckets`) and sorts each in memory: what is held at a
time are the images' paths and one bucket, however many boxes there are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from spr.data.spool import BOX, NO_KEY, Rows, Spool, column_of, numbers_of, read_rows, text_column, write_rows
from spr.store.tables import schema_of
from spr.types import Dropped

ROW_GROUP = 16_384  # boxes: about a thousand images, so that a shard of images reads little more than itself
BUCKET_ROWS = 1 << 15  # boxes sorted at once
MAX_BUCKETS = 256  # files open at once
NO_IMAGE, SET_ASIDE = -1, -2  # in place of an image's rank
REASONS = (
    "",
    "annotation_without_image",
    "image_set_aside",
    "unknown_category",
    "box_not_finite",
    "box_negative",
    "box_empty",
    "box_outside",
    "duplicate_annotation_id",
)

IMAGES = pa.schema(
    [
        ("image_id", pa.string()),  # also the path below the image root
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("objects", pa.int32()),  # boxes that are neither crowd nor ignore
        ("crowds", pa.int32()),
        ("categories", pa.list_(pa.string())),  # distinct, of the `objects`
    ]
)
ANNOTATIONS = pa.schema(
    [
        ("image_id", pa.string()),
        ("annotation_id", pa.string()),
        ("category", pa.string()),
        *((name, pa.float64()) for name in ("x1", "y1", "x2", "y2")),
        *((name, pa.bool_()) for name in ("crowd", "ignore", "difficult")),
    ]
)
_SOURCE = np.dtype([("file", "i4"), ("source", "i8"), ("seq", "i8")])
_OPTIONS = {"compression": "lz4"}  # ours: three times as fast to read as zstd, a third larger


@dataclass(frozen=True, slots=True)
class Counts:
    """What an index holds. `rejected` counts what was set aside, by reason."""

    images: int
    annotations: int
    categories: int
    rejected: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Images:
    """The usable images in order of rank, as columns of equal length."""

    paths: pa.StringArray
    width: NDArray[np.int64]
    height: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.paths)


def finish(spool: Spool, out: Path, max_outside: float) -> Counts:
    """Write the index of a closed spool into the folder `out`."""
    images, owners, repeated_images = judge_images(*spool.image_columns())
    names = sorted(set(spool.categories.values()))
    place = {name: n for n, name in enumerate(names)}
    file, key, number = (
        np.array([(*at, place[name]) for at, name in spool.categories.items()], np.int64).reshape(-1, 3).T
    )
    categories = Lookup(file, key, number, -1)
    repeated = _repeated_sources(spool)
    output = _Output(spool, out, images, names)
    for item in (*spool.broken, *spool.rejected, *repeated_images):
        output.reject(item)
    seen = 0
    for rows in _by_image(spool, owners, len(images)):
        seen += len(rows)
        category = categories.find(rows["file"], rows["category"])
        reasons = judge_boxes(rows, category, images, max_outside)
        if len(repeated):
            reasons[np.isin(rows["seq"], repeated) & (reasons == 0)] = len(REASONS) - 1
        output.write(rows, category, reasons)
    if seen != spool.boxes:
        raise OSError(f"{out}: {seen} of {spool.boxes} boxes could be read back: is the disk full?")
    return output.close()


class Lookup:
    """(file, key) -> value for columns of integers: by place where the keys of a file are dense, else by
    binary search.
    """

    def __init__(
        self, file: NDArray[np.int64], key: NDArray[np.int64], value: NDArray[np.int64], default: int
    ) -> None:
        self._default = default
        self._tables: dict[int, tuple[NDArray[np.int64] | None, NDArray[np.int64]]] = {}
        self._low: dict[int, int] = {}
        for number in np.unique(file).tolist():
            keys, values = key[file == number], value[file == number]
            low, span = int(keys.min()), int(keys.max()) - int(keys.min()) + 1
            self._low[number] = low
            if span <= 4 * len(keys) + 1024:
                table = np.full(span, default, np.int64)
                table[keys - low] = values
                self._tables[number] = None, table
            else:
                order = np.argsort(keys, kind="stable")
                self._tables[number] = keys[order], values[order]

    def find(self, file: NDArray[np.integer[Any]], key: NDArray[np.int64]) -> NDArray[np.int64]:
        """(n,) the value of each (file, key), the default where there is none."""
        numbers = np.unique(file).tolist()
        if len(numbers) == 1:
            return self._in_file(numbers[0], key)
        found = np.full(len(key), self._default, np.int64)
        for number in numbers:
            found[file == number] = self._in_file(number, key[file == number])
        return found

    def _in_file(self, number: int, key: NDArray[np.int64]) -> NDArray[np.int64]:
        if number not in self._tables:
            return np.full(len(key), self._default, np.int64)
        keys, values = self._tables[number]
        if keys is None:
            low = self._low[number]
            inside = (key >= low) & (key < low + len(values))
            return np.where(inside, values[np.where(inside, key - low, 0)], self._default)
        at = np.minimum(np.searchsorted(keys, key), len(keys) - 1)
        return np.where(keys[at] == key, values[at], self._default)


class Buckets:
    """Rows in `count` files, so that each can be sorted alone. Within a file they keep the order in which
    they came.
    """

    def __init__(self, folder: Path, dtype: np.dtype[np.void], count: int) -> None:
        folder.mkdir()
        self._dtype = dtype
        self._files = [(folder / f"{n}.bin").open("w+b") for n in range(count)]

    def add(self, rows: Rows, bucket: NDArray[np.int64]) -> None:
        """Put each row into its bucket."""
        order = _stable_order(bucket)
        ends = np.searchsorted(bucket[order], np.arange(len(self._files)), side="right")
        for file, part in zip(self._files, np.split(rows[order], ends[:-1]), strict=True):
            write_rows(part, file)

    def __iter__(self) -> Iterator[Rows]:
        for file in self._files:
            file.seek(0)
            yield read_rows(file, self._dtype)
            file.close()


def _stable_order(values: NDArray[np.int64]) -> NDArray[np.intp]:
    """Stable argsort of numbers >= 0. numpy sorts 16-bit numbers by radix, several times faster."""
    low = values.min(initial=0)
    return np.argsort(
        (values - low).astype(np.uint16) if values.max(initial=0) - low < 1 << 16 else values, kind="stable"
    )


def judge_images(numbers: NDArray[np.int64], paths: pa.StringArray) -> tuple[Images, Lookup, list[Dropped]]:
    """The usable images sorted by path, the rank behind every (file, key), and the repeated ones. For the
    columns see `Spool.image_columns`.
    """
    n = len(numbers)
    file, key, width, height = numbers.T
    by_id = np.lexsort((np.arange(n), key, file))
    same_id = np.zeros(n, np.bool_)
    same_id[by_id[1:]] = (
        (file[by_id[1:]] == file[by_id[:-1]])
        & (key[by_id[1:]] == key[by_id[:-1]])
        & (key[by_id[1:]] != NO_KEY)
    )
    # stable: the first of its path stays first
    by_path = numbers_of(pc.array_sort_indices(paths)).astype(np.int64)
    by_path = by_path[(width > 0)[by_path] & ~same_id[by_path]]
    ordered = paths.take(column_of(by_path))
    first = np.ones(len(by_path), np.bool_)
    if len(by_path):
        first[1:] = numbers_of(pc.not_equal(ordered[1:], ordered[:-1]).cast(pa.uint8()))
    rank = np.full(n, SET_ASIDE, np.int64)
    rank[by_path[first]] = np.arange(first.sum())
    known = ~same_id & (key != NO_KEY)
    lost = [
        Dropped(paths[i].as_py(), "duplicate_image_id", "not the first of its id")
        for i in np.flatnonzero(same_id).tolist()
    ]
    lost += [
        Dropped(paths[i].as_py(), "duplicate_image_path", "not the first with this path")
        for i in by_path[~first].tolist()
    ]
    images = Images(ordered.filter(column_of(first)), width[by_path[first]], height[by_path[first]])
    return images, Lookup(file[known], key[known], rank[known], NO_IMAGE), lost


def judge_boxes(
    rows: Rows, category: NDArray[np.int64], images: Images, max_outside: float
) -> NDArray[np.int8]:
    """(n,) the place in `REASONS` of the reason to set each box aside, 0 for a good one. The first that holds
    counts.
    """
    known = rows["rank"] >= 0
    owner = np.where(known, rows["rank"], 0)
    width, height = (
        size[owner] if len(images) else np.zeros(len(rows), np.int64)
        for size in (images.width, images.height)
    )
    x1, y1, x2, y2 = rows["xyxy"].T
    finite = np.isfinite(rows["xyxy"]).all(axis=1)
    sticks_out = (
        (x1 < -max_outside) | (y1 < -max_outside) | (x2 > width + max_outside) | (y2 > height + max_outside)
    )
    beside = (x2 <= 0) | (y2 <= 0) | (x1 >= width) | (y1 >= height)
    conditions = [
        rows["rank"] == NO_IMAGE,
        rows["rank"] == SET_ASIDE,
        category < 0,
        ~finite,
        (x2 < x1) | (y2 < y1),
        (x2 == x1) | (y2 == y1),
        sticks_out | beside,
    ]
    return np.select(conditions, [np.int8(n) for n in range(1, 1 + len(conditions))], default=np.int8(0))


def _repeated_sources(spool: Spool) -> NDArray[np.int64]:
    """`seq` of the boxes whose id came before in the same file."""
    count = min(1 + spool.boxes // BUCKET_ROWS, MAX_BUCKETS)
    buckets = Buckets(spool.folder / "ids", _SOURCE, count)
    for rows in spool.box_batches():
        some = rows[rows["source"] != NO_KEY]
        ids = np.zeros(len(some), _SOURCE)
        for name in _SOURCE.names or ():
            ids[name] = some[name]
        buckets.add(ids, some["source"] % count)
    found = []
    for ids in buckets:
        file, source = ids["file"], ids["source"]
        order = np.lexsort((ids["seq"], source, file))
        equal = (file[order[1:]] == file[order[:-1]]) & (source[order[1:]] == source[order[:-1]])
        found.append(ids["seq"][order[1:][equal]])
    return np.concatenate(found)


def _by_image(spool: Spool, owners: Lookup, images: int) -> Iterator[Rows]:
    """All boxes: first those without a usable image, then the others sorted by (rank of the image, source
    order), an image's boxes together.
    """
    count = min(1 + spool.boxes // BUCKET_ROWS, MAX_BUCKETS)
    buckets = Buckets(spool.folder / "sorted", BOX, count)
    for rows in spool.box_batches():
        rank = owners.find(rows["file"], rows["image"])
        rows["rank"] = rank
        if (rank < 0).any():
            yield rows[rank < 0]
            rows, rank = rows[rank >= 0], rank[rank >= 0]
        buckets.add(rows, rank * count // max(1, images))
    for rows in buckets:
        yield rows[_stable_order(rows["rank"])]


class _Output:
    """The four files of an index while they are written."""

    def __init__(self, spool: Spool, out: Path, images: Images, categories: Sequence[str]) -> None:
        self._images, self._names = images, spool.names()
        self._categories = text_column(categories)
        self._done = 0  # images written
        self._annotations = 0
        self._rejected: Counter[str] = Counter()
        self._held: list[Dropped] = []
        self._image_file = pq.ParquetWriter(out / "images.parquet", IMAGES, **_OPTIONS)
        self._box_file = pq.ParquetWriter(
            out / "annotations.parquet",
            ANNOTATIONS,
            use_dictionary=["image_id", "annotation_id", "category"],
            **_OPTIONS,
        )
        self._rejected_file = pq.ParquetWriter(out / "rejected.parquet", schema_of(Dropped), **_OPTIONS)
        pq.write_table(pa.table({"category": self._categories}), out / "categories.parquet")

    def close(self) -> Counts:
        """Write what is left and count."""
        self._write_images(len(self._images), np.zeros(0, BOX), np.zeros(0, np.int64))
        self._flush()
        for file in (self._image_file, self._box_file, self._rejected_file):
            file.close()
        return Counts(
            len(self._images), self._annotations, len(self._categories), dict(sorted(self._rejected.items()))
        )

    def reject(self, item: Dropped) -> None:
        """A row of the rejected file."""
        self._rejected[item.reason] += 1
        self._held.append(item)
        if len(self._held) >= BUCKET_ROWS:
            self._flush()

    def write(self, rows: Rows, category: NDArray[np.int64], reasons: NDArray[np.int8]) -> None:
        """Boxes sorted by image: the good ones to the index, the others to the rejected."""
        if len(rows) == 0:
            return
        ordinal = np.arange(len(rows)) - np.searchsorted(rows["rank"], rows["rank"], side="left")
        good = reasons == 0
        for at in np.flatnonzero(~good).tolist():
            self.reject(self._bad_box(rows[at], int(ordinal[at]), REASONS[reasons[at]]))
        if good.any():
            self._write_boxes(rows[good], category[good], ordinal[good])
        if rows["rank"][-1] >= 0:
            self._write_images(int(rows["rank"][-1]) + 1, rows[good], category[good])

    def _write_boxes(self, rows: Rows, category: NDArray[np.int64], ordinal: NDArray[np.int64]) -> None:
        self._annotations += len(rows)
        columns = [
            self._images.paths.take(column_of(rows["rank"])),
            column_of(ordinal).cast(pa.string()),
            self._categories.take(column_of(category)),
            *(column_of(rows["xyxy"][:, n]) for n in range(4)),
            *(column_of(rows[name]) for name in ("crowd", "ignore", "difficult")),
        ]
        self._box_file.write_table(pa.table(columns, schema=ANNOTATIONS), row_group_size=ROW_GROUP)

    def _write_images(self, end: int, rows: Rows, category: NDArray[np.int64]) -> None:
        """Images up to rank `end`, with what their boxes say about them."""
        begin, self._done = self._done, end
        n, kinds = end - begin, max(1, len(self._categories))
        rank, plain = rows["rank"] - begin, ~(rows["crowd"] | rows["ignore"])
        objects = np.bincount(rank[plain], minlength=n)
        crowds = np.bincount(rank[rows["crowd"]], minlength=n)
        codes = np.sort(rank[plain] * kinds + category[plain])
        codes = codes[np.diff(codes, prepend=-1) != 0]
        offsets = np.searchsorted(codes // kinds, np.arange(n + 1)).astype(np.int32)
        lists = pa.ListArray.from_arrays(column_of(offsets), self._categories.take(column_of(codes % kinds)))
        paths = self._images.paths.slice(begin, n)
        numbers = (self._images.width[begin:end], self._images.height[begin:end], objects, crowds)
        columns = [paths, *(column_of(v.astype(np.int32)) for v in numbers), lists]
        self._image_file.write_table(pa.table(columns, schema=IMAGES))

    def _bad_box(self, row: np.void, ordinal: int, reason: str) -> Dropped:
        file, rank, source = int(row["file"]), int(row["rank"]), int(row["source"])
        item = (
            f"{self._images.paths[rank]}#{ordinal}"
            if rank >= 0
            else f"annotation {self._shown(file, source)}"
        )
        match reason:
            case "unknown_category":
                detail = (
                    f"category {self._shown(file, int(row['category']))} is not in the list of categories"
                )
            case "annotation_without_image" | "image_set_aside":
                detail = f"image {self._shown(file, int(row['image']))}"
            case "duplicate_annotation_id":
                detail = f"id {self._shown(file, source)}"
            case _:
                detail = "xyxy " + ", ".join(f"{v:g}" for v in row["xyxy"].tolist())
        return Dropped(item, reason, detail)

    def _shown(self, file: int, key: int) -> str:
        return "(none)" if key == NO_KEY else self._names.get((file, key), str(key))

    def _flush(self) -> None:
        columns = [
            text_column([getattr(d, name) for d in self._held]) for name in ("item_id", "reason", "detail")
        ]
        self._rejected_file.write_table(pa.table(columns, schema=schema_of(Dropped)))
        self._held = []
