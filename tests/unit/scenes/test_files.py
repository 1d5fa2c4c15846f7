"""The world's files are those of real data sets, written once, and equal for equal seeds."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path

import pytest
from PIL import Image
from pycocotools.coco import COCO

from spr.errors import ConfigError, DataError
from spr.evaluation.config import BenchmarkConfig
from spr.evaluation.readers import read_benchmark
from spr.scenes.embedded import COUNTS, ensure_world, resolve_embedded, world_folder
from spr.scenes.files import EXPRESSIONS, SplitFiles, image_name, write_split
from spr.scenes.world import SIZES, scene_of


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> SplitFiles:
    return write_split(tmp_path_factory.mktemp("world"), "test", 8)


def test_coco_holds_every_object_with_its_box(files: SplitFiles) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(files.coco))
    for i in range(8):
        found = coco.loadAnns(coco.getAnnIds(imgIds=[i]))
        truth = scene_of("test", i).things
        assert [coco.cats[a["category_id"]]["name"] for a in found] == [o.noun for o in truth]
        assert [a["bbox"] for a in found] == [
            [o.box[0], o.box[1], o.box[2] - o.box[0], o.box[3] - o.box[1]] for o in truth
        ]


def test_images_are_real_files_of_the_stated_size(files: SplitFiles) -> None:
    with Image.open(files.images / image_name(3)) as image:
        assert image.format == "JPEG"
        assert image.size == scene_of("test", 3).image.size in SIZES


def test_expressions_are_read_by_the_reader_of_refcoco(files: SplitFiles) -> None:
    items, _ = read_benchmark(
        BenchmarkConfig(
            "test", "rec", "mdetr", str(files.expressions), images=str(files.images), split="test"
        )
    )
    per_image = [sum(item.image.endswith(image_name(i)) for item in items) for i in range(8)]
    assert max(per_image) <= EXPRESSIONS
    for item in items:
        index = int(Path(item.image).stem)
        owner = [o for o in scene_of("test", index).things if o.box == item.gt]
        assert len(owner) == 1  # the box is an object of that scene …
        assert owner[0].noun in item.expression  # … and of the named kind


def test_regions_are_read_as_region_descriptions(files: SplitFiles) -> None:
    items, _ = read_benchmark(
        BenchmarkConfig(
            "r", "region_description", "regions_json", str(files.regions), images=str(files.images)
        )
    )
    assert items
    assert all(len(item.gt_boxes) >= 5 for item in items)  # method 2.1: more than four objects


def test_a_description_points_at_its_phrases(files: SplitFiles) -> None:
    for row in json.loads((files.folder / "descriptions.json").read_text()):
        for phrase in row["phrases"]:
            words = row["text"][phrase["start"] : phrase["end"]].split()
            assert words[0] in ("a", "an")


def test_a_split_is_written_once_and_another_world_is_refused(files: SplitFiles) -> None:
    drawn: list[int] = []
    write_split(files.folder.parent, "test", 8, drawn.append)
    assert drawn == []
    with pytest.raises(DataError, match="found another world"):
        write_split(files.folder.parent, "test", 9)


def test_embedded_paths(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SPR_CACHE", str(tmp_path))
    path = resolve_embedded("embedded:val/instances.json")
    assert path == str(world_folder() / "val" / "instances.json")
    with pytest.raises(ConfigError, match=r"unknown checkpoint or split 'tset'.*did you mean 'test'"):
        resolve_embedded("embedded:tset/x.json")
    monkeypatch.setattr("spr.scenes.embedded.COUNTS", {**COUNTS, "val": 2})
    started: list[tuple[str, int]] = []
    ensure_world(
        [path, "/elsewhere/x.json"], lambda what, n: started.append((what, n)), lambda n: None, lambda: None
    )
    assert started == [("drawing val scenes", 2)]  # only the split that is needed
    assert Path(path).exists()
