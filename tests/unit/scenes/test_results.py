"""The table of `make results`: means over seeds, with the interval of the mean."""

from __future__ import annotations

from pathlib import Path

import pytest

from spr.artifacts import Run
from spr.evaluation.rows import write_predictions
from spr.scenes.results import SEEDS, folder_of, rec_row, table
from spr.types import Prediction


def _predictions(run: Run, model: str, ious: list[float]) -> None:
    rows = [
        Prediction(
            item_id=str(i),
            protocol="rec",
            split="test",
            image=f"{i}.jpg",
            expression="a dog",
            gt=(0.0, 0.0, 1.0, 1.0),
            answer="",
            box=(0.0, 0.0, 1.0, value),
            boxes=((0.0, 0.0, 1.0, value),),
            iou=value,
            problems=(),
        )
        for i, value in enumerate(ious)
    ]
    write_predictions(run, rows, None, [False] * len(rows), "evaluation", "test", model)


def test_a_row_is_the_mean_over_seeds_against_the_base(tmp_path: Path) -> None:
    """At 0.9 two of three seeds get every item right and one gets none, the base none: 2/3, significantly; at 0.5 nothing moves."""
    run = Run(str(tmp_path))
    _predictions(run, "base", [0.6] * 20)
    for seed, value in zip(SEEDS, (0.95, 0.95, 0.6), strict=True):
        _predictions(run, folder_of("spr", seed), [value] * 20)
    row = rec_row(run, "test", "spr")
    assert row.accuracy[0.9] == pytest.approx(200 / 3)
    assert row.change[0.9] == pytest.approx((200 / 3,) * 3)
    assert row.change[0.5] == (0.0, 0.0, 0.0)
    assert "66.7 (+66.7*)" in table([rec_row(run, "test", "base"), row])
