"""The method's score of an answer (2.3-2.5) as a library call, and as a reward function of TRL's GRPOTrainer.

In: a region with its annotated objects, and answers about it. Out: the very numbers of stage `score`, because
it is the same code. An answer without a score (nothing readable, nothing to compare with) has no reward
either: None, which TRL leaves out; never 0.
Known gap: as in stage `score`, with `g_scope: region` the reference boxes depend on the phrases of *all*
answers of the region that are scored together. A reward function sees the group of answers that the trainer
drew, stage `score` the K candidates.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from spr.dialects import Dialect
from spr.ports import Detector, ImageTextScorer
from spr.stages.pairing import with_lambda
from spr.stages.scoring import PAPER_LAMBDA, ScoreConfig, score_region
from spr.types import Box, Description, Region, RegionObject, Score

Completion: TypeAlias = str | Sequence[Mapping[str, Any]]
TrlReward: TypeAlias = Callable[..., list[float | None]]


class _Silent:
    """Stands in for the dual encoder where its part has no weight."""

    def similarities(
        self, image: str, regions: Sequence[Box], texts: Sequence[str], pairs: Sequence[tuple[int, int]]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Zeros."""
        return np.zeros(len(pairs)), np.zeros(len(pairs))


@dataclass(frozen=True)
class SpatialReward:
    """Scores answers. `reward(image, region, text)` for one; `as_trl_reward()` for a trainer.

    Without `scorer` there is no semantic part, and therefore no total, unless `lam` is 0: then the boxes
    alone are rewarded.
    """

    scorer: ImageTextScorer | None
    detector: Detector | None
    dialect: Dialect
    lam: float = PAPER_LAMBDA
    config: ScoreConfig = field(default_factory=ScoreConfig)

    def __call__(self, image: str, region: Region, text: str) -> Score:
        """The score of one answer about a region of `image` (the path that scorer and detector load)."""
        return self.scores(image, region, [text])[0]

    def scores(self, image: str, region: Region, texts: Sequence[str]) -> list[Score]:
        """The scores of several answers about one region, computed together: crops, phrases and texts are
        encoded once.
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
        )
        scores = [with_lambda(row.score, self.lam) for row in rows]
        return (
            [replace(s, semantic=None, semantic_crop=None, semantic_local=None) for s in scores]
            if boxes_alone
            else scores
        )

    def as_trl_reward(self) -> TrlReward:
        """A function for `GRPOTrainer(reward_funcs=…)`. The data set needs a column `region`: a `Region`, its
        dict, or that dict as JSON.

        A column `image` with paths is used when there is one, else the region's own path. Completions may be
        texts or conversations.
        """

        def spatial_reward(
            prompts: Sequence[Any],
            completions: Sequence[Completion],
            region: Sequence[Any],
            image: Sequence[Any] | None = None,
            **columns: Any,
        ) -> list[float | None]:
            regions = [region_of(value) for value in region]
            paths = [
                p if isinstance(p, str) else r.image
                for p, r in zip(image or [None] * len(regions), regions, strict=True)
            ]
            groups: dict[tuple[str, str], list[int]] = {}
            for i, (path, r) in enumerate(zip(paths, regions, strict=True)):
                groups.setdefault((path, r.region_id), []).append(i)
            totals: list[float | None] = [None] * len(completions)
            for (path, _), members in groups.items():
                found = self.scores(path, regions[members[0]], [text_of(completions[i]) for i in members])
                for i, score in zip(members, found, strict=True):
                    totals[i] = score.total
            return totals

        return spatial_reward


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
