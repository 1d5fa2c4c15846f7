"""A data set with one of every broken thing: the commands end with exit code 0 and the counts; with nothing
else in it, with one line and exit code 2.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from spr.store.run import Run
from spr.types import Dropped, Region
from tests.e2e.test_photographs import Page, spr
from tests.support.pages import refused
from tests.unit.data.test_images import BAD
from tests.unit.data.worlds import picture

CONFIG = """
run: run
data: {format: coco, annotations: boxes.json, images: images}
model: {folder: none}
regions: {min_objects: 2}
"""
WHOLE = [[1, 1, 9, 9], [11, 11, 9, 9]]
BAD_BOXES = {
    "box_not_finite": [float("nan"), 1, 2, 3],
    "box_negative": [5, 5, -1, 3],
    "box_empty": [5, 5, 0, 3],
    "box_outside": [100, 5, 3, 3],
}
NASTY = '<script>alert("&amp;")</script>'


def write(
    folder: Path,
    images: list[tuple[str, tuple[int, int]]],
    boxes: list[list[float]],
    extra: list[dict[str, object]],
) -> None:
    rows = [
        {"id": n, "file_name": name, "width": size[0], "height": size[1]}
        for n, (name, size) in enumerate(images)
    ]
    annotations = [
        {"id": 100 * n + k, "image_id": n, "category_id": 1, "bbox": box}
        for n in range(len(images))
        for k, box in enumerate(boxes)
    ]
    content = {
        "images": rows,
        "annotations": [*annotations, *extra],
        "categories": [{"id": 1, "name": NASTY}],
    }
    (folder / "boxes.json").write_text(json.dumps(content))
    (folder / "config.yaml").write_text(CONFIG)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One good image, one image of every broken kind, one annotation of every broken kind."""
    picture(tmp_path / "images" / "good.png")
    for name, make, _, _ in BAD:
        make(tmp_path / "images" / name)
    extra: list[dict[str, object]] = [
        {"id": 9000 + n, "image_id": 0, "category_id": 1, "bbox": box}
        for n, box in enumerate(BAD_BOXES.values())
    ]
    extra += [
        {"id": 9100, "image_id": 777, "category_id": 1, "bbox": WHOLE[0]},
        {"id": 9101, "image_id": 0, "category_id": 777, "bbox": WHOLE[0]},
        {"id": 0, "image_id": 0, "category_id": 1, "bbox": WHOLE[0]},
        {"id": 9102, "image_id": len(BAD) + 1, "category_id": 1, "bbox": WHOLE[0]},
    ]
    images = [
        ("good.png", (64, 48)),
        *((name, size) for name, _, size, _ in BAD),
        ("../outside.png", (64, 48)),
    ]
    write(tmp_path, images, WHOLE, extra)  # type: ignore[arg-type]
    return tmp_path


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_everything_broken_is_counted_and_nothing_stops(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = str(folder / "config.yaml")
    assert spr("index", config, "--check") == 3  # an examination that found something
    summary = capsys.readouterr().out
    expected: dict[str, int] = {}
    for _, _, _, reason in BAD:
        expected[reason] = expected.get(reason, 0) + 1
    for reason, count in expected.items():
        assert re.search(rf"^    {reason} +{count}$", summary, re.MULTILINE), reason
    at_index = {
        **dict.fromkeys(BAD_BOXES, 1),
        "annotation_without_image": 1,
        "unknown_category": 1,
        "duplicate_annotation_id": 1,
        "path_outside_root": 1,
        "image_set_aside": 3,
    }
    stage = json.loads((folder / "run" / "index" / "_stage.json").read_text())
    assert stage["rejected"] == at_index
    assert (
        "turned.jpg: stored 64 x 48, annotated 48 x 64: the EXIF rotation (orientation 6) explains it"
        in summary
    )

    assert spr("regions", config, "--preview", str(folder / "page.html")) == 0
    run = Run(str(folder / "run"))
    assert [r.image_id for r in run.read_stage(Region, "regions")] == ["good.png"]
    rows = run.read_rows(Dropped, "regions", "dropped", "part-00000.parquet")
    assert {r.item_id: r.reason for r in rows} == {name: reason for name, _, _, reason in BAD}
    page = Page((folder / "page.html").read_text(encoding="utf-8"))
    assert "script" not in page.tags  # a category may be called anything
    assert refused((folder / "page.html").read_text(encoding="utf-8")) == []
    assert NASTY in page.words
    assert set(expected) | set(at_index) <= set(page.words)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_when_nothing_is_left_there_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """First no usable box, then no usable image."""
    config = str(tmp_path / "config.yaml")
    for name, make, _, _ in BAD:
        make(tmp_path / name)
        (tmp_path / "images").mkdir(exist_ok=True)
        if (tmp_path / name).exists():
            (tmp_path / name).rename(tmp_path / "images" / name)
    images = [(name, size) for name, _, size, _ in BAD]
    write(tmp_path, images, list(BAD_BOXES.values())[:3], [])
    assert spr("index", config) == 2
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("spr:")]
    assert (
        "found 14 usable images and 0 usable boxes, expected some (box_empty: 14, box_negative: 14, "
        "box_not_finite: 14)" in line
    )
    write(tmp_path, images, [[0.0, 0.0, 5.0, 5.0], [6.0, 6.0, 5.0, 5.0]], [])
    for command in (["index", config, "--check", "--overwrite", "index"], ["regions", config]):
        assert spr(*command) == 2
        (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("spr:")]
        assert "truncated_image: 2" in line
