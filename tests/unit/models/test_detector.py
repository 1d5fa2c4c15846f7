"""The detector's shortcuts (backbone once per image, phrases once) give what the official model and
post-processing give.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from spr.errors import ConfigError
from spr.models.detector import OpenVocabularyDetector
from spr.ports import Detector
from tests.unit.models.conftest import load_noise, noise

PHRASES = ["a cat", "the small owl", "dog"]


@pytest.fixture(scope="module")
def detector(checkpoints: Callable[[str], str]) -> OpenVocabularyDetector:
    return OpenVocabularyDetector(checkpoints("owl"), load_image=load_noise, threshold=0.0)


def test_it_is_a_detector(detector: OpenVocabularyDetector) -> None:
    assert isinstance(detector, Detector)


@pytest.mark.parametrize("size", [(224, 224), (300, 180), (120, 260)], ids=["square", "wide", "tall"])
def test_it_finds_what_the_official_way_finds(
    detector: OpenVocabularyDetector, size: tuple[int, int]
) -> None:
    """One phrase per call through forward and post_process; OWL-ViT squashes the picture, so each side scales
    its own axis (OWLv2: tests/contract).
    """
    image = noise(1, size)
    model, processor = detector.engine.model, detector.engine.processor  # type: ignore[attr-defined]
    found = detector.detect(f"1@{size[0]}x{size[1]}", PHRASES)
    for phrase, mine in zip(PHRASES, found, strict=True):
        inputs = processor(
            text=[[phrase]], images=[image], return_tensors="pt", padding="max_length", max_length=16
        )
        with torch.inference_mode():
            out = model(**inputs)
        official = processor.post_process_grounded_object_detection(
            out, threshold=0.0, target_sizes=[(size[1], size[0])]
        )[0]
        order = official["scores"].argsort(descending=True, stable=True)
        assert [d.score for d in mine] == pytest.approx(official["scores"][order].tolist(), abs=1e-5)
        best = official["boxes"][order][:5]
        assert torch.allclose(torch.tensor([d.box for d in mine[:5]]), best, atol=1e-3)
        assert all(d.phrase == phrase for d in mine)


def test_the_threshold_is_respected_and_best_comes_first(
    checkpoints: Callable[[str], str], detector: OpenVocabularyDetector
) -> None:
    scores = [d.score for d in detector.detect("1", ["a cat"])[0]]
    assert scores == sorted(scores, reverse=True)
    middle = scores[len(scores) // 2]
    strict = OpenVocabularyDetector(checkpoints("owl"), load_image=load_noise, threshold=middle)
    assert [d.score for d in strict.detect("1", ["a cat"])[0]] == [s for s in scores if s > middle]


def test_the_image_is_prepared_once_and_a_phrase_asked_once(checkpoints: Callable[[str], str]) -> None:
    loaded: list[str] = []

    def load(path: str):  # type: ignore[no-untyped-def]
        loaded.append(path)
        return load_noise(path)

    detector = OpenVocabularyDetector(checkpoints("owl"), load_image=load, threshold=0.0)
    first = detector.detect("1", ["a cat", "dog", "a cat"])
    assert first[0] is first[2]
    assert detector.detect("1", ["dog", "owl"])[0] is first[1]
    assert loaded == ["1"]
    detector.detect("2", [])
    assert loaded == ["1", "2"]


def test_a_phrase_that_is_too_long_is_asked_in_windows(detector: OpenVocabularyDetector) -> None:
    """16 tokens are 14 words and two ends. Every word counts, also the last one; what two windows say is
    averaged.
    """
    words = "a dog and " * 5
    long, longer, first = detector.detect("3", [f"{words}cat", f"{words}owl", " ".join(words.split()[:14])])
    assert [d.score for d in long] != [d.score for d in longer]
    assert [d.score for d in long] != [d.score for d in first]


def test_another_kind_of_model_is_refused(checkpoints: Callable[[str], str]) -> None:
    with pytest.raises(ConfigError, match="cannot load as a checkpoint"):
        OpenVocabularyDetector(checkpoints("clip"), load_image=load_noise)


def test_scores_that_are_no_numbers_are_seen(checkpoints: Callable[[str], str]) -> None:
    """NaN is not above a threshold: a broken model found nothing, and said nothing of it."""
    broken = OpenVocabularyDetector(checkpoints("owl"), load_image=load_noise, threshold=0.5)
    with torch.no_grad():
        next(broken.engine.model.class_head.parameters()).fill_(torch.nan)  # type: ignore[attr-defined]
    (found,) = broken.detect("1", ["a cat"])
    assert found
    assert all(math.isnan(d.score) for d in found)
