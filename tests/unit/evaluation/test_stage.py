"""From a benchmark file through a scripted model to metrics.json and comparison.json; resume, workers,
refusals.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from spr.dialects import get_dialect
from spr.errors import ConfigError, DataError, StaleRunError
from spr.evaluation.config import BenchmarkConfig, EvaluationConfig
from spr.evaluation.metrics import accuracy_at_iou
from spr.store.run import Run, shard_name
from spr.store.runtime import RuntimeConfig
from spr.types import Answer, Prediction
from tests.unit.evaluation.scripted import Scripted, ask

FERRET = get_dialect("ferret")
ITEMS = 9  # three images of 1000 x 1000 px, where Ferret's numbers are pixels; three expressions each


def mdetr(folder: Path) -> Path:
    """Expression k has the box [0, 0, 100, 100]; images a, b, c in turns."""
    images = [
        {
            "id": k,
            "file_name": f"{'abc'[k % 3]}.png",
            "width": 1000,
            "height": 1000,
            "original_id": k % 3,
            "caption": f"thing {k}",
        }
        for k in range(ITEMS)
    ]
    annotations = [
        {"id": k, "image_id": k, "category_id": 1, "bbox": [0, 0, 100, 100], "area": 10000, "iscrowd": 0}
        for k in range(ITEMS)
    ]
    for name in "abc":
        Image.new("L", (1, 1)).save(folder / f"{name}.png")
    path = folder / "finetune_refcoco_val.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": []}))
    return path


def config(path: Path, **changes: Any) -> EvaluationConfig:
    benchmark = BenchmarkConfig(
        "refcoco", "rec", "mdetr", str(path), images=str(path.parent), split="val", **changes
    )
    return EvaluationConfig((benchmark,), bootstrap=200)


def go(
    run: Run,
    section: EvaluationConfig,
    makers: Mapping[str, Callable[[], Scripted]],
    runtime: RuntimeConfig | None = None,
) -> None:
    ask(run, section, FERRET, makers, runtime or RuntimeConfig(1, 1, 2))


# IoU with [0, 0, 100, 100] in brackets
ANSWERS: dict[str, str | Answer] = {
    "val/0": "thing 0 [0, 0, 100, 100].",  # 1.0
    "val/1": "thing 1 [0, 0, 100, 50].",  # 0.5, exactly at the threshold
    "val/2": "thing 2 [100, 100, 0, 0].",  # reversed: sorted for the metric, 1.0
    "val/3": "I do not see it.",  # no box
    "val/4": "thing 4 [0, 0, 100",  # broken off
    "val/5": Answer("", failed="timeout"),  # no answer
    "val/6": "thing 6 [0, 0, 49, 100] [0, 0, 100, 100].",  # 0.49; the second box would be right
    "val/7": "thing 7 [0, 0, 60, 100].",  # 0.6
    "val/8": Answer("thing 8 [0, 0, 90, 100]", stopped=False),  # 0.9, cut behind its box
}
IOUS = [1.0, 0.5, 1.0, None, None, None, 0.49, 0.6, 0.9]


def scripted(answers: dict[str, str | Answer], log: str | None = None) -> Scripted:
    return Scripted(answers, log=log)


def test_rec_from_file_to_metrics(tmp_path: Path) -> None:
    run = Run(str(tmp_path / "run"))
    go(run, config(mdetr(tmp_path)), {"base": partial(scripted, ANSWERS)})
    rows = run.read_rows(Prediction, "evaluation", "refcoco", "base", "predictions.parquet")
    by_id = {r.item_id: r for r in rows}
    assert [by_id[f"val/{k}"].iou for k in range(ITEMS)] == pytest.approx(IOUS)
    assert by_id["val/2"].box == (100.0, 100.0, 0.0, 0.0), "the box stays as it was written"
    assert [by_id[f"val/{k}"].problems for k in (3, 4, 5)] == [
        ("no_box",),
        ("truncated", "no_box"),
        ("answer_failed: timeout",),
    ]
    metrics = run.read_json("evaluation", "refcoco", "base", "metrics.json")
    assert (metrics["n"], metrics["unparsed"], metrics["failed"], metrics["cut"], metrics["images"]) == (
        9,
        3,
        1,
        1,
        3,
    )
    # >= 0.5: 0, 1, 2, 7, 8 · >= 0.6: without 1 · >= 0.7: without 7 · the same at 0.8 and 0.9 (exactly 0.9)
    expected = {
        "acc@0.5": 5 / 9,
        "acc@0.6": 4 / 9,
        "acc@0.7": 3 / 9,
        "acc@0.8": 3 / 9,
        "acc@0.9": 3 / 9,
        "parse_rate": 6 / 9,
    }
    values = {k: v["value"] for k, v in metrics["values"].items()}
    assert {k: values[k] for k in expected} == pytest.approx(expected)
    assert values["mean_iou"] == pytest.approx(4.49 / 9)
    assert values["mean_iou_read"] == pytest.approx(4.49 / 6)
    assert values["boxes_per_answer"] == pytest.approx(7 / 9)
    again = accuracy_at_iou([r.iou for r in rows])
    assert {f"acc@{t}": v for t, v in again.items()} == pytest.approx(
        {k: v for k, v in expected.items() if k.startswith("acc")}
    )
    assert metrics["prompt"] == "What is the location of {expression} in the image?"


def test_questions_of_an_image_are_one_group_and_start_with_the_dialects_prompt(tmp_path: Path) -> None:
    model = Scripted()
    go(Run(str(tmp_path / "run")), config(mdetr(tmp_path)), {"base": lambda: model})
    assert [q.group for q in model.seen] == [f"refcoco/{tmp_path}/{name}.png/0" for name in "aaabbbccc"]
    assert model.seen[1].prompt == "What is the location of thing 3 in the image?"
    assert Path(model.seen[0].image).exists()


def test_an_image_with_many_questions_is_asked_in_groups_of_a_fixed_size(tmp_path: Path) -> None:
    """Groups are counted within the image, so they do not depend on how the work is cut."""
    data = {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 99, "height": 99}],
        "categories": [{"id": 1, "name": "dog"}],
        "annotations": [{"id": k, "image_id": 1, "category_id": 1, "bbox": [k, 0, 9, 9]} for k in range(70)],
    }
    (tmp_path / "instances.json").write_text(json.dumps(data))
    benchmark = BenchmarkConfig(
        "o", "region_classification", "coco", str(tmp_path / "instances.json"), check_images=False
    )
    model = Scripted()
    go(
        Run(str(tmp_path / "run")),
        EvaluationConfig((benchmark,), bootstrap=5),
        {"base": lambda: model},
        RuntimeConfig(1, 1, 1),
    )
    assert [q.group for q in model.seen] == [f"o/a.jpg/{k // 32}" for k in range(70)]


def test_options_change_the_metric_and_ask_nothing_again(tmp_path: Path) -> None:
    run, path, log = Run(str(tmp_path / "run")), mdetr(tmp_path), tmp_path / "log"
    go(run, config(path), {"base": partial(scripted, ANSWERS, str(log))})
    asked = log.read_text()
    values = {}
    for name, options in {
        "strict": {"comparison": ">"},
        "best": {"box": "best"},
        "sweep": {"sweep": True},
    }.items():
        go(run, config(path, options=options), {"base": partial(scripted, ANSWERS, str(log))})
        values[name] = run.read_json("evaluation", "refcoco", "base", "metrics.json")["values"]
    assert log.read_text() == asked
    assert values["strict"]["acc@0.5"]["value"] == pytest.approx(4 / 9), (
        "an IoU of exactly 0.5 is not above 0.5"
    )
    assert values["best"]["upper_bound_acc@0.5"]["value"] == pytest.approx(6 / 9), (
        "the second box of item 6 counts"
    )
    assert "acc@0.5" not in values["best"], "an upper bound is never called accuracy"
    # hits among the ten thresholds: 1.0 -> 10 (twice), 0.5 -> 1, 0.6 -> 3, 0.9 -> 9
    assert values["sweep"]["macc"]["value"] == pytest.approx((20 + 1 + 3 + 9) / 10 / 9)


def test_measuring_again_touches_no_file(tmp_path: Path) -> None:
    run, path = Run(str(tmp_path / "run")), mdetr(tmp_path)
    makers = {"base": partial(scripted, ANSWERS), "spr": partial(scripted, ANSWERS)}
    go(run, config(path), makers)
    before = {p: p.stat().st_mtime_ns for p in Path(run.root).rglob("*") if p.is_file()}
    go(run, config(path), makers)
    assert {p: p.stat().st_mtime_ns for p in Path(run.root).rglob("*") if p.is_file()} == before


def test_comparison_is_paired_and_lists_who_changed_sides(tmp_path: Path) -> None:
    better = {**ANSWERS, "val/3": "thing [0, 0, 100, 100]", "val/7": "thing [0, 0, 30, 100]"}
    run = Run(str(tmp_path / "run"))
    go(
        run,
        config(mdetr(tmp_path)),
        {
            "base": partial(scripted, ANSWERS),
            "spr": partial(scripted, better),
            "same": partial(scripted, ANSWERS),
        },
    )
    found = run.read_json("evaluation", "refcoco", "comparison.json")
    assert found["reference"] == "base"
    assert set(found["models"]) == {"spr", "same"}
    spr = found["models"]["spr"]
    assert spr["changed"]["acc@0.5"] == {"to_right": ["val/3"], "to_wrong": ["val/7"]}
    assert spr["changed"]["acc@0.9"] == {"to_right": ["val/3"], "to_wrong": []}
    assert spr["differences"]["acc@0.5"]["value"] == pytest.approx(0.0)
    assert spr["differences"]["acc@0.9"]["value"] == pytest.approx(1 / 9)
    same = found["models"]["same"]["differences"]["acc@0.5"]
    assert (same["value"], same["low"], same["high"], same["significant"]) == (0.0, 0.0, 0.0, False), (
        "pairing: equal answers, no spread"
    )


def test_models_measured_later_are_compared_with_those_measured_before(tmp_path: Path) -> None:
    run, path = Run(str(tmp_path / "run")), mdetr(tmp_path)
    go(run, config(path), {"base": partial(scripted, ANSWERS)})
    go(run, config(path), {"spr": partial(scripted, {**ANSWERS, "val/3": "thing [0, 0, 100, 100]"})})
    found = run.read_json("evaluation", "refcoco", "comparison.json")
    assert (found["reference"], list(found["models"])) == ("base", ["spr"])


def test_models_measured_on_other_items_are_left_out_by_name(tmp_path: Path) -> None:
    run, path = Run(str(tmp_path / "run")), mdetr(tmp_path)
    go(run, config(path), {"base": partial(scripted, ANSWERS)})
    go(run, config(path, limit=3), {"spr": partial(scripted, ANSWERS)})
    found = run.read_json("evaluation", "refcoco", "comparison.json")
    assert (found["reference"], found["models"], found["left_out"]) == ("spr", {}, ["base"])


def test_killed_and_resumed_equals_uninterrupted_and_two_workers(tmp_path: Path) -> None:
    path = mdetr(tmp_path)
    whole, broken, two = (Run(str(tmp_path / name)) for name in ("whole", "broken", "two"))
    go(whole, config(path), {"base": partial(scripted, ANSWERS)}, RuntimeConfig(1, 1, 1))
    with pytest.raises(KeyboardInterrupt):
        go(broken, config(path), {"base": lambda: Scripted(ANSWERS, fail_after=2)}, RuntimeConfig(1, 1, 1))
    assert broken.shard_names("evaluation", "refcoco", "base") == [shard_name(0), shard_name(1)]
    rest = Scripted(ANSWERS)
    go(broken, config(path), {"base": lambda: rest}, RuntimeConfig(1, 1, 1))
    assert rest.calls == 1, "only the missing shard is asked"
    go(two, config(path), {"base": partial(scripted, ANSWERS)}, RuntimeConfig(2, 1, 1))
    for name in ("predictions.parquet", "metrics.json"):
        content = whole.read_bytes("evaluation", "refcoco", "base", name)
        assert broken.read_bytes("evaluation", "refcoco", "base", name) == content
        assert two.read_bytes("evaluation", "refcoco", "base", name) == content


def test_a_changed_benchmark_file_or_prompt_is_refused(tmp_path: Path) -> None:
    run, path = Run(str(tmp_path / "run")), mdetr(tmp_path)
    go(run, config(path), {"base": partial(scripted, ANSWERS)})
    with pytest.raises(StaleRunError, match=r"changed: prompt"):
        go(run, config(path, prompt="Find {expression}."), {"base": partial(scripted, ANSWERS)})
    path.write_text(path.read_text().replace("thing 3", "another thing"))
    with pytest.raises(StaleRunError, match=r"changed: items"):
        go(run, config(path), {"base": partial(scripted, ANSWERS)})


def never() -> Scripted:
    raise AssertionError("no model may be built before the benchmarks are checked")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"protocol": "ref"}, r"unknown protocol 'ref' \(did you mean 'rec'\?\)"),
        ({"format": "mdter"}, r"unknown format 'mdter' \(did you mean 'mdetr'\?\)"),
        (
            {"options": {"treshold": 0.5}},
            r"options.treshold: unknown key 'treshold' \(did you mean 'thresholds'\?\)",
        ),
        ({"options": {"comparison": "≥"}}, r"options.comparison: found '≥'"),
        ({"path": ""}, r"found neither path and paths, expected one of them"),
        ({"name": "a/b"}, r"found the name 'a/b', expected a folder name"),
        (
            {"prompt": "Find {expresion}."},
            r"prompt 'Find \{expresion\}.': found 'expresion', expected only \{expression\}, \{phrases\}",
        ),
        ({"protocol": "region_description"}, r"format 'mdetr' gives no region, gt_boxes"),
    ],
)
def test_mistakes_in_the_configuration(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    given = {
        "name": "refcoco",
        "protocol": "rec",
        "format": "mdetr",
        "path": str(mdetr(tmp_path)),
        "images": str(tmp_path),
        **changes,
    }
    with pytest.raises(ConfigError, match=message):
        go(Run(str(tmp_path / "run")), EvaluationConfig((BenchmarkConfig(**given),)), {"base": never})


def test_a_limit_of_all_benchmarks_and_one_of_its_own(tmp_path: Path) -> None:
    for own, whole, expected in ((None, 4, 4), (2, 4, 2), (4, 2, 2), (None, None, ITEMS)):
        run = Run(str(tmp_path / f"{own}{whole}"))
        go(
            run,
            replace(config(mdetr(tmp_path), limit=own), limit=whole),
            {"base": partial(scripted, ANSWERS)},
        )
        assert run.read_json("evaluation", "refcoco", "base", "metrics.json")["n"] == expected


def test_an_image_that_the_dialect_cannot_show_is_a_failed_answer(tmp_path: Path) -> None:
    """Qwen2.5-VL refuses aspects above 200: the region cannot be written. The item is a row, wrong and
    counted, and the model is not asked.
    """
    rows = [
        {
            "image": "a.jpg",
            "width": w,
            "height": 10,
            "box": [0, 0, 5, 5],
            "objects": [{"category": "dog", "box": [0, 0, 5, 5]}],
        }
        for w in (3000, 100)
    ]
    (tmp_path / "regions.json").write_text(json.dumps(rows))
    benchmark = BenchmarkConfig(
        "r", "region_description", "regions_json", str(tmp_path / "regions.json"), check_images=False
    )
    run, model = Run(str(tmp_path / "run")), Scripted()
    dialect = get_dialect("qwen2_5_vl")
    ask(run, EvaluationConfig((benchmark,)), dialect, {"base": lambda: model}, folder="e")
    metrics = run.read_json("e", "r", "base", "metrics.json")
    assert (metrics["n"], metrics["failed"], len(model.seen)) == (2, 1, 1)


def test_a_missing_image_is_named_with_its_row(tmp_path: Path) -> None:
    path = mdetr(tmp_path)
    (tmp_path / "b.png").unlink()
    with pytest.raises(
        DataError,
        match=r"finetune_refcoco_val.json.images\[1\]: found no image .*b.png, expected it under `images`",
    ):
        go(Run(str(tmp_path / "run")), config(path), {"base": never})
