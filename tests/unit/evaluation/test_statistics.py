"""Intervals and paired differences: what they must be where it can be said by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from spr.errors import DataError
from spr.evaluation.lmms import lmms_results
from spr.evaluation.protocols import PROTOCOLS
from spr.evaluation.results import compare, measure
from spr.evaluation.statistics import Bootstrap, Table, over, resamples
from spr.evaluation.tables import comparison_table, metrics_table, problem_list
from spr.types import Prediction

REC = PROTOCOLS["rec"]


def rows(ious: list[float | None], per_image: int = 1, split: str = "v") -> list[Prediction]:
    """A box of the wanted IoU with [0, 0, 100, 100] for each item."""
    made = []
    for k, value in enumerate(ious):
        box = None if value is None else (0.0, 0.0, 100.0, 100.0 * value)
        made.append(
            Prediction(
                f"{split}/{k}", "rec", split, f"{split}{k // per_image}", "x", (0, 0, 100, 100), "x", box,
                value, () if box else ("no_box", ), 200, 200,
                boxes=(box,) if box else (),
            )
        )  # fmt: skip
    return made


def test_resamples_draw_as_many_images_as_there_are() -> None:
    drawn = resamples(7, 50, 0)
    assert drawn.shape == (50, 7)
    assert (drawn.sum(axis=1) == 7).all()
    assert (drawn == resamples(7, 50, 0)).all()


def test_an_interval_covers_the_binomial_one() -> None:
    """400 items on 400 images, half of them right: the 95 % interval is 0.5 +- 1.96 * sqrt(0.25 / 400) = 0.5
    +- 0.049.
    """
    found = measure(rows([0.9, 0.1] * 200), REC, REC.options(), 2000, 0)["values"]["acc@0.5"]
    assert found["value"] == 0.5
    assert (found["low"], found["high"]) == (pytest.approx(0.451, abs=0.006), pytest.approx(0.549, abs=0.006))
    assert found["error"] == pytest.approx(0.025, abs=0.002)


def test_questions_of_one_image_are_not_independent() -> None:
    """The same answers, but ten questions an image, all right or all wrong: the interval is sqrt(10) as
    wide.
    """
    ious: list[float | None] = [0.9] * 10 + [0.1] * 10
    apart = measure(rows([0.9, 0.1] * 100), REC, REC.options(), 2000, 0)["values"]["acc@0.5"]
    together = measure(rows(ious * 10, per_image=10), REC, REC.options(), 2000, 0)["values"]["acc@0.5"]
    wide = (together["high"] - together["low"]) / (apart["high"] - apart["low"])
    assert wide == pytest.approx(10**0.5, rel=0.15)


def test_pairing_sees_what_two_intervals_cannot() -> None:
    """Every tenth item better, none worse: +0.1 with an interval that excludes 0, although each accuracy
    alone is +- 0.07.
    """
    before: list[float | None] = [0.9, 0.1] * 100
    after = [0.9 if k % 20 == 1 else v for k, v in enumerate(before)]
    found = compare({"base": rows(before), "spr": rows(after)}, REC, REC.options(), 1000, 0)["models"]["spr"]
    change = found["differences"]["acc@0.5"]
    assert change["value"] == pytest.approx(0.05)
    assert change["low"] > 0
    assert change["significant"]
    assert len(found["changed"]["acc@0.5"]["to_right"]) == 10
    assert found["changed"]["acc@0.5"]["to_wrong"] == []


def test_the_mean_over_splits_is_unweighted() -> None:
    found = measure(rows([0.9], split="a") + rows([0.1, 0.1, 0.1], split="b"), REC, REC.options(), 20, 0)
    assert found["values"]["acc@0.5"]["value"] == 0.25
    assert found["mean_over_splits"]["acc@0.5"]["value"] == 0.5


def test_an_undefined_metric_has_no_value_and_no_interval() -> None:
    table = Table({"a": np.zeros(3), "b": np.zeros(3)}, {"m": over("a", "b")}, {})
    estimate = Bootstrap(["x", "y", "z"], 20, 0).estimates([(table, np.ones(3, dtype=bool))])["m"]
    assert (estimate.value, estimate.low, estimate.high, estimate.error) == (None, None, None, None)


def test_no_items_at_all() -> None:
    found = measure([], REC, REC.options(), 20, 0)
    assert (found["n"], found["values"]["acc@0.5"]["value"]) == (0, None)


def test_models_on_different_items_are_not_compared() -> None:
    with pytest.raises(DataError, match="spr: found other items than those of base"):
        compare({"base": rows([0.9, 0.1]), "spr": rows([0.9])}, REC, REC.options(), 20, 0)


def test_tables_stand_beside_the_papers_row() -> None:
    before, after = rows([0.9, 0.1, None]), rows([0.9, 0.9, None])
    comparison = compare({"base": before, "spr": after}, REC, REC.options(), 50, 0)
    models = {
        name: measure(r, REC, REC.options(), 50, 0) for name, r in {"base": before, "spr": after}.items()
    }
    table = comparison_table(models, comparison).splitlines()
    assert table[0] == "| rec | acc@0.5 | acc@0.6 | acc@0.7 | acc@0.8 | acc@0.9 | n | unparsed |"
    assert table[3].startswith("| paper: Ferret-7B + SPR | 84.93 | 82.36 | 78.42 | 70.09 | 52.21 |")
    assert table[4].startswith("| base | 33.33 |")
    assert table[5].startswith("| spr | 66.67 (+33.33")
    assert table[5].endswith("| 3 | 1 |")
    assert "| unparsed | 1 |" in metrics_table(models["base"])


def test_problems_are_counted_once_an_answer_and_told_in_words() -> None:
    """Two kinds of foreign notation in one answer are one answer with such a problem, and two lines."""
    point, tag = "non_box_payload: a point: not read", "non_box_payload: tags of another notation"
    problems = [(point, tag), (tag,), ("no_box",)]
    answers = [replace(r, problems=p) for r, p in zip(rows([0.9, 0.1, None]), problems, strict=True)]
    metrics = measure(answers, REC, REC.options(), 50, 0)
    assert metrics["problems"] == {"no_box": 1, "non_box_payload": 2}
    told = ["2 of 3: tags of another notation", "1 of 3: a point: not read"]
    assert problem_list({"base": metrics}).splitlines()[-2:] == [f"- base: {line}" for line in told]
    assert metrics_table(metrics).splitlines()[-2:] == [f"- {line}" for line in told]
    assert problem_list({"base": measure(rows([0.9]), REC, REC.options(), 50, 0)}) == ""


def test_the_form_of_lmms_eval() -> None:
    """Its table builder reads results[task]["metric,filter"], "alias", n-shot and higher_is_better
    (lmms_eval/utils.py, make_table).
    """
    metrics = measure(rows([0.9, 0.1]), REC, REC.options(), 50, 0)
    strict = measure(rows([0.9, 0.1]), REC, REC.options(comparison=">"), 50, 0)
    found = lmms_results("spr", {"refcoco": metrics, "strict": strict})
    assert found["results"]["refcoco_v"]["refcoco_ACC@0.5,none"] == 0.5
    assert found["results"]["refcoco_v"]["refcoco_IoU,none"] == pytest.approx(0.5)
    assert (
        found["results"]["refcoco_v"]["refcoco_ACC@0.5_stderr,none"] == metrics["values"]["acc@0.5"]["error"]
    )
    assert "refcoco_ACC@0.5,none" not in found["results"]["strict_v"], (
        "another way of counting keeps our name"
    )
    assert found["n-samples"] == {
        "refcoco_v": {"original": 2, "effective": 2},
        "strict_v": {"original": 2, "effective": 2},
    }
    assert set(found["higher_is_better"]["refcoco_v"]) >= {"refcoco_ACC@0.5", "refcoco_IoU"}
