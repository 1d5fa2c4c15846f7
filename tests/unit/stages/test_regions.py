"""Region queries on hand-drawn scenes: what is nearest, when growth stops, what is dropped."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spr.stages.regions import RegionsConfig, choose_images, draw_regions, grow
from spr.types import Annotation, Box, ImageRecord

IMAGE = ImageRecord("a.jpg", "a.jpg", 100, 100)
# Five boxes of 10 x 10 in a row, gaps 5, 10, 15, 20.
ROW: list[Box] = [(0, 0, 10, 10), (15, 0, 25, 10), (35, 0, 45, 10), (60, 0, 70, 10), (90, 0, 100, 10)]


def annotations(boxes: list[Box], **flags: bool) -> list[Annotation]:
    return [Annotation(str(n), "a.jpg", f"thing{n}", box, **flags) for n, box in enumerate(boxes)]


@pytest.mark.parametrize(
    ("boxes", "seed", "least", "merged", "why"),
    [
        (ROW, 0, 3, [0, 1, 2], "along the row by gap"),
        (ROW, 4, 3, [4, 3, 2], "from the other end"),
        (ROW, 2, 3, [2, 1, 0], "gap 10 to the left, then 5 (15 to the right)"),
        (ROW, 2, 5, [2, 1, 0, 3, 4],
            "the gap is measured from the region, not from the seed: 15 to box 3 after 0 and 1"),
        ([(40, 40, 50, 50), (55, 40, 65, 50), (30, 40, 35, 50)], 0, 2, [0, 2],
            "equal gaps: the nearer centre (12.5 against 15)"),
        ([(40, 40, 50, 50), (55, 40, 65, 50), (25, 40, 35, 50)], 0, 2, [0, 1],
            "equal gap and distance: the smaller id"),
        ([(0, 0, 50, 50), (10, 10, 20, 20), (30, 30, 40, 40)], 0, 3, [0],
            "objects inside count without being merged"),
        ([(0, 0, 50, 50), (40, 40, 60, 60), (90, 0, 99, 9)], 0, 2, [0], "a centre on the border is inside"),
        ([(0, 0, 50, 50), (45, 0, 70, 10), (90, 0, 99, 9)], 0, 2, [0, 1],
            "centre and more than half outside: merged"),
    ],
)  # fmt: skip
def test_growth(boxes: list[Box], seed: int, least: int, merged: list[int], why: str) -> None:
    assert grow(boxes, seed, least).merged == tuple(merged), why


def test_a_region_is_the_enclosing_box_with_its_objects() -> None:
    (region,), dropped = draw_regions(IMAGE, annotations(ROW), RegionsConfig(min_objects=5), seed=0)
    assert dropped == []
    assert (region.region_id, region.image_id, region.image, region.width, region.height, region.index) == (
        "a.jpg#0",
        "a.jpg",
        "a.jpg",
        100,
        100,
        0,
    )
    assert region.box == (0.0, 0.0, 100.0, 10.0)
    assert [(o.annotation_id, o.category, o.box) for o in region.objects] == [
        (str(n), f"thing{n}", b) for n, b in enumerate(ROW)
    ]


def test_too_few_objects_is_a_reason() -> None:
    """Crowd and ignored boxes do not count, difficult ones do."""
    config = RegionsConfig(min_objects=5)
    for flags, good in [({"crowd": True}, False), ({"ignore": True}, False), ({"difficult": True}, True)]:
        regions, dropped = draw_regions(
            IMAGE, [*annotations(ROW[:4]), Annotation("4", "a.jpg", "x", ROW[4], **flags)], config, 0
        )
        assert bool(regions) is good
        assert [(d.item_id, d.reason) for d in dropped] == ([] if good else [("a.jpg", "too_few_objects")])
    assert draw_regions(IMAGE, [], config, 0)[1][0].detail == "0 objects, expected at least 5"


def test_a_crowd_box_is_never_part_of_a_region() -> None:
    """A crowd box lies between the objects; it is neither seed nor merged nor listed."""
    crowd = Annotation("9", "a.jpg", "people", (26, 0, 34, 10), crowd=True)
    for seed in range(20):
        (region,), _ = draw_regions(IMAGE, [*annotations(ROW), crowd], RegionsConfig(min_objects=2), seed)
        assert "9" not in {region.seed_annotation_id, *(o.annotation_id for o in region.objects)}


def test_a_region_too_like_an_earlier_one_is_redrawn() -> None:
    """With all five objects needed, every seed gives the same region: one region, and a reason for each of
    the others.
    """
    regions, dropped = draw_regions(
        IMAGE, annotations(ROW), RegionsConfig(min_objects=5, regions_per_image=3), 0
    )
    assert len(regions) == 1
    assert [(d.item_id, d.reason) for d in dropped] == [
        ("a.jpg#1", "no_new_region"),
        ("a.jpg#2", "no_new_region"),
    ]
    # Two clusters far apart and two objects per region: two different regions exist, and are found whatever
    # the seed.
    pairs: list[Box] = [(0, 0, 10, 10), (12, 0, 22, 10), (70, 70, 80, 80), (82, 70, 92, 80)]
    for seed in range(10):
        regions, _ = draw_regions(
            IMAGE, annotations(pairs), RegionsConfig(min_objects=2, regions_per_image=2), seed
        )
        assert {r.box for r in regions} == {(0.0, 0.0, 22.0, 10.0), (70.0, 70.0, 92.0, 80.0)}
        assert [r.index for r in regions] == [0, 1]


def test_the_region_stays_in_the_image() -> None:
    """An annotation that sticks out by a pixel is used by its visible part; its own box is kept as
    annotated.
    """
    boxes = [(-1.0, -1.0, 10.0, 10.0), (90.0, 90.0, 101.0, 101.0)]
    (region,), _ = draw_regions(IMAGE, annotations(boxes), RegionsConfig(min_objects=2), 0)
    assert region.box == (0.0, 0.0, 100.0, 100.0)
    assert [o.box for o in region.objects] == boxes


def chosen(ids: list[str], objects: list[int], config: RegionsConfig, seed: int = 1) -> list[str]:
    found = [ids[n] for n in choose_images(ids, np.array(objects), config, seed)]
    assert found == [name for name in ids if name in found]  # in their order
    return found


def test_choice_of_images_is_a_hash() -> None:
    """The same images whatever the order of the list; adding images only displaces some; the seed matters."""
    ids, config = [f"{n}.jpg" for n in range(200)], RegionsConfig(max_images=50)
    enough = [5] * 200
    first = chosen(ids, enough, config)
    assert len(first) == 50
    assert set(first) == set(chosen(ids[::-1], enough, config))
    assert set(first) & set(ids[:100]) <= set(chosen(ids[:100], enough[:100], config))
    assert set(first) != set(chosen(ids, enough, config, seed=2))
    assert chosen(ids, enough, RegionsConfig(max_images=None)) == ids


@settings(deadline=None, derandomize=True)
@given(st.lists(st.integers(0, 9), max_size=40), st.integers(1, 45), st.integers(0, 9))
def test_images_that_can_give_a_region_come_first(objects: list[int], most: int, least: int) -> None:
    """Of 1,000 images with enough objects and 1,000 without, 1,000 drawn images gave 506 regions."""
    ids = [f"{n:02}" for n in range(len(objects))]
    found = chosen(ids, objects, RegionsConfig(min_objects=least, max_images=most))
    able = [name for name, count in zip(ids, objects, strict=True) if count >= max(1, least)]
    assert len(found) == min(most, len(ids))
    assert len(set(found) & set(able)) == min(most, len(able))


def test_pinned_regions() -> None:
    """The hash is part of the result: these seeds were drawn when the function was written, and must never
    change between versions.
    """
    config = RegionsConfig(min_objects=1)
    drawn = [
        draw_regions(IMAGE, annotations(ROW), config, seed)[0][0].seed_annotation_id for seed in range(8)
    ]
    assert drawn == ["3", "2", "0", "4", "2", "3", "3", "3"]
