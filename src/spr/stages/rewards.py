"""The method's score of an answer (2.3-2.5) as a library call, and as a reward function of trainers: TRL's
GRPOTrainer and ms-swift (`as_trl_reward`), EasyR1 (`as_compute_score`).

In: a region with its annotated objects, and answers about it. Out: the very numbers of stage `score`, because
it is the same code. An answer without a score (nothing readable, nothing to compare with) has no reward
either: None, which TRL leaves out; never 0.
As in stage `score`, with `g_scope: region` the reference boxes depend on the phrases of *all* answers to the
region: stage `score` sees the K candidates, a reward function the group that the trainer drew. Where the
trainer splits a group over its processes, they tell each other what was answered.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from spr.dialects import Dialect
from spr.models.processes import gathered
from spr.ports import Detector, ImageTextScorer
from spr.stages.pairing import with_lambda
from spr.stages.scoring import PAPER_LAMBDA, ScoreConfig, score_region
from spr.types import Box, Description, Region, RegionObject, Score

Completion: TypeAlias = str | Sequence[Mapping[str, Any]]
TrlReward: TypeAlias = Callable[..., list[float | None]]
ComputeScore: TypeAlias = Callable[[Sequence[Mapping[str, Any]]], list[dict[str, float]]]
Part: TypeAlias = Literal["total", "semantic", "localization"]


class _Silent:
    """Stands in for the dual encoder where its part has no weight."""

    def similarities(
        self, image: str, regions: Sequence[Box], texts: Sequence[str], pairs: Sequence[tuple[int, int]]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Zeros."""
        return np.zeros(len(pairs)), np.zeros(len(pairs))


@dataclass(frozen=True, slots=True)
class _Answer:
    """An answer about a region, whose `image` is the path that scorer and detector load."""

    region: Region
    text: str


@dataclass(frozen=True)
class SpatialReward:
    """Scores answers. `reward(image, region, text)` for one; `as_trl_reward()` and `as_compute_score()` for
    a trainer.

    Without `scorer` there is no semantic part, and therefore no total, unless `lam` is 0: then the boxes
    alone are rewarded.
    """

    scorer: ImageTextScorer | None
    detector: Detector | None
    dialect: Dialect
    lam: float = PAPER_LAMBDA
    config: ScoreConfig = field(default_factory=ScoreConfig)
    # what was asked last, with its scores: a trainer that logs the parts asks for each part in turn
    _last: list[tuple[object, list[Score]]] = field(
        default_factory=list, init=False, repr=False, compare=False
    )

    def __call__(self, image: str, region: Region, text: str) -> Score:
        """The score of one answer about a region of `image` (the path that scorer and detector load)."""
        return self.scores(image, region, [text])[0]

    def scores(
        self, image: str, region: Region, texts: Sequence[str], group: Sequence[str] | None = None
    ) -> list[Score]:
        """The scores of several answers about one region, computed together: crops, phrases and texts are
        encoded once.

        `group`: all answers to the region, where `texts` is a part of them.
        """
        region = replace(region, image=image)
        candidates = [
            Description(f"{region.region_id}/{i}", region.region_id, i, "", "", text)
            for i, text in enumerate(texts)
        ]
        boxes_alone = self.scorer is None and self.lam == 0.0
        rows = score_region(
            region,
            candidates,
            self.dialect,
            _Silent() if boxes_alone else self.scorer,
            self.detector,
            self.config,
            group,
        )
        scores = [with_lambda(row.score, self.lam) for row in rows]
        return (
            [replace(s, semantic=None, semantic_crop=None, semantic_local=None) for s in scores]
            if boxes_alone
            else scores
        )

    def as_trl_reward(self, part: Part = "total") -> TrlReward:
        """A function `f(completions, *, prompts, image, region, **columns)`, as TRL's
        `GRPOTrainer(reward_funcs=…)` and ms-swift call it. Rewards are `part` of the score: the total, or one
        of its two parts, to be weighed or logged apart. Raises ValueError for another part.

        The data set needs a column `region`: a `Region`, its dict, or that dict as JSON. A column `image`
        with paths is used when there is one, else the region's own path. Completions may be texts or
        conversations. Every process of the trainer has to call the function, as these trainers do: with
        `g_scope: region` it is collective.
        """
        if part not in get_args(Part):
            raise ValueError(f"part: found {part!r}, expected one of {', '.join(get_args(Part))}")

        def spatial_reward(
            completions: Sequence[Completion],
            *,
            region: Sequence[Any],
            prompts: Sequence[Any] | None = None,
            image: Sequence[Any] | None = None,
            **columns: Any,
        ) -> list[float | None]:
            regions = [region_of(value) for value in region]
            paths = image if image is not None else [None] * len(regions)
            answers = [
                _Answer(replace(r, image=path) if isinstance(path, str) else r, text_of(completion))
                for r, path, completion in zip(regions, paths, completions, strict=True)
            ]
            group = answers if self.config.g_scope == "candidate" else gathered(answers)
            return [getattr(score, part) for score in self._scores_of(answers, group)]

        spatial_reward.__name__ = "spatial_reward" if part == "total" else f"spatial_reward_{part}"
        return spatial_reward

    def as_compute_score(self, *, unscored: float) -> ComputeScore:
        """EasyR1's `compute_score` (`reward_type: batch`): from dicts with `response` and `ground_truth` to
        dicts with `overall`, `semantic` and `localization`.

        `ground_truth` is the region, as for `as_trl_reward`; its `image` is the path. EasyR1 needs a number
        for every answer: `unscored` stands where there is none.
        """

        def compute_score(reward_inputs: Sequence[Mapping[str, Any]]) -> list[dict[str, float]]:
            answers = [_Answer(region_of(row["ground_truth"]), row["response"]) for row in reward_inputs]
            found = [(s.total, s.semantic, s.localization) for s in self._scores_of(answers, answers)]
            names = ("overall", "semantic", "localization")
            return [
                {name: unscored if x is None else x for name, x in zip(names, parts, strict=True)}
                for parts in found
            ]

        return compute_score

    def _scores_of(self, answers: Sequence[_Answer], group: Sequence[_Answer]) -> list[Score]:
        """The scores of some answers, each region's among its answers in `group`."""
        asked = (list(answers), list(group))
        if self._last and self._last[0][0] == asked:
            return self._last[0][1]
        regions: dict[tuple[str, str], list[int]] = {}
        for i, answer in enumerate(answers):
            regions.setdefault((answer.region.image, answer.region.region_id), []).append(i)
        said: dict[tuple[str, str], list[str]] = {}
        for answer in group:
            said.setdefault((answer.region.image, answer.region.region_id), []).append(answer.text)
        scores: dict[int, Score] = {}
        for key, members in regions.items():
            texts = [answers[i].text for i in members]
            found = self.scores(key[0], answers[members[0]].region, texts, said[key])
            scores |= zip(members, found, strict=True)
        found = [scores[i] for i in range(len(answers))]
        self._last[:] = [(asked, found)]
        return found


def region_of(value: Any) -> Region:
    """A region from a data set's column: a `Region`, its dict (`dataclasses.asdict`), or that dict as
    JSON.
    """
    if isinstance(value, Region):
        return value
    fields: dict[str, Any] = dict(json.loads(value) if isinstance(value, str) else value)
    objects = tuple(
        RegionObject(o["annotation_id"], o["category"], _box(o["box"])) for o in fields.pop("objects")
    )
    return Region(**{**fields, "box": _box(fields["box"])}, objects=objects)


def _box(values: Sequence[float]) -> Box:
    x1, y1, x2, y2 = map(float, values)
    return (x1, y1, x2, y2)


def text_of(completion: Completion) -> str:
    """The text of a completion: itself, or what the last turn of a conversation says."""
    if isinstance(completion, str):
        return completion
    content = completion[-1]["content"]
    if isinstance(content, str):
        return content
    return "".join(part["text"] for part in content if part.get("type") == "text")
