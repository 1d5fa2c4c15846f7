"""The embedded world: deterministic, varied, and described without ambiguity."""

from __future__ import annotations

import numpy as np
import pytest

from spr.boxes import area, intersection_matrix
from spr.scenes.language import description, expressions
from spr.scenes.world import MAX_OVERLAP, NOUNS, SIZE, SceneObject, draw_scene


def test_at_least_64_nouns_each_with_its_own_art() -> None:
    assert len(NOUNS) >= 64
    assert len(set(NOUNS.values())) == len(NOUNS)


def test_a_scene_depends_on_its_arguments_alone() -> None:
    first = draw_scene(3, "test", 5)
    draw_scene(3, "test", 4)  # whatever was drawn in between
    again = draw_scene(3, "test", 5)
    assert first.objects == again.objects
    assert np.array_equal(first.pixels, again.pixels)
    assert draw_scene(4, "test", 5).objects != first.objects  # the seed matters
    assert draw_scene(3, "val", 5).objects != first.objects  # and so does the split


@pytest.mark.parametrize("split", ["test", "shifted"])
def test_objects_lie_in_the_image_and_hardly_overlap(split: str) -> None:
    for index in range(20):
        boxes = [o.box for o in draw_scene(0, split, index).objects]
        assert 1 <= len(boxes) <= 12
        assert np.min(boxes) >= 0
        assert np.max(boxes) <= SIZE
        shared = intersection_matrix(boxes, boxes)
        smaller = np.minimum(area(boxes)[:, None], area(boxes)[None, :])
        np.fill_diagonal(shared, 0.0)
        assert (shared <= MAX_OVERLAP * smaller + 1e-9).all()


def test_boxes_are_tight_around_the_drawn_pixels() -> None:
    """On a smooth background the picture changes abruptly at the object: outside the boxes neighbouring pixels are nearly equal."""
    scene = draw_scene(1, "test", 0)
    outside = np.ones((SIZE, SIZE), dtype=bool)
    for o in scene.objects:
        x1, y1, x2, y2 = (int(v) for v in o.box)
        outside[max(0, y1 - 2) : y2 + 2, max(0, x1 - 2) : x2 + 2] = False
    step = np.abs(np.diff(scene.pixels.astype(int), axis=1)).max(axis=2)
    assert step[outside[:, 1:] & outside[:, :-1]].max() <= 12


def test_shifted_scenes_are_denser() -> None:
    def mean(split: str) -> float:
        return float(np.mean([len(draw_scene(0, split, i).objects) for i in range(30)]))

    assert mean("shifted") > mean("test") + 1


def _at(noun: str, x: float, y: float, side: float) -> SceneObject:
    return SceneObject(noun, (x, y, x + side, y + side))


def test_expressions_fit_exactly_one_object() -> None:
    objects = [_at("cat", 10, 100, 30), _at("cat", 120, 100, 60), _at("dog", 200, 10, 20)]
    cat_small, cat_large, dog = expressions(objects)
    assert dog == ["the dog"]  # the only one of its kind needs no more
    assert set(cat_small) == {"the leftmost cat", "the smallest cat"}  # tops are level with 15 px: under the margin for "top"
    assert "the rightmost cat" in cat_large
    assert "the largest cat" in cat_large
    assert "the cat next to the dog" in cat_large  # 43 px away against 161 px
    assert not any("next to the dog" in e for e in cat_small)


def test_equal_objects_side_by_side_in_height_get_no_vertical_expression() -> None:
    a, b = expressions([_at("cat", 10, 50, 40), _at("cat", 150, 52, 40)])
    assert not any(word in e for e in (*a, *b) for word in ("top", "bottom", "largest", "smallest"))


def test_a_description_names_every_object_of_the_region_and_no_other() -> None:
    objects = [_at("cat", 10, 10, 30), _at("dog", 60, 10, 30), _at("owl", 180, 180, 30)]
    parts = description(objects, (0.0, 0.0, 100.0, 60.0), np.random.default_rng(0))
    assert [p[1] for p in parts if not isinstance(p, str)] == [objects[0].box, objects[1].box]
    assert "owl" not in "".join(p if isinstance(p, str) else p[0] for p in parts)
