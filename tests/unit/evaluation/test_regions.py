"""Grounded region description and region classification on files, judged by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from spr.dialects import get_dialect
from spr.errors import DataError
from spr.evaluation.config import BenchmarkConfig, EvaluationConfig
from spr.evaluation.rows import read_predictions
from spr.store.run import Run
from spr.types import Prediction
from tests.unit.evaluation.scripted import Scripted, ask

FERRET = get_dialect("ferret")


def evaluate(
    tmp_path: Path, benchmark: BenchmarkConfig, answers: dict[str, str]
) -> tuple[dict[str, Any], list[Prediction], Scripted]:
    run = Run(str(tmp_path / "run"))
    model = Scripted(answers)
    section = EvaluationConfig((benchmark,), bootstrap=50)
    ask(run, section, FERRET, {"base": lambda: model})
    where = ("evaluation", benchmark.name, "base")
    return run.read_json(*where, "metrics.json"), read_predictions(run, *where), model


def regions_file(folder: Path, **changes: Any) -> Path:
    row = {
        "image": "a.jpg",
        "width": 1000,
        "height": 1000,
        "box": [0, 0, 500, 500],
        "objects": [
            {"category": "dog", "box": [0, 0, 100, 100]},
            {"category": "cat", "box": [200, 200, 300, 300]},
            {"category": "dog", "box": [400, 0, 500, 100]},
        ],
    }
    path = folder / "regions.json"
    path.write_text(json.dumps([{**row, **changes}, {**row, "image": "b.jpg"}]))
    return path


DESCRIPTION = (
    "There is a large dog [0, 0, 100, 100], a lion [200, 200, 300, 260], a cat [400, 0, 500, 80] "
    "and a small tree [700, 700, 800, 800]."
)


def test_region_description_by_hand(tmp_path: Path) -> None:
    """First region: 4 boxes. The dog fits by 1, the "lion" lies on the cat by 0.6, the "cat" on the second
    dog by 0.8, the tree is outside. Second region: no box at all."""
    benchmark = BenchmarkConfig(
        "regions", "region_description", "regions_json", str(regions_file(tmp_path)), check_images=False
    )
    metrics, rows, model = evaluate(tmp_path, benchmark, {"/0": DESCRIPTION, "/1": "A dog and a cat."})
    assert (
        model.seen[0].prompt
        == "Describe the objects in the region [0, 0, 500, 500] in detail, with their locations."
    )
    assert (metrics["n"], metrics["unparsed"]) == (2, 1)
    assert rows[0].phrases == ("a large dog", "a lion", "a cat", "a small tree")
    values = {k: v["value"] for k, v in metrics["values"].items()}
    expected = {
        "box_precision@0.5": 3 / 4,  # four boxes were written
        "box_recall@0.5": 3 / 6,  # six objects in two regions
        "box_f1@0.5": 6 / 10,
        "box_recall@0.6": 3 / 6,  # exactly 0.6 counts
        "box_recall@0.7": 2 / 6,
        "box_recall@0.9": 1 / 6,
        "named_recall@0.5": 1 / 6,  # only the first phrase names the category of what its box is on
        "matched_iou": (1 + 0.6 + 0.8) / 3,
        "localization": (2.4 / 3 + 0) / 2,  # S_loc of the regions: 0.8, and a real zero
        "parse_rate": 1 / 2,
        "boxes_per_answer": 2.0,
        "objects_per_region": 3.0,
        # "There is a large dog, a lion, a cat and a small tree." has 13 words, the other answer 5
        "words_per_answer": 18 / 2,
        "categories_named": 4 / 4,  # dog and cat in both
        "boxes_outside": 1 / 4,
        "words_outside_per_answer": 3 / 2,  # "a small tree"
    }
    assert {k: values[k] for k in expected} == pytest.approx(expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objects": []}, r"regions.json\[0\]: found no objects, expected at least one object in the region"),
        (
            {"box": [5, 0, 1, 9]},
            r"\[0\].box: found \[5, 0, 1, 9\], expected \[x1, y1, x2, y2\] with x1 <= x2",
        ),
        ({"box": [0, 0, 1]}, r"\[0\].box: found \[0, 0, 1\], expected four numbers"),
        ({"width": 0}, r"\[0\]: found a size of 0x1000"),
        ({"caption": "x"}, r"\[0\]: unknown column 'caption'"),
        ({"image": ""}, r"\[0\].image: found '', expected a text"),
        (
            {"objects": [{"box": [0, 0, 1, 1]}]},
            r"\[0\].objects\[0\]: found keys \['box'\], expected 'category' among them",
        ),
        ({"id": 1}, r"found item '1' of split '' twice"),
    ],
)
def test_wrong_regions(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    benchmark = BenchmarkConfig(
        "regions",
        "region_description",
        "regions_json",
        str(regions_file(tmp_path, **changes)),
        check_images=False,
    )
    with pytest.raises(DataError, match=message):
        evaluate(tmp_path, benchmark, {})


def coco_file(folder: Path) -> Path:
    data = {
        "images": [
            {"id": 7, "file_name": "a.jpg", "width": 1000, "height": 1000},
            {"id": 8, "file_name": "empty.jpg", "width": 10, "height": 10},
        ],
        "categories": [
            {"id": 1, "name": "dog"},
            {"id": 2, "name": "bow_(weapon)", "synonyms": ["bow_(weapon)", "long_bow"]},
        ],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 1, "bbox": [0, 0, 100, 100], "iscrowd": 0},
            {"id": 2, "image_id": 7, "category_id": 2, "bbox": [10, 20, 30, 40]},
            {"id": 3, "image_id": 7, "category_id": 1, "bbox": [0, 0, 999, 999], "iscrowd": 1},
            {"id": 4, "image_id": 7, "category_id": 1, "bbox": [5, 5, 5, 5]},
        ],
    }
    path = folder / "instances.json"
    path.write_text(json.dumps(data))
    return path


def test_region_classification_by_hand(tmp_path: Path) -> None:
    """Three objects (a crowd is none); the second is named by its synonym, the third by a word that only
    contains the name.
    """
    benchmark = BenchmarkConfig(
        "objects", "region_classification", "coco", str(coco_file(tmp_path)), check_images=False
    )
    metrics, rows, model = evaluate(
        tmp_path, benchmark, {"/1": "a Dog.", "/2": "It is a long bow", "/4": "a hotdog"}
    )
    assert [q.prompt for q in model.seen][1] == "What is the object in the region [10, 20, 40, 60]?"
    assert rows[1].truth == ("bow", "long bow")
    assert (metrics["n"], metrics["unparsed"]) == (3, 0)
    assert metrics["values"]["accuracy"]["value"] == pytest.approx(2 / 3)
    table = pq.read_table(tmp_path / "run" / "evaluation" / "objects" / "base" / "predictions.parquet")
    assert {"item_id", "image", "question", "answer", "reference", "correct"} <= set(table.column_names)
    assert table["correct"].to_pylist() == [True, True, False]
    assert table["question"][1].as_py() == "What is the object in the region [10, 20, 40, 60]?"
    assert table["reference"][1].as_py() == "bow"


DOGS = [{"category": "dog", "box": [0, 0, 100, 100]}, {"category": "dog", "box": [200, 0, 300, 100]}]


@pytest.mark.parametrize(
    ("answer", "matched", "written", "why"),
    [
        ("a dog [0, 0, 100, 100], a cat [200, 0, 300, 100]", 2, 2, "both phrases, both boxes"),
        ("A Dog [0, 0, 100, 100]", 1, 1, "without regard to case"),
        (
            "a dog [0, 0, 100, 100], a dog [200, 0, 300, 100]",
            1,
            2,
            "the second box is right, its phrase is not",
        ),
        ("a large dog [0, 0, 100, 100]", 0, 1, "another phrase is another thing"),
        ("a cat [0, 0, 100, 100], a dog [200, 0, 300, 100]", 0, 2, "boxes swapped"),
    ],
)
def test_f1_wants_the_phrase_as_well_as_the_box(
    tmp_path: Path, answer: str, matched: int, written: int, why: str
) -> None:
    objects = [
        {"category": "dog", "phrase": "a dog", "box": [0, 0, 100, 100]},
        {"category": "cat", "phrase": "a cat", "box": [200, 0, 300, 100]},
    ]
    path = tmp_path / "regions.json"
    path.write_text(
        json.dumps(
            [{"image": "a", "width": 1000, "height": 1000, "box": [0, 0, 500, 500], "objects": objects}]
        )
    )
    benchmark = BenchmarkConfig("r", "region_description", "regions_json", str(path), check_images=False)
    metrics, rows, _ = evaluate(tmp_path, benchmark, {"/0": answer})
    values = metrics["values"]
    assert rows[0].gt_phrases == ("a dog", "a cat")
    assert values["precision@0.5"]["value"] == pytest.approx(matched / written), why
    assert values["recall@0.5"]["value"] == pytest.approx(matched / 2), why
    assert values["f1@0.5"]["value"] == pytest.approx(2 * matched / (written + 2)), why
    names = set(pq.read_schema(tmp_path / "run" / "evaluation" / "r" / "base" / "predictions.parquet").names)
    assert {
        "item_id",
        "image",
        "width",
        "height",
        "region",
        "answer",
        "gt",
        "gt_phrases",
        "boxes",
        "phrases",
        "problems",
    } <= names


@pytest.mark.parametrize(
    ("answer", "precision", "recall", "why"),
    [
        ("a dog [0, 0, 100, 100], a dog [200, 0, 300, 100]", 1.0, 1.0, "all found"),
        ("a dog [0, 0, 100, 100], a dog [0, 0, 100, 100]", 0.5, 0.5, "a duplicate is a false positive"),
        ("a dog [0, 0, 100, 50]", 1.0, 0.5, "IoU exactly 0.5"),
        ("a dog [0, 0, 100, 49]", 0.0, 0.0, "just below"),
        ("a dog [300, 100, 200, 0]", 1.0, 0.5, "reversed"),
        ("dogs [0, 0, 300, 100]", 0.0, 0.0, "one box around both is neither"),
        ("two dogs", None, 0.0, "no box: nothing to be precise about"),
    ],
)
def test_one_region_at_a_time(
    tmp_path: Path, answer: str, precision: float | None, recall: float, why: str
) -> None:
    path = tmp_path / "regions.json"
    path.write_text(
        json.dumps([{"image": "a", "width": 1000, "height": 1000, "box": [0, 0, 500, 500], "objects": DOGS}])
    )
    benchmark = BenchmarkConfig("r", "region_description", "regions_json", str(path), check_images=False)
    values = evaluate(tmp_path, benchmark, {"/0": answer})[0]["values"]
    assert (values["box_precision@0.5"]["value"], values["box_recall@0.5"]["value"]) == (precision, recall), (
        why
    )
