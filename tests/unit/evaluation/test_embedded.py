"""Every form through the embedded model: file -> questions -> generated answers -> metrics, in the suite, on
a CPU.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from spr.data.full_paths import FullPaths
from spr.dialects import get_dialect
from spr.evaluation.config import BenchmarkConfig, EvaluationConfig
from spr.evaluation.rows import read_predictions
from spr.models.hf_mllm import HFDescriber
from spr.scenes.embedded import checkpoint_folder
from spr.store.run import Run
from spr.store.runtime import RuntimeConfig
from spr.types import Prediction
from tests.unit.evaluation.scripted import ask


def test_every_form_runs_through_the_embedded_model(
    benchmarks: Mapping[str, BenchmarkConfig], tmp_path: Path
) -> None:
    """Two items of each form, every image a shard of its own; for some forms again in one shard, which must
    give the same rows.
    """
    sections = [replace(b, limit=2, max_new_tokens=8) for b in benchmarks.values()]
    describer = HFDescriber(str(checkpoint_folder("mllm")), load_image=FullPaths().load)
    rows: dict[int, dict[str, list[Prediction]]] = {}
    for size, chosen in (
        (1, sections),
        (256, [b for b in sections if b.name in ("mdetr", "regions", "pope")]),
    ):
        run = Run(str(tmp_path / str(size)))
        section = EvaluationConfig(tuple(chosen), bootstrap=10)
        runtime = RuntimeConfig(1, 1, size)
        ask(run, section, get_dialect("florence2"), {"base": lambda: describer}, runtime)
        rows[size] = {b.name: read_predictions(run, "evaluation", b.name, "base") for b in chosen}
        for b in chosen:
            metrics = run.read_json("evaluation", b.name, "base", "metrics.json")
            assert metrics["n"] >= 2
            assert metrics["failed"] == 0
    assert all(rows[1][name] == found for name, found in rows[256].items())
    assert any(r.answer.strip() for found in rows[1].values() for r in found)
