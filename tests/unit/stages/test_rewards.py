"""The reward of an answer is the score of stage `score`, to the last digit, however answers are batched."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from spr.dialects import get_dialect
from spr.models.scripted import ScriptedDetector, ScriptedScorer
from spr.stages.rewards import SpatialReward, region_of, text_of
from spr.stages.scoring import ScoreConfig, score
from spr.types import Description, Detection, Region, RegionObject

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


def test_ms_swift_calls_without_prompts() -> None:
    """Its reward functions are called as `f(completions, **columns)`."""
    assert REWARD.as_trl_reward()(list(TEXTS), region=[REGION] * len(TEXTS)) == offline(TEXTS)


class Counting:
    """The detector, counting."""

    asked = 0

    def detect(self, image: str, phrases: Sequence[str]) -> list[list[Detection]]:
        self.asked += 1
        return DETECTOR.detect(image, phrases)


def test_the_parts_can_be_weighed_apart_and_cost_nothing_more() -> None:
    """TRL calls each reward function in turn with the same answers: they are scored once."""
    detector = Counting()
    reward = SpatialReward(SCORER, detector, FERRET)
    functions = [reward.as_trl_reward(part) for part in ("total", "semantic", "localization")]
    found = [f(list(TEXTS), region=[REGION] * len(TEXTS)) for f in functions]
    scores = REWARD.scores("a.png", REGION, TEXTS)
    assert found == [
        [s.total for s in scores],
        [s.semantic for s in scores],
        [s.localization for s in scores],
    ]
    assert len({f.__name__ for f in functions}) == 3, "TRL logs a function under its name"
    assert detector.asked == 1
    assert functions[0]([TEXTS[0]], region=[REGION]) == offline(TEXTS[:1]), "other answers are scored anew"
    with pytest.raises(ValueError, match="expected one of total, semantic, localization"):
        reward.as_trl_reward("boxes")  # type: ignore[arg-type]


def test_easyr1_needs_a_number_for_every_answer() -> None:
    inputs = [
        {"response": text, "response_length": 9, "ground_truth": json.dumps(asdict(REGION))} for text in TEXTS
    ]
    found = REWARD.as_compute_score(unscored=-1.0)(inputs)
    scores = REWARD.scores("a.png", REGION, TEXTS)
    assert [row["overall"] for row in found] == [-1.0 if s.total is None else s.total for s in scores]
    assert found[0].keys() == {"overall", "semantic", "localization"}
    assert -1.0 in [row["overall"] for row in found]


def test_a_part_of_a_group_is_scored_among_the_whole_group() -> None:
    """The tree that one answer names is a reference for all of them; alone, the others do not know it."""
    whole = REWARD.scores("a.png", REGION, TEXTS)
    assert REWARD.scores("a.png", REGION, TEXTS[:2], TEXTS) == whole[:2]
    assert REWARD.scores("a.png", REGION, TEXTS[:2]) != whole[:2]


def _one_of_two(rank: int, folder: str) -> None:
    import torch.distributed as dist

    dist.init_process_group("gloo", f"file://{folder}/group", rank=rank, world_size=2)
    mine = TEXTS[:2] if rank == 0 else TEXTS[2:]
    found = REWARD.as_trl_reward()(mine, region=[REGION] * len(mine))
    Path(folder, str(rank)).write_text(json.dumps(found), encoding="utf-8")
    dist.destroy_process_group()


def test_processes_of_a_trainer_share_a_group(tmp_path: Path) -> None:
    """A group may be larger than what a process gets. Its rewards are those of one process."""
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_one_of_two, args=(rank, str(tmp_path))) for rank in (0, 1)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [p.exitcode for p in processes] == [0, 0]
    halves = [json.loads((tmp_path / str(rank)).read_text(encoding="utf-8")) for rank in (0, 1)]
    assert halves[0] + halves[1] == offline(TEXTS)


def test_forms_of_regions_and_completions() -> None:
    assert region_of(REGION) == region_of(asdict(REGION)) == region_of(json.dumps(asdict(REGION))) == REGION
    parts = [{"type": "text", "text": "a "}, {"type": "text", "text": "cat"}]
    assert text_of("x") == "x"
    assert text_of([{"role": "assistant", "content": parts}]) == "a cat"
