"""What a worker gets are names; the rows that it reads are those of its shard, however the stages before it
were cut.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spr.errors import DamagedRunError
from spr.run.reading import ImageItems, PairItems, RegionItems, ScoredImage
from spr.store.executor import Stage, run_stage
from spr.store.identity import Origin
from spr.store.items import Table
from spr.store.progress import Progress
from spr.store.run import Run, shard_name
from spr.store.runtime import RuntimeConfig
from spr.types import (
    Description,
    Dropped,
    Region,
    Score,
    ScoredCandidate,
    SeenImage,
    ShardResult,
)

NONE = Score(None, None, None, None, None, "none")


def region(image: int, index: int) -> Region:
    name = f"{image:03}.jpg"
    return Region(f"{name}#{index}", name, name, 10, 10, index, (0, 0, 1, 1), "0", ())


def described(regions: Sequence[tuple[Region, str]]) -> ShardResult[Description]:
    """Regions whose number can be divided by three have no description: their shard's files are shorter."""
    kept = [r for r, _ in regions if r.index % 3]
    rows = [Description(f"{r.region_id}/{k}", r.region_id, k, "t", "q", "a") for r in kept for k in range(2)]
    return ShardResult(rows, [Dropped(r.region_id, "no") for r, _ in regions if not r.index % 3])


def scored(images: Sequence[ScoredImage]) -> ShardResult[ScoredCandidate]:
    return ShardResult(
        [
            ScoredCandidate(c.candidate_id, c.region_id, c.index, "a", NONE, 0, "a", NONE, 0, (), 0)
            for _, regions in images
            for _, candidates in regions
            for c in candidates
        ]
    )


def drawn(images: Sequence[tuple[int, int]]) -> ShardResult[Region]:
    """An image and how many regions it has."""
    rows = [region(image, k) for image, count in images for k in range(count)]
    seen = [SeenImage(f"{image:03}.jpg", 1, f"digest {image}") for image, _ in images]
    return ShardResult(rows, images=seen)


def make(run: Run, counts: Sequence[int], sizes: Sequence[int]) -> None:
    """Regions, candidates and scores of images with so many regions each, in shards of three sizes."""

    def do(folder: str, row: type, work: Any, items: Any, size: int) -> None:
        stage = Stage(Origin(folder, {}, {}), (folder,), row, lambda: work)
        run_stage(run, stage, items, RuntimeConfig(shard_size=size), Progress())

    do("regions", Region, drawn, list(enumerate(counts)), sizes[0])
    do("candidates", Description, described, RegionItems(run), sizes[1])
    do("scores", ScoredCandidate, scored, ImageItems(run), sizes[2])


@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=6),
    st.tuples(*(st.integers(1, 7) for _ in range(3))),
    st.integers(1, 9),
)
def test_a_batch_has_what_belongs_to_its_regions(
    tmp_path_factory: pytest.TempPathFactory, counts: list[int], sizes: tuple[int, int, int], size: int
) -> None:
    """Compared with a join of the whole tables; what travels is small, and says no text of an answer."""
    run = Run(str(tmp_path_factory.mktemp("run")))
    make(run, counts, sizes)
    regions = run.read_stage(Region, "regions")
    candidates, scores = run.read_stage(Description, "candidates"), run.read_stage(ScoredCandidate, "scores")
    seen = {f"{image:03}.jpg": f"digest {image}" for image in range(len(counts))}

    def batches(items: RegionItems | ImageItems | PairItems) -> list[object]:
        tasks = [pickle.dumps(items.batch(a, min(a + size, len(items)))) for a in range(0, len(items), size)]
        return [item for task in tasks for item in pickle.loads(task)()]

    assert batches(RegionItems(run)) == [(r, seen[r.image]) for r in regions]
    by_image = {r.image: [q for q in regions if q.image == r.image] for r in regions}
    assert batches(ImageItems(run)) == [
        (seen[image], [(r, [c for c in candidates if c.region_id == r.region_id]) for r in found])
        for image, found in by_image.items()
    ]
    assert batches(PairItems(run)) == [
        (r, [c for c in scores if c.region_id == r.region_id]) for r in regions
    ]


def test_damage_is_known_before_anybody_works(tmp_path: Path) -> None:
    run = Run(str(tmp_path))
    make(run, [2, 2, 2], (1, 1, 1))
    path = Path(run.path("regions", shard_name(2)))
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(DamagedRunError, match=r"part-00002.* is not the file that the stage wrote"):
        Table(run, Region, "regions")
