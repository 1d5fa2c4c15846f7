"""Laws of region queries, and their independence of everything but (seed, image id, region index)."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spr.boxes import enclosing, gap, inside, iou
from spr.data.index import open_index
from spr.stages.regions import RegionsConfig, draw_regions, grow
from spr.store.executor import Stage, run_stage
from spr.store.identity import Origin
from spr.store.progress import Progress
from spr.store.run import Run
from spr.store.runtime import RuntimeConfig
from spr.types import Annotation, Box, ImageRecord, Region
from tests.unit.data.worlds import box as coco_box
from tests.unit.data.worlds import coco, image, index, regions_work

SIDE = 64
IMAGE = ImageRecord("dir/a.jpg", "dir/a.jpg", SIDE, SIDE)


@st.composite
def boxes(draw: st.DrawFn) -> Box:
    """Boxes on a coarse grid, so that ties, touching and nesting happen."""
    x, y = draw(st.integers(0, 15)), draw(st.integers(0, 15))
    w, h = draw(st.integers(1, 16 - x)), draw(st.integers(1, 16 - y))
    return (4.0 * x, 4.0 * y, 4.0 * (x + w), 4.0 * (y + h))


SCENES = st.lists(boxes(), min_size=0, max_size=12)
FLAGS = st.lists(st.sampled_from(["", "", "", "crowd", "ignore", "difficult"]), min_size=12, max_size=12)
CONFIGS = st.builds(
    RegionsConfig,
    min_objects=st.integers(1, 6),
    regions_per_image=st.integers(1, 3),
    redraw_iou=st.sampled_from([0.3, 0.7, 1.0]),
)


def annotate(scene: Sequence[Box], flags: Sequence[str]) -> list[Annotation]:
    made = [Annotation(str(n), IMAGE.image_id, f"c{n % 3}", b) for n, b in enumerate(scene)]
    return [replace(a, **{f: True}) if f else a for a, f in zip(made, flags, strict=False)]


@given(SCENES, FLAGS, CONFIGS, st.integers(0, 5))
def test_a_region_holds_its_seed_and_enough_objects_or_there_is_a_reason(
    scene: list[Box], flags: list[str], config: RegionsConfig, seed: int
) -> None:
    annotations = annotate(scene, flags)
    regions, dropped = draw_regions(IMAGE, annotations, config, seed)
    usable = {a.annotation_id: a for a in annotations if not (a.crowd or a.ignore)}
    if len(usable) < config.min_objects:
        assert (regions, [d.reason for d in dropped]) == ([], ["too_few_objects"])
        return
    assert len(regions) + len(dropped) == config.regions_per_image
    assert regions
    for region in regions:
        held = {o.annotation_id for o in region.objects}
        assert len(held) >= config.min_objects
        assert region.seed_annotation_id in held <= set(usable)
        assert enclosing([region.box, usable[region.seed_annotation_id].box]) == region.box
        assert held == {
            a.annotation_id
            for a, keep in zip(
                usable.values(), inside([a.box for a in usable.values()], region.box), strict=True
            )
            if keep
        }
    for n, region in enumerate(regions):
        assert all(iou(region.box, other.box) < config.redraw_iou for other in regions[:n])


@given(SCENES.filter(lambda s: len(s) > 1), st.integers(1, 6), st.data())
def test_growth_is_by_the_nearest_object_and_stops_at_once(
    scene: list[Box], least: int, data: st.DataObject
) -> None:
    """Each merged object is no farther than any that was left; before the last merge the region held too few.
    `boxes` is the oracle.
    """
    seed = data.draw(st.integers(0, len(scene) - 1))
    array = np.array(scene)
    found = grow(scene, seed, least)
    merged = list(found.merged)
    assert merged[0] == seed
    for step in range(1, len(merged)):
        region = enclosing(array[merged[:step]])
        rest = [i for i in range(len(scene)) if i not in merged[:step]]
        distance = gap(array[rest], [region])[:, 0]
        assert distance[rest.index(merged[step])] == pytest.approx(distance.min(), abs=1e-9)
        assert inside(array, region).sum() < least
    assert found.box == enclosing(array[merged])
    assert list(found.held) == np.flatnonzero(inside(array, found.box)).tolist()
    assert len(found.held) >= min(least, len(scene))


@given(SCENES, FLAGS, CONFIGS, st.randoms(use_true_random=False))
def test_the_order_of_annotations_does_not_matter(
    scene: list[Box], flags: list[str], config: RegionsConfig, rng: random.Random
) -> None:
    annotations = annotate(scene, flags)
    shuffled = list(annotations)
    rng.shuffle(shuffled)
    assert draw_regions(IMAGE, shuffled, config, 3) == draw_regions(IMAGE, annotations, config, 3)


def _rows(index_path: Path, out: Path, runtime: RuntimeConfig) -> Run:
    config = RegionsConfig(min_objects=3, regions_per_image=2)
    run = Run(str(out))
    work = partial(regions_work, str(index_path), config)
    stage = Stage(Origin("regions", {}, {}), ("regions",), Region, work)
    run_stage(run, stage, open_index(str(index_path)).images(), runtime, Progress())
    return run


@pytest.fixture(scope="module")
def indices(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """20 images; the same with images and annotations shuffled (each image's own order kept); and with 20
    more images.
    """
    rng = random.Random(5)
    images = [image(n, name=f"{n % 7}/{n}.png") for n in range(40)]
    annotations = [
        coco_box(
            0,
            rng.randrange(40),
            [rng.uniform(0, 40), rng.uniform(0, 30), rng.uniform(1, 20), rng.uniform(1, 15)],
        )
        for _ in range(240)
    ]
    base = tmp_path_factory.mktemp("indices")

    def build(name: str, some: list[dict[str, object]], boxes_: list[dict[str, object]]) -> Path:
        numbered = [{**b, "id": n} for n, b in enumerate(boxes_)]
        index(coco(base / name, some, numbered), base / name / "index")
        return base / name / "index"

    few = [b for b in annotations if b["image_id"] < 20]
    # stable: images interleave otherwise, each keeps its order
    other = sorted(few, key=lambda b: (int(b["image_id"]) * 7) % 20)
    return (
        build("plain", images[:20], few),
        build("shuffled", images[19::-1], other),
        build("more", images, annotations),
    )


def test_rows_are_byte_equal_for_row_order_shards_and_workers(
    tmp_path: Path, indices: tuple[Path, Path, Path]
) -> None:
    plain, shuffled, _ = indices
    reference = _rows(plain, tmp_path / "reference", RuntimeConfig(1, 1, 7))
    names = reference.shard_names("regions")
    assert len(names) == 3
    for name, source, workers in [("shuffled", shuffled, 1), ("workers", plain, 2)]:
        run = _rows(source, tmp_path / name, RuntimeConfig(workers, 1, 7))
        for folder in ((), ("dropped",)):
            got, expected = ([r.read_bytes("regions", *folder, n) for n in names] for r in (run, reference))
            assert got == expected, name
    rows = reference.read_stage(Region, "regions")
    assert len(rows) > 20
    whole = []
    for size in (1, 7, 256):  # joined into one file, every shard size gives the same bytes
        run = _rows(plain, tmp_path / f"size{size}", RuntimeConfig(1, 1, size))
        run.write_rows(run.read_stage(Region, "regions"), Region, "all.parquet")
        whole.append(run.read_bytes("all.parquet"))
    assert whole[0] == whole[1] == whole[2]


def test_other_images_do_not_matter(tmp_path: Path, indices: tuple[Path, Path, Path]) -> None:
    plain, _, more = indices
    few = _rows(plain, tmp_path / "few", RuntimeConfig()).read_stage(Region, "regions")
    many = _rows(more, tmp_path / "many", RuntimeConfig()).read_stage(Region, "regions")
    ids = {r.image_id for r in few}
    assert [r for r in many if r.image_id in ids] == few
    assert len(many) > len(few)
