"""The embedded world: deterministic, varied, and what is said about it means one thing."""

from __future__ import annotations

import random

import numpy as np
import pytest

from spr.boxes import area, intersection_matrix
from spr.scenes.language import SELECTORS, description, expression, expressions, names, plain
from spr.scenes.world import NOUNS, SIZES, SPLITS, Thing, draw_scene, scene_of


def test_64_nouns_each_with_its_own_art() -> None:
    assert len(NOUNS) == 64
    assert len(set(NOUNS.values())) == len(NOUNS)


def test_no_two_splits_share_a_seed() -> None:
    """What trained the checkpoints, what makes pairs and what measures must not meet."""
    assert len({s.seed for s in SPLITS.values()}) == len(SPLITS)


def test_a_scene_depends_on_its_arguments_alone() -> None:
    first = scene_of("test", 5)
    scene_of("test", 4)  # whatever was drawn in between
    again = scene_of("test", 5)
    assert first.things == again.things
    assert np.array_equal(np.asarray(first.image), np.asarray(again.image))
    assert scene_of("val", 5).things != first.things
    # the style matters, too
    assert draw_scene(SPLITS["test"].seed, 5, SPLITS["shifted"].style).things != first.things


@pytest.mark.parametrize("split", ["test", "shifted"])
def test_things_lie_in_the_image_and_hardly_overlap(split: str) -> None:
    for index in range(20):
        scene = scene_of(split, index)
        boxes = [t.box for t in scene.things]
        assert scene.image.size in SIZES
        assert 1 <= len(boxes) <= 12
        assert np.min(boxes) >= 0
        assert np.max(np.array(boxes)[:, 2]) <= scene.image.width
        assert np.max(np.array(boxes)[:, 3]) <= scene.image.height
        shared = intersection_matrix(boxes, boxes)
        smaller = np.minimum(area(boxes)[:, None], area(boxes)[None, :])
        np.fill_diagonal(shared, 0.0)
        assert (shared <= SPLITS[split].style.overlap * smaller + 1e-9).all()


def test_boxes_hold_all_that_was_drawn() -> None:
    """On a smooth background the picture changes abruptly at a thing: outside the boxes neighbouring pixels
    are nearly equal.
    """
    scene = scene_of("test", 0)
    pixels = np.asarray(scene.image).astype(int)
    outside = np.ones(pixels.shape[:2], dtype=bool)
    for t in scene.things:
        x1, y1, x2, y2 = (int(v) for v in t.box)
        outside[max(0, y1 - 2) : y2 + 2, max(0, x1 - 2) : x2 + 2] = False
    step = np.abs(np.diff(pixels, axis=1)).max(axis=2)
    assert step[outside[:, 1:] & outside[:, :-1]].max() <= 12


def test_shifted_scenes_are_denser() -> None:
    def mean(split: str) -> float:
        return float(np.mean([len(scene_of(split, i).things) for i in range(30)]))

    assert mean("shifted") > mean("test") + 1


def _at(noun: str, x: float, y: float, side: float) -> Thing:
    return Thing(noun, (x, y, x + side, y + side))


THINGS = (_at("cat", 10, 100, 30), _at("cat", 120, 90, 60), _at("owl", 200, 10, 20))


def test_the_only_one_of_its_kind_needs_no_more_words() -> None:
    assert expression(THINGS, 2, random.Random(0)) == ("the owl", 2)


def test_selectors_choose_among_one_kind() -> None:
    """Left and small is cat 0 (x 10, side 30); right, large is cat 1 (x 120, side 60); the centre of cat 0 (y
    115) is above that of cat 1 (y 120).
    """
    meant = {word: min((0, 1), key=lambda i, key=key: key(THINGS[i].box)) for word, key in SELECTORS.items()}
    assert meant == {"leftmost": 0, "rightmost": 1, "top": 0, "bottom": 1, "largest": 1, "smallest": 0}


def test_expressions_name_the_kind_of_the_thing_they_mean() -> None:
    for text, thing in expressions(THINGS, 20, random.Random(1)):
        assert text.endswith(thing.noun)
        assert text.split()[0] == "the"


def test_a_description_names_every_thing_from_left_to_right() -> None:
    parts = description([THINGS[2], THINGS[0], THINGS[1]])
    assert [p[1] for p in parts if not isinstance(p, str)] == [t.box for t in THINGS]
    assert plain(parts) == "a cat, a cat and an owl."
    assert names(THINGS) == "a cat, a cat and an owl"
