"""What the stages from regions on work on, out of the folders before them: positions here, rows where they
are worked on.

Every stage keeps the order of the regions, and those of an image stand together. So the rows that belong to
some regions stand in the files of the shards that were made of them, and no table is read whole.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from itertools import groupby
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from spr.data.query import Index, gather, image_records, in_order
from spr.stages.regions import RegionsConfig, choose_images
from spr.store.folders import CANDIDATES, REGIONS, SCORES
from spr.store.items import Batch, Rows, Table, carried
from spr.store.run import Run
from spr.types import Description, ImageRecord, Region, ScoredCandidate

SeenRegion: TypeAlias = tuple[Region, str]  # with the digest of its image, where that was opened before
ScoredImage: TypeAlias = tuple[str, list[tuple[Region, list[Description]]]]  # the same digest, its regions
ScoredRegion: TypeAlias = tuple[Region, list[ScoredCandidate]]


class ChosenImages:
    """For `regions`: the images of the index that are looked at."""

    def __init__(self, index: Index, where: str, config: RegionsConfig, seed: int) -> None:
        def chosen(images: pa.Table) -> pa.Table:
            ids, objects = images["image_id"].to_pylist(), images["objects"].to_numpy()
            return images.take(choose_images(ids, objects, config, seed))

        self._images = in_order(gather(index.image_parts(where), chosen, config.max_images))

    def __len__(self) -> int:
        return len(self._images)

    def batch(self, start: int, stop: int) -> Batch[ImageRecord]:
        """The images from `start` up to `stop`."""
        return carried(image_records(self._images.slice(start, stop - start)))


class RegionItems:
    """For `describe`: every region."""

    def __init__(self, run: Run) -> None:
        self._regions = Table(run, Region, REGIONS)

    def __len__(self) -> int:
        return len(self._regions)

    def batch(self, start: int, stop: int) -> Batch[SeenRegion]:
        """The regions from `start` up to `stop`."""
        return partial(_seen_regions, self._regions.rows(start, stop))


def _seen_regions(regions: Rows[Region]) -> list[SeenRegion]:
    seen = regions.seen()
    return [(region, seen.get(region.image, "")) for region in regions.read()]


class ImageItems:
    """For `score`: every image with its regions and their descriptions, so that batches do not depend on the
    shards.
    """

    def __init__(self, run: Run) -> None:
        self._regions, self._candidates = Table(run, Region, REGIONS), Table(run, Description, CANDIDATES)
        self._starts = image_starts(self._regions)

    def __len__(self) -> int:
        return len(self._starts) - 1

    def batch(self, start: int, stop: int) -> Batch[ScoredImage]:
        """The images from `start` up to `stop`."""
        first, last = int(self._starts[start]), int(self._starts[stop])
        return partial(_scored_images, self._regions.rows(first, last), self._candidates.made_of(first, last))


def _scored_images(regions: Rows[Region], candidates: Rows[Description]) -> list[ScoredImage]:
    seen, described = {**regions.seen(), **candidates.seen()}, _by_region(candidates.read())
    images = []
    for _, group in groupby(regions.read(), key=lambda r: r.image_id):
        found = [(r, described.get(r.region_id, [])) for r in group]
        images.append((seen.get(found[0][0].image, ""), found))
    return images


class PairItems:
    """For `pair`: every region with its scored descriptions."""

    def __init__(self, run: Run) -> None:
        self._regions, self._scores = Table(run, Region, REGIONS), Table(run, ScoredCandidate, SCORES)
        self._starts = image_starts(self._regions)

    def __len__(self) -> int:
        return len(self._regions)

    def batch(self, start: int, stop: int) -> Batch[ScoredRegion]:
        """The regions from `start` up to `stop`."""
        # the images of the first and the last region
        first, last = (np.searchsorted(self._starts, [start, stop - 1], side="right") - 1).tolist()
        scores = self._scores.made_of(first, last + 1)
        return partial(_scored_regions, self._regions.rows(start, stop), scores)


def _scored_regions(regions: Rows[Region], scores: Rows[ScoredCandidate]) -> list[ScoredRegion]:
    scored = _by_region(scores.read())
    return [(r, scored.get(r.region_id, [])) for r in regions.read()]


def image_starts(regions: Table[Region]) -> np.ndarray[Any, np.dtype[np.int64]]:
    """The row at which each image begins, and at the end the count of rows: (images + 1,)."""
    starts: list[np.ndarray[Any, Any]] = []
    begin, last = 0, None
    for part in regions.columns("image_id"):
        ids = pa.chunked_array([pa.array([last], part.type), *part.chunks]).combine_chunks()
        new = pc.fill_null(pc.not_equal(ids[1:], ids[:-1]), True).to_numpy(zero_copy_only=False)
        starts.append(begin + np.flatnonzero(new))
        begin, last = begin + len(part), ids[-1].as_py()
    return np.concatenate([*starts, [begin]]).astype(np.int64)


def _by_region(rows: Iterable[Any]) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for row in rows:
        found.setdefault(row.region_id, []).append(row)
    return found
