"""Detectors of every kind: one caption of one phrase through the official model and its own post-processing
is the reference.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch

from spr.models.detector import OpenVocabularyDetector
from spr.models.loading import load_processor
from spr.types import Checkpoint
from tests.contract import towers
from tests.contract.towers import DETECTORS
from tests.unit.models.conftest import load_noise

PHRASES = ["a dog", "The small cat", "owl", "a tree"]
SIZES = pytest.mark.parametrize("size", [(90, 60), (50, 80)], ids=["wide", "tall"])
detectors = pytest.mark.parametrize("name", DETECTORS)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    root = tmp_path_factory.mktemp("detectors")
    return lambda name: str(towers.build(name, root))


@pytest.fixture(scope="module")
def load(checkpoint: Callable[[str], str]) -> Callable[[str], tuple[OpenVocabularyDetector, Any, Any]]:
    """Our detector, and the official model and processor loaded a second time."""
    import transformers

    def pair(name: str) -> tuple[OpenVocabularyDetector, Any, Any]:
        folder = checkpoint(name)
        model = transformers.AutoModelForZeroShotObjectDetection.from_pretrained(
            folder, dtype=torch.float32
        ).eval()
        return (
            OpenVocabularyDetector(folder, load_image=load_noise, threshold=0.0),
            model,
            load_processor(folder),
        )

    return functools.cache(pair)


@torch.inference_mode()
def official(
    name: str, model: Any, processor: Any, path: str, phrase: str
) -> tuple[list[float], list[list[float]]]:
    """Scores and boxes, best first, of one phrase."""
    image = load_noise(path)
    target = [(image.height, image.width)]
    if "dino" in name:
        inputs = processor(text=f"{phrase.lower()}.", images=image, return_tensors="pt")
        out = model(**inputs)
        # post_process takes the largest probability over all tokens; ours over the phrase's own, so the
        # others are silenced
        out.logits[..., 0] = out.logits[..., inputs["input_ids"].shape[1] - 2 :] = -torch.inf
        found = processor.post_process_grounded_object_detection(
            out, threshold=0.0, text_threshold=0.0, target_sizes=target
        )[0]
    else:
        inputs = processor(
            text=[[phrase]], images=[image], return_tensors="pt", padding="max_length", max_length=16
        )
        found = processor.post_process_grounded_object_detection(
            model(**inputs), threshold=0.0, target_sizes=target
        )[0]
    order = found["scores"].argsort(descending=True, stable=True)
    return found["scores"][order].tolist(), found["boxes"][order].tolist()


@detectors
@SIZES
def test_boxes_and_scores_are_the_official_ones(
    load: Callable[[str], tuple[OpenVocabularyDetector, Any, Any]], name: str, size: tuple[int, int]
) -> None:
    detector, model, processor = load(name)
    path = f"1@{size[0]}x{size[1]}"
    for phrase, mine in zip(PHRASES, detector.detect(path, PHRASES), strict=True):
        scores, boxes = official(name, model, processor, path, phrase)
        assert [d.score for d in mine] == pytest.approx(scores, abs=1e-5)
        assert {d.phrase for d in mine} == {phrase}
        by_score = {
            round(s, 4): b
            for s, b in zip(scores, boxes, strict=True)
            if [round(x, 4) for x in scores].count(round(s, 4)) == 1
        }
        compared = [(d.box, by_score[round(d.score, 4)]) for d in mine if round(d.score, 4) in by_score]
        assert compared
        for found, expected in compared:
            assert found == pytest.approx(expected, abs=2e-3)


@detectors
def test_the_backbone_runs_once_per_image(
    load: Callable[[str], tuple[OpenVocabularyDetector, Any, Any]], name: str
) -> None:
    detector, *_ = load(name)
    engine: Any = detector.engine
    module = engine.backbone.inner if "dino" in name else engine.inner.vision_model
    passes: list[int] = []
    hook = module.register_forward_hook(lambda *_: passes.append(1))
    for phrases in (PHRASES[:2], PHRASES, ["a pig"]):
        detector.detect("7@90x60", phrases)
    hook.remove()
    assert len(passes) == 1


def test_a_phrase_beyond_the_text_limit_is_asked_in_pieces(
    load: Callable[[str], tuple[OpenVocabularyDetector, Any, Any]],
) -> None:
    """max_text_len is 12 here: [CLS] + 9 words + full stop + [SEP]. 11 words become pieces of 9 and 2; their
    boxes are joined, best first.
    """
    detector, *_ = load("grounding_dino")
    long = "a dog and a cat and a tree next to a"
    first, second = detector.detect("1@90x60", ["a dog and a cat and a tree next", "to a"])
    joined = detector.detect("1@90x60", [long])[0]
    assert sorted(d.score for d in joined) == pytest.approx(
        sorted(d.score for d in [*first, *second]), abs=1e-5
    )
    assert [d.score for d in joined] == sorted((d.score for d in joined), reverse=True)


def test_a_full_stop_inside_a_phrase_does_not_split_it(
    load: Callable[[str], tuple[OpenVocabularyDetector, Any, Any]],
) -> None:
    """To the model a full stop ends a phrase. Two rows of a batch may round differently, so equal means to
    1e-5.
    """
    detector, *_ = load("grounding_dino")
    dotted, plain = detector.detect("1@90x60", ["a. dog", "a dog"])
    assert [d.score for d in dotted] == pytest.approx([d.score for d in plain], abs=1e-5)


def test_a_phrase_of_signs_alone_finds_nothing(
    load: Callable[[str], tuple[OpenVocabularyDetector, Any, Any]],
) -> None:
    detector, *_ = load("grounding_dino")
    assert detector.detect("1@90x60", ["..."]) == [[]]


@detectors
def test_images_that_run_together_are_what_they_are_alone(
    load: Callable[[str], tuple[OpenVocabularyDetector, Any, Any]],
    checkpoint: Callable[[str], str],
    name: str,
) -> None:
    """`throughput`, and what was expected in `per_item`: images of two shapes, phrases of several lengths, a
    file that is missing.
    """
    alone = load(name)[0]
    asked = {
        "1@90x60": PHRASES,
        "2@50x80": [*PHRASES[:2], "a pig in front of a small house"],
        "missing": PHRASES[:1],
        "3@90x60": PHRASES[1:],
        "4@90x60": ["a dog", "..."],
    }
    for batching, batch in (("throughput", None), ("throughput", 3), ("per_item", None)):
        detector = OpenVocabularyDetector(
            checkpoint(name), load_noise, threshold=0.0, batch=batch, batching=batching
        )
        detector.expect(asked)
        for image, phrases in asked.items():
            if image == "missing":
                with pytest.raises(FileNotFoundError):
                    detector.detect(image, phrases)
                continue
            for found, expected in zip(
                detector.detect(image, phrases), alone.detect(image, phrases), strict=True
            ):
                assert [d.score for d in found] == pytest.approx([d.score for d in expected], abs=1e-5)
                assert {d.phrase for d in found} == {d.phrase for d in expected}


@detectors
def test_the_type_of_the_weights_is_a_setting(
    load: Callable[[str], tuple[OpenVocabularyDetector, Any, Any]],
    checkpoint: Callable[[str], str],
    name: str,
) -> None:
    coarse = OpenVocabularyDetector(
        Checkpoint(checkpoint(name), dtype="bfloat16"), load_image=load_noise, threshold=0.0
    )
    assert next(coarse.engine.model.parameters()).dtype == torch.bfloat16  # type: ignore[attr-defined]
    for found, expected in zip(
        coarse.detect("1@90x60", PHRASES), load(name)[0].detect("1@90x60", PHRASES), strict=True
    ):
        assert found[0].score == pytest.approx(expected[0].score, abs=0.05)
