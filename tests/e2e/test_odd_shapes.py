"""Pictures that a model cannot be shown, in front of the whole command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from spr.store.run import Run
from spr.types import Dropped
from tests.contract.checkpoints import build
from tests.e2e.tools import line_of
from tests.unit.data.worlds import box, coco, image, picture

SIZES = {"good.png": (112, 84), "thin.png": (900, 4), "tall.png": (3, 700)}


def test_a_picture_that_the_model_cannot_be_shown_is_dropped_with_its_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """900x4 beside a good one, with Qwen2.5-VL: a traceback, again at each resume. (Random weights never end
    their answers, so that nothing is left here in the end; which is one line, too.)
    """
    images, boxes = [], []
    for n, (name, (w, h)) in enumerate(SIZES.items()):
        picture(tmp_path / "images" / name, w, h)
        images.append(image(n, w, h, name))
        boxes += [box(10 * n + k, n, [k, 0, w - 2, h - 1]) for k in range(2)]
    data = coco(tmp_path, images, boxes)
    config = {
        "run": "run",
        "data": {"format": "coco", "annotations": data.annotations, "images": data.images},
        "model": {"folder": str(build("qwen2_5_vl", tmp_path))},
        "regions": {"regions_per_image": 1, "min_objects": 2},
        "describe": {"templates": ["plain", "crop"], "samples": 1, "max_new_tokens": 4},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    line = line_of(capsys, 2, "run", str(tmp_path / "config.yaml"), "--until", "describe")
    assert "no description is left (answer_cut: 2, question: 2)" in line
    dropped = Run(str(tmp_path / "run")).dropped("candidates")
    assert {d.item_id: d.reason for d in dropped if isinstance(d, Dropped)} == {
        "good.png#0/0": "answer_cut",
        "good.png#0/1": "answer_cut",
        "thin.png#0": "question",
        "tall.png#0": "question",
    }
    stage = json.loads((tmp_path / "run" / "candidates" / "_stage.json").read_text())
    assert stage["dropped"] == {"answer_cut": 2, "question": 2}
