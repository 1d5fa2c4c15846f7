"""The formulas, with numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from spr.evaluation.metrics import accuracy_at_iou, mean_iou, names, names_any, paired_ious, words

NAN = float("nan")


@pytest.mark.parametrize(
    ("ious", "expected"),
    [
        ([0.5], 1.0),  # exactly at the threshold counts
        ([math.nextafter(0.5, 0)], 0.0),  # the largest number below it does not: no epsilon
        ([None, 0.9], 0.5),  # unread is wrong and counted
        ([NAN, 0.9], 0.5),  # so is NaN
        ([None, None], 0.0),  # all unread: a real zero
        ([], None),  # nothing asked: undefined
    ],
)
def test_accuracy_at_the_boundary(ious: list[float | None], expected: float | None) -> None:
    assert accuracy_at_iou(ious, [0.5]) == {0.5: expected}


def test_keys_are_the_given_numbers() -> None:
    """np.arange(.5, 1, .05)[2] is 0.6000000000000001, at which an IoU of 0.6 fails: such a key must stay
    visible.
    """
    ragged = float(np.arange(0.5, 1, 0.05)[2])
    assert accuracy_at_iou([0.6], [0.6, ragged]) == {0.6: 1.0, ragged: 0.0}
    assert list(accuracy_at_iou([0.6])) == [0.5, 0.6, 0.7, 0.8, 0.9]


def test_strict_comparison() -> None:
    assert accuracy_at_iou([0.5, 0.51], [0.5], comparison=">") == {0.5: 0.5}


def test_mean_iou_counts_unread_answers_as_no_overlap() -> None:
    assert mean_iou([0.8, None, 0.4, NAN]) == pytest.approx(0.3)
    assert mean_iou([]) is None


@pytest.mark.parametrize(
    ("written", "expected", "why"),
    [
        ((0, 0, 10, 5), 0.5, "half of it"),
        ((10, 10, 0, 0), 1.0, "reversed: sorted"),
        ((-5, -5, 10, 10), 1.0, "clipped to the image"),
        ((0, 0, 40, 10), 0.5, "clipped at its own image's width of 20"),
        ((0, 0, 0, 10), 0.0, "no area"),
        ((30, 30, 40, 40), 0.0, "outside the image: nothing is left of it"),
    ],
)
def test_paired_ious(written: tuple[float, ...], expected: float, why: str) -> None:
    assert paired_ious([(0, 0, 10, 10)], [written], [(20, 20)]) == pytest.approx([expected]), why


def test_an_empty_union_overlaps_by_zero() -> None:
    assert paired_ious([(5, 5, 5, 5)], [(5, 5, 5, 5)], [(20, 20)]).tolist() == [0.0]
    assert paired_ious([], [], []).shape == (0,)


@pytest.mark.parametrize(
    ("text", "name", "expected"),
    [
        ("A dog.", "dog", True),
        ("A Dog!", "dog", True),  # case
        ("hotdog", "dog", False),  # not a word
        ("a notebook", "no", False),  # Ferret's clean-up stumbles here
        ("two teddy bears", "teddy bear", False),  # another word
        ("a teddy  bear, brown", "teddy bear", True),
        ("bear teddy", "teddy bear", False),  # order
        ("dog's bowl", "dog", False),
        ("a t-shirt", "T-shirt", True),
        ("anything", "", False),
    ],
)
def test_names_stand_word_by_word(text: str, name: str, expected: bool) -> None:
    assert names(text, name) is expected
    assert names_any(text, [name, "zebra"]) is expected


def test_words() -> None:
    assert words("The dog's 'blue' T-shirt -- 2 of them.") == [
        "the",
        "dog's",
        "blue",
        "t-shirt",
        "2",
        "of",
        "them",
    ]
