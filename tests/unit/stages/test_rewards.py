"""The reward of an answer is the score of stage `score`, to the last digit, however answers are batched."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest

from spr.dialects import get_dialect
from spr.models.scripted import ScriptedDetector, ScriptedScorer
from spr.stages.rewards import SpatialReward, region_of, text_of
from spr.stages.scoring import ScoreConfig, score
from spr.types import Description, Region, RegionObject

FERRET = get_dialect("ferret")
# A 1000 x 1000 image, so that Ferret's numbers are pixels. Two annotated objects; the detector finds a third
# one, a tree.
REGION = Region(
    "a#0",
    "a",
    "a.png",
    1000,
    1000,
    0,
    (0, 0, 500, 500),
    "0",
    (RegionObject("0", "cat", (0, 0, 100, 100)), RegionObject("1", "dog", (200, 0, 300, 100))),
)
SCORER = ScriptedScorer(lambda image, box, text: (0.3, 0.1) if "cat" in text else (0.1, 0.1))
DETECTOR = ScriptedDetector({"a.png": {"a tree": [((400, 400, 450, 450), 0.9)]}})
TEXTS = (
    "a cat [0, 0, 100, 100].",
    "a dog [200, 0, 300, 50].",
    "a tree [400, 400, 450, 450] and a cat [0, 0, 100, 100].",
    "nothing here",
    "a cat [1, 2, 3",
)
REWARD = SpatialReward(SCORER, DETECTOR, FERRET)


def offline(texts: tuple[str, ...]) -> list[float | None]:
    candidates = [Description(f"a#0/{i}", "a#0", i, "plain", "?", t) for i, t in enumerate(texts)]
    rows, _ = score([(REGION, candidates)], FERRET, SCORER, DETECTOR, ScoreConfig())
    return [row.score.total for row in rows]


def test_one_answer_by_hand() -> None:
    """S_sem = (0.3 + 0.1) / 2; of two reference boxes one is met exactly: S_loc = 1/2; S = 0.8 * 0.2 + 0.2 *
    0.5.
    """
    found = REWARD("a.png", REGION, TEXTS[0])
    assert found.semantic == pytest.approx(0.2)
    assert found.localization == pytest.approx(0.5)
    assert found.total == pytest.approx(0.26)


def test_equal_to_the_offline_score() -> None:
    assert [s.total for s in REWARD.scores("a.png", REGION, TEXTS)] == offline(TEXTS)


def test_trl_gets_the_same_numbers_and_none_for_the_unscored() -> None:
    """Answers of two regions come interleaved; each region's group is scored together."""
    other = replace(REGION, region_id="b#0", image="b.png")
    order = [(REGION, TEXTS[0]), (other, TEXTS[1]), (REGION, TEXTS[2]), (REGION, TEXTS[4])]
    rewards = REWARD.as_trl_reward()(
        prompts=["?"] * 4,
        completions=[[{"role": "assistant", "content": text}] for _, text in order],
        region=[json.dumps(asdict(r)) for r, _ in order],
        image=[object()] * 4,  # what a trainer of image models has in this column: pictures, not paths
        trainer_state=None,
    )
    expected = offline((TEXTS[0], TEXTS[2], TEXTS[4]))
    assert [rewards[0], rewards[2], rewards[3]] == expected
    assert rewards[3] is None  # its only box breaks off: left out, not zero
    assert rewards[1] == REWARD("b.png", other, TEXTS[1]).total


def test_image_paths_of_the_data_set_win() -> None:
    """The detector knows a.png only, so the tree counts there and nowhere else."""
    reward = REWARD.as_trl_reward()
    here, there = (
        reward(prompts=["?"], completions=[TEXTS[2]], region=[REGION], image=[path])[0]
        for path in ("a.png", "c.png")
    )
    assert here is not None
    assert there is not None
    assert here > there


def test_boxes_alone() -> None:
    """Without a dual encoder there is a total only when its part has no weight: S_loc itself."""
    assert (
        SpatialReward(None, None, FERRET).scores("a.png", REGION, TEXTS[:1])[0].unscored
        == "no_semantic_score"
    )
    found = SpatialReward(None, None, FERRET, lam=0.0)("a.png", REGION, TEXTS[0])
    assert found.total == pytest.approx(0.5)
    assert found.semantic is None


def test_lambda_is_that_of_stage_pair() -> None:
    found = SpatialReward(SCORER, DETECTOR, FERRET, lam=0.5)("a.png", REGION, TEXTS[0])
    assert found.total == pytest.approx(0.5 * 0.2 + 0.5 * 0.5)


def test_forms_of_regions_and_completions() -> None:
    assert region_of(REGION) == region_of(asdict(REGION)) == region_of(json.dumps(asdict(REGION))) == REGION
    parts = [{"type": "text", "text": "a "}, {"type": "text", "text": "cat"}]
    assert text_of("x") == "x"
    assert text_of([{"role": "assistant", "content": parts}]) == "a cat"
