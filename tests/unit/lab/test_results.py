"""`make results`: its rows share what they can, its verdicts say what the figures say, and its table can be
computed again from the answers alone.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from spr.evaluation.protocols.rec import RecOptions, tabulate
from spr.evaluation.rows import read_predictions, write_predictions
from spr.evaluation.statistics import Bootstrap
from spr.lab.demo import CONFIG
from spr.lab.results import SEEDS, TABLE, answers_of, page, plots, rec_table, settings
from spr.lab.verdicts import GROWTH, Measurements, between, verdicts
from spr.run.ablate import plan
from spr.run.wiring import Config, load_config
from spr.store.folders import ROUNDS
from spr.store.run import Run
from spr.types import Prediction

ITEMS = 120
ROOT = Path(__file__).parents[3]
RECOMPUTE = ROOT / "docs" / "results_table.py"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Config:
    return load_config(CONFIG, [f"run={tmp_path_factory.mktemp('run')}"])


def test_rows_share_what_they_can(base: Config) -> None:
    """Thirty-six rows, but one round of descriptions and as many sets of pairs as there are ways to score and
    pair.
    """
    variants = plan(base, ("rows",), settings(base, SEEDS))
    assert len(variants) == len(TABLE) * len(SEEDS)
    counts = {
        folder: len({v.run.path(folder) for v in variants}) for folder in ("candidates", "scores", "pairs")
    }
    assert counts == {"candidates": 1, "scores": 3, "pairs": 8}
    adapters = {v.run.path("adapter", name) for v in variants for name in v.config.adapters}
    assert len(adapters) == 3 * (len(TABLE) - 1)  # two rounds begin with the adapter of one
    assert len({v.run.path(ROUNDS, "spr") for v in variants if v.name.startswith("spr_two_rounds")}) == 3


def _box(iou: float) -> tuple[float, float, float, float]:
    """A box whose IoU with (0, 0, 100, 100) is that."""
    return 0.0, 0.0, 100.0, 100.0 * iou


def _answers(ious: Sequence[float | None]) -> list[Prediction]:
    rows = []
    for k, iou in enumerate(ious):
        box = None if iou is None else _box(iou)
        boxes = () if box is None else (box,)
        rows.append(
            Prediction(
                f"i{k}",
                "rec",
                "test",
                f"image{k // 2}",
                "the cat",
                _box(1.0),
                "a",
                box,
                iou,
                width=200,
                height=200,
                boxes=boxes,
            )
        )
    return rows


def _described(good: float, rng: np.random.Generator) -> list[Prediction]:
    rows = []
    for k in range(ITEMS // 4):
        n = 4 + k % 3
        truth = tuple((10.0 * i, 0.0, 10.0 * i + 10, 10.0) for i in range(n))
        boxes = tuple(b if rng.random() < good else (b[0], 0.0, b[2], 8.0) for b in truth)
        names = ("a cat",) * n
        rows.append(
            Prediction(
                f"d{k}",
                "region_description",
                "test",
                f"image{k}",
                "",
                None,
                "a",
                boxes[0],
                None,
                width=200,
                height=200,
                region=(0, 0, 100, 10),
                gt_boxes=truth,
                truth=("cat",) * n,
                boxes=boxes,
                phrases=names,
                plain="a cat",
                gt_phrases=names,
            )
        )
    return rows


def _named(right: float, rng: np.random.Generator) -> list[Prediction]:
    return [
        Prediction(
            f"w{k}",
            "region_classification",
            "test",
            f"image{k}",
            "",
            None,
            "a",
            None,
            None,
            truth=("cat",),
            plain="cat" if rng.random() < right else "dog",
        )
        for k in range(ITEMS)
    ]


@pytest.fixture(scope="module")
def measured(base: Config) -> Measurements:
    """Answers of every row: loose boxes before, tight ones after; only rows without refinement stay loose."""
    variants = plan(base, ("rows",), settings(base, SEEDS))
    run = Run(base.run)
    files = answers_of(variants, SEEDS, run)
    for row, benchmarks in files.items():
        tight = row != "base" and not row.endswith("_original")
        for benchmark, paths in benchmarks.items():
            for k, path in enumerate(paths):
                rng = np.random.default_rng([k, len(row)])
                where = path.split("/")[:-1]
                if benchmark == "test_describe":
                    write_predictions(run, _described(0.8 if tight else 0.1, rng), None, [], *where)
                elif benchmark == "test_what_is_at":
                    write_predictions(run, _named(0.7, np.random.default_rng(1)), None, [], *where)
                else:
                    found = [
                        None
                        if i % 11 == 0
                        else (0.92 if tight else 0.5) + (0.05 if tight else 0.45) * float(rng.random())
                        for i in range(ITEMS)
                    ]
                    write_predictions(run, _answers(found), None, [], *where)
    run.write_json([{"row": row, "answers": answers} for row, answers in files.items()], "rows.json")
    return Measurements(run, base.evaluate, files, {row.name: "100" for row in TABLE})


def test_the_script_in_docs_computes_the_table_again(measured: Measurements, base: Config) -> None:
    """Thirty lines of numpy and pyarrow, which know nothing of this package, against our own bootstrap."""
    printed = subprocess.run(
        [sys.executable, str(RECOMPUTE), base.run], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    theirs = {(line.split()[0], line.split()[1]): re.findall(r"[\d.]+ \([^)]*\)", line) for line in printed}
    assert len(theirs) == 2 * (len(TABLE) + 1)
    for benchmark in ("test", "shifted"):
        lines = rec_table(measured, benchmark).splitlines()[4:]
        for name, line in zip(["base", *(row.name for row in TABLE)], lines, strict=True):
            ours = line.split("|")[2:7]
            expected = (
                theirs[benchmark, name]
                if name != "base"
                else [cell.split()[0] for cell in theirs[benchmark, name]]
            )
            assert [cell.strip() for cell in ours] == expected, name


def test_verdicts_follow_from_the_figures(measured: Measurements) -> None:
    """Here the gain grows, equals that of imitation whatever lambda is, comes from refinement, and costs
    nothing.
    """
    found = {claim.title[:3]: claim.verdict for claim in verdicts(measured)}
    assert found["(a)"] == "Holds"
    assert found["(b)"] == found["(c)"] == "Not seen"
    assert found["(d)"].startswith("Plain DPO: holds")
    assert found["(e)"] == "Holds"
    assert found["(f)"] == "Holds"


def test_the_page_holds_every_row_and_claim(measured: Measurements) -> None:
    text = page(measured, SEEDS, "a label")
    assert "**a label**" in text
    for row in TABLE:
        assert row.label in text
    assert text.count("### (") == 6
    intervals = re.findall(r"[+-]\d+\.\d \[[+-]\d+\.\d, [+-]\d+\.\d\] \|", text)
    assert len(intervals) == 2 * 5 * len(TABLE)
    assert "nan" not in text
    for name, svg in plots(measured).items():
        assert name in text
        assert svg.count("<polyline") == 5
        assert "http" not in svg.replace("http://www.w3.org/2000/svg", "")


def test_the_readme_quotes_the_page_that_was_printed() -> None:
    """A table that is copied by hand goes stale: every line of it stands in docs/results.md as `make results`
    wrote it.
    """
    shown = (
        (ROOT / "README.md")
        .read_text(encoding="utf-8")
        .split("<!-- results:begin -->")[1]
        .split("<!-- results:end -->")[0]
    )
    lines = [line for line in shown.splitlines() if line.startswith("|")]
    printed = (ROOT / "docs" / "results.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) > 5
    assert [line for line in lines if line not in printed] == []


def test_growth_is_the_gain_at_the_strictest_minus_that_at_the_loosest_threshold(
    measured: Measurements,
) -> None:
    changes = measured.of("spr", "test").changes
    strict, loose, growth = (changes[name].value for name in ("acc@0.9", "acc@0.5", GROWTH))
    assert strict is not None
    assert loose is not None
    assert growth == pytest.approx(strict - loose)


def test_between_compares_some_of_the_items_with_the_others(measured: Measurements, base: Config) -> None:
    rows = read_predictions(Run(base.run), "evaluation", "test", "base")
    table, some = tabulate(rows, RecOptions()), np.arange(len(rows)) % 3 == 0
    whole = np.ones(len(rows), dtype=bool)
    found = Bootstrap([r.image for r in rows], 10).estimates([(between(table, some), whole)])
    values = [
        np.mean(
            [r.iou is not None and r.iou >= 0.6 for r, keep in zip(rows, some, strict=True) if keep == side]
        )
        for side in (True, False)
    ]
    assert found["acc@0.6"].value == pytest.approx(values[0] - values[1])


def test_a_row_differs_only_in_what_it_says(base: Config) -> None:
    for row in TABLE:
        config = row.config(base, 7)
        assert (
            replace(config, score=base.score, pair=base.pair, adapters=base.adapters, evaluate=base.evaluate)
            == base
        )
