"""The COCO reader: box for box what pycocotools gives, streamed; each broken thing kept aside with its
reason.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
from pathlib import Path

import pytest
from pycocotools.coco import COCO

from spr.data.config import DataConfig
from spr.data.index import build_index
from spr.errors import DataError
from tests.unit.data.worlds import CATEGORIES, box, coco, image, index, picture, set_aside


def test_ids_boxes_and_flags(tmp_path: Path) -> None:
    """x2 = x + width; ids are paths and ordinals in source order; flags are kept; the order of images does
    not matter.
    """
    config = coco(
        tmp_path,
        [image(5, name="b/x.jpg"), image(3, name="./a.jpg")],
        [
            box(90, 3, [1.25, 2, 3, 4]),
            box(10, 5, [0, 0, 64, 48], 7, iscrowd=1),
            box(20, 3, [0.1, 0.2, 0.3, 0.4], 7, ignore=1),
        ],
    )
    summary, found = index(config, tmp_path / "out")
    assert (summary.images, summary.annotations, summary.categories, summary.rejected) == (2, 3, 2, {})
    assert [(i.image_id, i.path, i.width, i.height) for i in found.images()] == [
        ("a.jpg", "a.jpg", 64, 48),
        ("b/x.jpg", "b/x.jpg", 64, 48),
    ]
    boxes = found.annotations_of(["a.jpg", "b/x.jpg"])
    assert [(a.annotation_id, a.category, a.box, a.crowd, a.ignore, a.difficult) for a in boxes["a.jpg"]] == [
        ("0", "cat", (1.25, 2.0, 4.25, 6.0), False, False, False),
        ("1", "dog", (0.1, 0.2, 0.1 + 0.3, 0.2 + 0.4), False, True, False),
    ]
    assert [(a.annotation_id, a.category, a.crowd) for a in boxes["b/x.jpg"]] == [("0", "dog", True)]


NAN, INF = math.nan, math.inf
BAD_BOXES = [
    # what is written, the reason, why
    (box(2, 1, [NAN, 0, 5, 5]), "box_not_finite", "Python writes NaN into JSON, and other tools read it"),
    (box(2, 1, [0, 0, INF, 5]), "box_not_finite", "Infinity too"),
    (box(2, 1, [0, 0, 1e308, 5]) | {"bbox": [1e308, 0, 1e308, 5]}, "box_not_finite", "x + width overflows"),
    (box(2, 1, [0, 0, 5]), "box_not_finite", "three numbers are no box"),
    (box(2, 1, []) | {"bbox": None}, "box_not_finite", "null"),
    (box(2, 1, []) | {"bbox": ["1", "2", "3", "4"]}, "box_not_finite", "numbers as text are not guessed at"),
    (box(2, 1, [5, 5, -2, 3]), "box_negative", "a negative width"),
    (box(2, 1, [5, 5, 0, 3]), "box_empty", "no area"),
    (box(2, 1, [5, 5, 0.0, -0.0]), "box_empty", "no area, negative zero"),
    (box(2, 1, [60, 40, 6, 3]), "box_outside", "sticks out by 2 pixels"),
    (box(2, 1, [-1.5, 0, 10, 10]), "box_outside", "sticks out at the left"),
    (box(2, 1, [64, 10, 0.5, 5]), "box_outside", "begins where the image ends"),
    (box(2, 99, [0, 0, 5, 5]), "annotation_without_image", "no such image"),
    (box(2, 1, [0, 0, 5, 5], 99), "unknown_category", "no such category"),
    (box(1, 1, [0, 0, 5, 5]), "duplicate_annotation_id", "the first one stays"),
    ("text", "not_an_annotation", "something else in the list"),
]


@pytest.mark.parametrize(
    ("bad", "reason", "why"), BAD_BOXES, ids=[f"{r}-{n}" for n, (_, r, _) in enumerate(BAD_BOXES)]
)
def test_a_bad_annotation_is_set_aside(tmp_path: Path, bad: object, reason: str, why: str) -> None:
    """One bad annotation between two good ones: counted with its reason, and the good ones are as they would
    be alone.
    """
    config = coco(tmp_path, [image(1)], [box(1, 1, [1, 1, 10, 10]), bad, box(3, 1, [2, 2, 20, 20], 7)])
    summary, found = index(config, tmp_path / "out")
    assert summary.rejected == {reason: 1}, why
    assert [(a.category, a.box) for a in found.annotations_of(["1.png"])["1.png"]] == [
        ("cat", (1, 1, 11, 11)),
        ("dog", (2, 2, 22, 22)),
    ]
    assert [d.reason for d in set_aside(found)] == [reason]


BAD_IMAGES = [
    (image(1, name="../secret.png"), "path_outside_root"),
    (image(1, name="/etc/passwd"), "path_outside_root"),
    (image(1, name="a/..\\..\\b.png"), "path_outside_root"),
    (image(1, name="http://host/x.png"), "path_outside_root"),
    ({"id": 1, "width": 5, "height": 5}, "path_outside_root"),
    (image(1, width=0), "image_without_size"),
    (image(2, name="other.png"), "duplicate_image_id"),
    (image(1, name="2.png"), "duplicate_image_path"),
]


@pytest.mark.parametrize(
    ("bad", "reason"), BAD_IMAGES, ids=[f"{r}-{n}" for n, (_, r) in enumerate(BAD_IMAGES)]
)
def test_a_bad_image_is_set_aside_with_its_boxes(tmp_path: Path, bad: dict[str, object], reason: str) -> None:
    config = coco(tmp_path, [image(2), bad], [box(1, 1, [0, 0, 5, 5]), box(2, 2, [0, 0, 5, 5])])
    summary, found = index(config, tmp_path / "out")
    assert [i.image_id for i in found.images()] == ["2.png"]
    lost = "annotation_without_image" if reason == "duplicate_image_id" else "image_set_aside"
    assert summary.rejected == {reason: 1, lost: 1}
    assert summary.annotations == 1


def test_a_file_that_breaks_off_keeps_what_was_read(tmp_path: Path) -> None:
    """The byte offset of the break and the counts until there; the annotations before it are in the index."""
    config = coco(tmp_path, [image(1)], [box(n, 1, [n, n, 5, 5]) for n in range(1, 40)])
    path = tmp_path / "boxes.json"
    whole = json.loads(path.read_text())
    text = json.dumps(
        {"categories": CATEGORIES, "images": whole["images"], "annotations": whole["annotations"]}
    )
    cut = text.index('"id": 30') + 5
    path.write_text(text[:cut])
    summary, found = index(config, tmp_path / "out")
    assert (summary.annotations, summary.rejected) == (29, {"json_broken": 1})
    (lost,) = set_aside(found)
    assert lost.item_id == str(path)
    assert (
        lost.detail
        == f"breaks at byte {cut} in 'annotations' (the file ends); read until then: 1 images, 29 "
        "annotations, 2 categories"
    )


def test_when_nothing_is_left_there_is_one_line(tmp_path: Path) -> None:
    """Categories come last in the published files: cut before them, no annotation is usable."""
    config = coco(tmp_path, [image(1)], [box(1, 1, [0, 0, 5, 5])])
    path = tmp_path / "boxes.json"
    path.write_text(path.read_text().split('"categories"')[0])
    with pytest.raises(
        DataError,
        match=r"boxes\.json: found 1 usable images and 0 usable boxes, expected some \(breaks at byte \d+ "
        r".the file ends",
    ) as e:
        build_index(config, str(tmp_path / "out"))
    assert "\n" not in str(e.value)
    assert not (tmp_path / "out" / "images.parquet").exists()


def test_missing_files_are_one_line(tmp_path: Path) -> None:
    config = coco(tmp_path, [image(1)], [box(1, 1, [0, 0, 5, 5])])
    with pytest.raises(
        DataError, match=r"data\.annotations: .*none\.json: no such file, expected annotations in coco form"
    ):
        build_index(DataConfig("coco", str(tmp_path / "none.json"), config.images), str(tmp_path / "out"))
    with pytest.raises(DataError, match=r"data\.images: .*nowhere: no such folder or archive"):
        build_index(DataConfig("coco", config.sources, str(tmp_path / "nowhere")), str(tmp_path / "out"))
    with pytest.raises(DataError, match=r"found a folder, expected a file in coco form"):
        build_index(DataConfig("coco", str(tmp_path), config.images), str(tmp_path / "out"))


def test_text_ids_and_late_images(tmp_path: Path) -> None:
    """Some exporters use text ids, or write annotations before images."""
    (tmp_path / "images").mkdir()
    annotations = [
        {"id": "a1", "image_id": "i", "category_id": "k", "bbox": [0, 0, 5, 5]},
        {"id": "a1", "image_id": "i", "category_id": "k", "bbox": [1, 1, 5, 5]},
    ]
    content = {
        "annotations": annotations,
        "categories": [{"id": "k", "name": "kite"}],
        "images": [{"id": "i", "file_name": "i.png", "width": 9, "height": 9}],
    }
    (tmp_path / "x.json").write_text(json.dumps(content))
    summary, found = index(
        DataConfig("coco", str(tmp_path / "x.json"), str(tmp_path / "images")), tmp_path / "out"
    )
    assert summary.rejected == {"duplicate_annotation_id": 1}
    assert [a.category for a in found.annotations_of(["i.png"])["i.png"]] == ["kite"]
    assert set_aside(found)[0].detail == "id a1"


def test_a_size_that_is_not_written_is_read_from_the_image(tmp_path: Path) -> None:
    config = coco(
        tmp_path,
        [{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": "gone.png"}],
        [box(1, 1, [0, 0, 5, 5]), box(2, 2, [0, 0, 5, 5])],
    )
    picture(tmp_path / "images" / "a.png", 31, 17)
    summary, found = index(config, tmp_path / "out")
    assert [(i.width, i.height) for i in found.images()] == [(31, 17)]
    assert summary.rejected == {"image_set_aside": 1, "missing_image": 1}


def test_lvis_paths_and_stripped_folders(tmp_path: Path) -> None:
    """LVIS names its images by URL; Objects365 v2 by folders that the download does not have."""
    config = coco(
        tmp_path,
        [
            {
                "id": 1,
                "coco_url": "http://images.cocodataset.org/train2017/000000391895.jpg",
                "width": 9,
                "height": 9,
            }
        ],
        [box(1, 1, [0, 0, 5, 5])],
    )
    assert [i.path for i in index(config, tmp_path / "out")[1].images()] == ["train2017/000000391895.jpg"]
    config = coco(tmp_path, [image(1, name="images/v1/patch8/x.jpg")], [box(1, 1, [0, 0, 5, 5])])
    stripped = DataConfig("coco", config.annotations, config.images, strip_folders=2)
    assert [i.path for i in index(stripped, tmp_path / "out2")[1].images()] == ["patch8/x.jpg"]


def test_several_files_keep_their_ids_apart(tmp_path: Path) -> None:
    """Train and validation files number their images, annotations and categories each from 1."""
    a = coco(tmp_path / "a", [image(1, name="a.png")], [box(1, 1, [0, 0, 5, 5])], [{"id": 1, "name": "cat"}])
    b = coco(tmp_path / "b", [image(1, name="b.png")], [box(1, 1, [0, 0, 6, 6])], [{"id": 1, "name": "dog"}])
    summary, found = index(DataConfig("coco", (*a.sources, *b.sources), a.images), tmp_path / "out")
    assert summary.rejected == {}
    assert {
        k: [(x.category, x.box[2]) for x in v] for k, v in found.annotations_of(["a.png", "b.png"]).items()
    } == {
        "a.png": [("cat", 5.0)],
        "b.png": [("dog", 6.0)],
    }


def load_with_pycocotools(path: str) -> COCO:
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(path)
