"""The embedded world in every published form: read back, answered perfectly and badly, measured."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from spr.dialects import Dialect, get_dialect
from spr.evaluation.config import BenchmarkConfig, EvaluationConfig
from spr.evaluation.items import Item
from spr.evaluation.readers import FORMATS, read_benchmark
from spr.evaluation.stage import size_of
from spr.store.run import Run
from spr.types import Box
from tests.support.benchmark_forms import World, write_refer
from tests.unit.evaluation.scripted import Scripted, ask

REC = ("refer", "mdetr", "qwen", "shikra", "hf_refcoco", "lmms_refcoco", "ref_l4", "refcoco_m")
FERRET = get_dialect("ferret")
QWEN3 = get_dialect("qwen3_vl")  # phrases are marked, so both ways of matching phrases run


def parts_of(item: Item, protocol: str) -> list[str | tuple[str | None, list[Box]]]:
    """The perfect answer to an item."""
    if protocol == "rec":
        assert item.gt is not None
        return [(item.expression, [item.gt])]
    if protocol in ("many_boxes", "absent_rec"):
        return [(item.expression, [box]) for box in item.gt_boxes] or ["There is none."]
    if protocol == "phrase_grounding":
        return [(p.phrase, [p.boxes[0]]) for p in item.phrases]
    if protocol == "region_description":
        return [(f"a {name}", [box]) for name, box in zip(item.truth, item.gt_boxes, strict=True)]
    return [item.truth[0].title() if protocol == "pope" else item.truth[0]]


def written(item: Item, protocol: str, dialect: Dialect) -> str:
    parts = parts_of(item, protocol)
    if dialect is FERRET:
        return ", ".join(p if isinstance(p, str) else dialect.compose([p], item.frame) for p in parts)
    return parts[0] if isinstance(parts[0], str) else dialect.compose(parts, item.frame)


def items_of(benchmark: BenchmarkConfig) -> list[Item]:
    return read_benchmark(benchmark, size_of)[0]


def measured(
    tmp_path: Path, benchmark: BenchmarkConfig, dialect: Dialect, answers: Mapping[str, str]
) -> dict[str, float | None]:
    run = Run(str(tmp_path / "run" / dialect.name))
    section = EvaluationConfig((benchmark,), bootstrap=20)
    ask(run, section, dialect, {"base": lambda: Scripted(dict(answers))})
    found = run.read_json("evaluation", benchmark.name, "base", "metrics.json")
    assert found["n"] > 0
    return {k: v["value"] for k, v in found["values"].items()}


@pytest.mark.parametrize("name", REC)
def test_all_forms_of_rec_say_the_same(
    name: str, benchmarks: Mapping[str, BenchmarkConfig], world: World
) -> None:
    """One world, eight files: the same expressions with the same boxes on the same images, whatever the
    convention of the file.
    """
    truth = sorted((f"{i:06d}.jpg", text, o.box) for i, o, texts in world.refs() for text in texts)
    found = sorted((Path(item.image).name, item.expression, item.gt) for item in items_of(benchmarks[name]))
    assert found == truth
    assert {(item.width, item.height) for item in items_of(benchmarks[name])} == {(224, 224)}
    assert all(Path(item.image).exists() for item in items_of(benchmarks[name])), (
        "pictures inside Parquet files are unpacked"
    )


def test_every_form_is_exported(benchmarks: Mapping[str, BenchmarkConfig]) -> None:
    """regions_json is what spr.scenes.files writes beside these."""
    assert {b.format for b in benchmarks.values()} | {"regions_json"} == set(FORMATS)


PERFECT = {
    "rec": ("acc@0.9", "parse_rate"),
    "phrase_grounding": ("r1_merged@0.9", "r1_any@0.9", "matched"),
    "many_boxes": ("recall@0.5", "precision@0.5", "density_f1@0.5:0.95", "rejected"),
    "absent_rec": ("rejected",),
    "region_description": (
        "box_precision@0.9",
        "box_recall@0.9",
        "named_recall@0.9",
        "categories_named",
        "parse_rate",
    ),
    "region_classification": ("accuracy",),
    "region_choice": ("accuracy",),
    "pope": ("accuracy", "precision", "recall", "f1"),
}
NAMES = (
    *REC,
    "flickr30k",
    "flickr30k_mdetr",
    "humanref",
    "grefcoco",
    "absent",
    "objects",
    "regions",
    "lvis",
    "pope",
    "refcocog_captions",
    "vg_captions",
)


# asked in a notation with marked phrases too
MARKED = ("mdetr", "flickr30k", "flickr30k_mdetr", "humanref", "regions")


@pytest.mark.parametrize(
    ("name", "dialect"),
    [*((n, FERRET) for n in NAMES), *((n, QWEN3) for n in MARKED)],
    ids=lambda v: v if isinstance(v, str) else v.name,
)
def test_a_perfect_model_is_perfect_and_a_silent_one_is_not(
    name: str, dialect: Dialect, benchmarks: Mapping[str, BenchmarkConfig], tmp_path: Path
) -> None:
    """Perfect answers, written in the dialect (so rounded to thousandths), reach the highest value; empty
    ones the lowest, or none.
    """
    benchmark = benchmarks[name]
    answers = {
        f"{item.split}/{item.item_id}": written(item, benchmark.protocol, dialect)
        for item in items_of(benchmark)
    }
    best = measured(tmp_path / "best", benchmark, dialect, answers)
    silent = measured(tmp_path / "silent", benchmark, dialect, {})
    if benchmark.protocol == "region_caption":
        assert (best["cider"] or 0) > (5 if name == "refcocog_captions" else 2.4), (
            "captions of two words have no runs of three and four"
        )
        assert silent["cider"] == 0.0
        return
    for metric in PERFECT[benchmark.protocol]:
        # a thousandth of 224 px is too coarse for IoU 0.95 on some boxes
        reached = 0.95 if metric.endswith("0.5:0.95") else 1.0
        assert (best[metric] or 0) >= reached, metric
        assert silent[metric] in (0.0, None), metric


def test_captions_of_refer_have_all_sentences(
    benchmarks: Mapping[str, BenchmarkConfig], world: World
) -> None:
    truth = [tuple(texts) for _, _, texts in world.refs()]
    assert [item.truth for item in items_of(benchmarks["refcocog_captions"])] == truth


def test_paths_by_split_make_groups_of_their_own(world: World, tmp_path: Path) -> None:
    folder = str(write_refer(world, tmp_path))
    benchmark = BenchmarkConfig(
        "both",
        "rec",
        "refer",
        paths={"refcoco/val": folder, "again/val": folder},
        images=str(world.images),
        reader={"split_by": "unc"},
    )
    items, notes = read_benchmark(benchmark)
    assert len({(i.split, i.item_id) for i in items}) == len(items)
    assert "the published split has 3811 and 10834" in notes[0]
    run = Run(str(tmp_path / "run"))
    right = {f"{i.split}/{i.item_id}": written(i, "rec", FERRET) for i in items if i.split == "again/val"}
    ask(run, EvaluationConfig((benchmark,)), FERRET, {"base": lambda: Scripted(right)}, folder="e")
    metrics = run.read_json("e", "both", "base", "metrics.json")
    assert {s: v["values"]["acc@0.5"]["value"] for s, v in metrics["splits"].items()} == {
        "again/val": 1.0,
        "refcoco/val": 0.0,
    }
    assert metrics["mean_over_splits"]["acc@0.5"]["value"] == 0.5
    assert metrics["notes"] == notes
