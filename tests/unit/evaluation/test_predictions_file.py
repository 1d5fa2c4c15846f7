"""Answers produced elsewhere: raw text with a dialect, or boxes; scored as `spr evaluate` would."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from spr.cli import run_cli
from spr.errors import ConfigError, DataError, DialectError
from spr.evaluation.predictions_file import read_lines, score_file
from spr.store.run import Run
from spr.types import Prediction

GT = [0, 0, 100, 100]


def jsonl(folder: Path, *rows: dict[str, Any]) -> Path:
    path = folder / "answers.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


def cell(table: str, metric: str) -> str:
    """The first cell of a metric's line, without its interval."""
    line = next(x for x in table.splitlines() if x.startswith(f"| {metric} |"))
    return line.split("|")[2].split("[")[0].strip()


def test_raw_answers_in_a_dialect(tmp_path: Path) -> None:
    """640 x 480, thousandths: [100, 0, 200, 1000] is x 64 … 128 of all heights. Then the same answer as
    pixels would be wrong: the frame is named.
    """
    defaults = {"protocol": "rec", "dialect": "qwen3_vl", "width": 640, "height": 480}
    row = {
        "gt": [64, 0, 128, 480],
        "image": "a.jpg",
        "answer": '{"bbox_2d": [100, 0, 200, 1000], "label": "x"}',
    }
    path = jsonl(
        tmp_path, {"defaults": defaults}, row, {**row, "answer": "I cannot see it."}, {**row, "answer": None}
    )
    table = score_file(path)
    assert "rec · 3 answers, 2 unparsed · 1 images" in table
    assert (cell(table, "acc@0.9"), cell(table, "parse_rate")) == ("33.33", "33.33")
    rows, _ = read_lines(path)
    assert rows[2].problems == ("answer_failed: missing",)


def test_a_contract_of_ones_own(tmp_path: Path) -> None:
    row = {
        "gt": [0, 0, 50, 100],
        "image": "a",
        "answer": '{"bbox_2d": [0, 0, 1024, 512]}',
        "width": 100,
        "height": 100,
    }
    right = {"dialect": {"base": "qwen3_vl", "scale": 1024, "order": "yxyx"}}
    rows, _ = read_lines(jsonl(tmp_path, {**row, **right}, {**row, "dialect": "qwen3_vl"}))
    assert [r.iou for r in rows] == [1.0, pytest.approx(0.344, abs=0.01)]
    with pytest.raises(DialectError, match=r"unknown option 'scal'"):
        read_lines(jsonl(tmp_path, {**row, "dialect": {"base": "qwen3_vl", "scal": 1}}))


def test_boxes_without_a_dialect_or_a_size(tmp_path: Path) -> None:
    rows = [
        {"gt": GT, "box": [0, 0, 100, 50]},
        {"gt": GT, "box": None},
        {"gt": GT, "boxes": [[100, 100, 0, 0], GT]},
        {"gt": GT, "boxes": []},
    ]
    table = score_file(jsonl(tmp_path, *rows))
    assert "4 answers, 2 unparsed" in table
    assert (cell(table, "acc@0.5"), cell(table, "acc@0.6")) == ("50.00", "25.00"), (
        "0.5 counts at 0.5; a reversed box is sorted"
    )


def test_options_and_splits(tmp_path: Path) -> None:
    """Strict comparison: an IoU of exactly 0.5 is wrong. The mean over splits is unweighted: (0 + 1) / 2,
    over items it is 1/3.
    """
    row = {"gt": GT, "box": [0, 0, 100, 50], "split": "a"}
    defaults = {"options": {"comparison": ">", "thresholds": [0.5]}}
    table = score_file(
        jsonl(
            tmp_path,
            {"defaults": defaults},
            row,
            {**row, "item_id": "x"},
            {"gt": GT, "box": GT, "split": "b"},
        )
    )
    assert cell(table, "acc@0.5") == "33.33"
    assert "mean over splits: acc@0.5 50.00" in table


def test_other_protocols(tmp_path: Path) -> None:
    phrase = {
        "protocol": "phrase_grounding",
        "phrases": [{"phrase": "a dog", "boxes": [GT], "type": "animals"}],
        "width": 1000,
        "height": 1000,
    }
    rows = [
        {**phrase, "answer": "a dog [0, 0, 100, 100]", "dialect": "ferret"},
        {
            "protocol": "pope",
            "truth": "yes",
            "answer": "Yes.",
            "dialect": "ferret",
            "width": 10,
            "height": 10,
        },
        {"protocol": "many_boxes", "gt_boxes": [GT], "boxes": [GT, [200, 200, 300, 300]]},
    ]
    table = score_file(jsonl(tmp_path, *rows))
    assert (cell(table, "r1_merged@0.9"), cell(table, "accuracy"), cell(table, "precision@0.5")) == (
        "100.00",
        "100.00",
        "50.00",
    )


def test_the_schema_of_ten_columns_is_enough(tmp_path: Path) -> None:
    """Another framework writes the first ten columns of predictions.parquet, without image sizes."""
    path = tmp_path / "predictions.parquet"
    row = {
        "item_id": "1", "protocol": "rec", "split": "val", "image": "a", "expression": "x", "gt": [0.0, 0.0,
        100.0, 100.0], "answer": "x",
        "box": [0.0, 0.0, 100.0, 90.0], "iou": 0.9, "problems": [],
    }  # fmt: skip
    pq.write_table(
        pa.Table.from_pylist(
            [row, {**row, "item_id": "2", "box": None, "iou": None, "problems": ["no_box"]}]
        ),
        path,
    )
    table = score_file(path)
    assert "2 answers, 1 unparsed" in table
    assert cell(table, "acc@0.9") == "50.00"


def test_a_runs_own_file_gives_the_same_numbers(tmp_path: Path) -> None:
    run = Run(str(tmp_path))
    rows = [
        Prediction(
            str(k),
            "rec",
            "v",
            f"{k // 2}",
            "x",
            (0, 0, 10, 10),
            "x",
            (0, 0, 10, k),
            k / 10,
            (),
            20,
            20,
            boxes=((0, 0, 10, k),),
        )
        for k in range(10)
    ]
    run.write_rows(rows, Prediction, "predictions.parquet")
    assert cell(score_file(tmp_path / "predictions.parquet"), "acc@0.7") == "30.00"


@pytest.mark.parametrize(
    ("row", "error", "message"),
    [
        (
            {"gt": GT},
            DataError,
            r"answers.jsonl:1: found keys \['gt'\], expected answer with dialect, or box, or boxes",
        ),
        ({"box": GT}, DataError, r"found keys \['box'\], expected gt for protocol 'rec'"),
        ({"gt": GT, "answer": "x"}, DataError, r"'width' among them"),
        ({"gt": GT, "answer": "x", "width": 1, "height": 1}, DataError, r"'dialect' among them"),
        (
            {"gt": GT, "answer": "x", "width": 1, "height": 1, "dialect": "ferre"},
            DialectError,
            r"answers.jsonl:1: .*did you mean 'ferret'",
        ),
        (
            {"gt": GT, "answer": 3, "width": 1, "height": 1, "dialect": "ferret"},
            DataError,
            r"answer: found 3, expected a text",
        ),
        (
            {"gt": [5, 0, 1, 1], "box": GT},
            DataError,
            r"gt: found \[5, 0, 1, 1\], expected \[x1, y1, x2, y2\]",
        ),
        ({"gt": GT, "box": [0, 1]}, DataError, r"box: found \[0, 1\], expected four numbers"),
        (
            {"gt": GT, "box": GT, "protocol": "recs"},
            ConfigError,
            r"unknown protocol 'recs' \(did you mean 'rec'\?\)",
        ),
        ({"gt": GT, "bbox": GT}, DataError, r"unknown column 'bbox' \(did you mean 'box'\?\)"),
        ({"gt": GT, "box": GT, "options": {"x": 1}}, ConfigError, r"options.x: unknown key"),
    ],
)
def test_mistakes_are_one_line(
    tmp_path: Path, row: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message) as found:
        score_file(jsonl(tmp_path, row))
    assert "\n" not in str(found.value)


def test_files_that_are_none(tmp_path: Path) -> None:
    for name, content in {"a.csv": "x", "b.parquet": "x", "c.jsonl": "", "d.jsonl": "{"}.items():
        (tmp_path / name).write_text(content)
        with pytest.raises(DataError, match=name):
            score_file(tmp_path / name)
    with pytest.raises(DataError, match="no such file"):
        score_file(tmp_path / "none.jsonl")


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as done:
        run_cli(["evaluate", "--predictions", str(jsonl(tmp_path, {"gt": GT, "box": GT}))])
    assert done.value.code == 0
    assert cell(capsys.readouterr().out, "acc@0.9") == "100.00"


PHRASES = [{"phrase": "A dog", "boxes": [GT]}, {"phrase": "two cats", "boxes": [GT, [200, 200, 300, 300]]}]


def test_phrases_given_as_boxes(tmp_path: Path) -> None:
    """A row per phrase, as an answer would give: the boxes that are said to be its own."""
    row = {"protocol": "phrase_grounding", "phrases": PHRASES, "expression": "a dog, two cats"}
    given = {**row, "boxes": [[0, 0, 300, 300], GT], "box_phrases": ["two cats", "a dog"]}
    rows, _ = read_lines(jsonl(tmp_path, given, {**row, "boxes": [], "box_phrases": []}))
    assert [r.expression for r in rows] == ["A dog", "two cats"] * 2
    assert [r.boxes for r in rows] == [((0, 0, 100, 100),), ((0, 0, 300, 300),), (), ()]
    table = score_file(jsonl(tmp_path, given))
    assert (cell(table, "r1_merged@0.9"), cell(table, "r1_any@0.9")) == ("100.00", "50.00")


@pytest.mark.parametrize("protocol", ["phrase_grounding", "region_description"])
@pytest.mark.parametrize(("boxes", "phrases"), [([GT], []), ([GT, GT], ["a dog"]), ([], ["a dog"])])
def test_every_box_has_its_phrase(
    tmp_path: Path, protocol: str, boxes: list[Any], phrases: list[str]
) -> None:
    row = {
        "protocol": protocol, "phrases": PHRASES, "region": GT, "gt_boxes": [GT], "truth": ["dog"],
        "boxes": boxes, "box_phrases": phrases, "expression": "x",
    }  # fmt: skip
    with pytest.raises(DataError, match=r"box_phrases: found \d for \d boxes"):
        score_file(jsonl(tmp_path, row))


def test_every_true_box_has_its_name(tmp_path: Path) -> None:
    row = {
        "protocol": "region_description",
        "region": GT,
        "gt_boxes": [GT, GT],
        "truth": ["dog"],
        "boxes": [],
    }
    with pytest.raises(DataError, match="found 1 truth for 2 boxes"):
        score_file(jsonl(tmp_path, row))


@pytest.mark.parametrize(
    ("column", "value"),
    [("protocol", None), ("box", [1.0]), ("box", "x"), ("gt", [0.0, 0.0, 1.0, float("nan")]), 
     ("problems", None), ("problems", 5), ("answer", 5), ("item_id", None)],
)  # fmt: skip
def test_columns_of_another_type_are_one_line(tmp_path: Path, column: str, value: object) -> None:
    row = {
        "item_id": "1", "protocol": "rec", "split": "val", "image": "a", "expression": "x",
        "gt": [0.0, 0.0, 9.0, 9.0], "answer": "x", "box": [0.0, 0.0, 9.0, 9.0], "iou": 0.9, "problems": ["x"],
    }  # fmt: skip
    file = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist([{**row, column: value}]), file)
    with pytest.raises(DataError, match=r"a\.parquet"):
        score_file(file)


def test_a_latin_1_line_is_named(tmp_path: Path) -> None:
    file = jsonl(tmp_path, {"gt": GT, "box": GT})
    file.write_bytes(file.read_bytes() + '{"item_id": "é"}\n'.encode("latin-1"))
    with pytest.raises(DataError, match=r"answers\.jsonl:2: not UTF-8"):
        score_file(file)
