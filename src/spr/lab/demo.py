"""`spr demo`: the whole loop on the embedded world. The configuration is demo.yaml beside this file;
`--quick` takes less of everything and says so.

In: a folder. Out: a run folder with report.html, and its tables. Running it again does nothing; a killed run
goes on.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from spr.evaluation.tables import comparison_table
from spr.run.pipeline import run_pipeline
from spr.run.wiring import load_config
from spr.store.folders import COMPARISON, EVALUATION, METRICS, REPORT
from spr.store.progress import Progress
from spr.store.run import Run

CONFIG = Path(__file__).with_name("demo.yaml")
LABEL = "QUICK RUN on a tenth of the data: it shows that everything works, its numbers mean little."
QUICK = ("regions.max_images=160", "evaluate.limit=200", f"label={json.dumps(LABEL)}")
TITLES: Mapping[str, str] = {
    "test": "Referring expressions, held-out scenes",
    "shifted": "Referring expressions, shifted scenes (more and smaller things, rougher and darker "
    "backgrounds)",
    "test_describe": "Grounded descriptions of regions",
    "test_what_is_at": "What is at this box?",
}
_REC = ("acc@0.5", "acc@0.6", "acc@0.7", "acc@0.8", "acc@0.9", "mean_iou")
COLUMNS: Mapping[str, Sequence[str]] = {
    "test": _REC,
    "shifted": _REC,
    "test_describe": ("f1@0.5", "f1@0.7", "f1@0.9", "box_f1@0.9", "boxes_per_answer", "words_per_answer"),
    "test_what_is_at": ("accuracy",),
}


def run_demo(out: Path | None, quick: bool, progress: Progress) -> str:
    """Run or finish the demo in `out` (default: runs/demo, runs/demo-quick). Returns its tables, and where
    the report is.
    """
    out = out or Path("runs") / ("demo-quick" if quick else "demo")
    config = load_config(CONFIG, [f"run={out.absolute()}", *(QUICK if quick else ())])
    run = run_pipeline(config, progress)
    return f"{config.label}\n\n{tables(run)}\n\nReport: {run.path(REPORT)}"


def tables(run: Run) -> str:
    """The results in Markdown: change against the base in points, * where the 95 % interval of the change
    excludes 0.
    """
    parts = []
    for benchmark, title in TITLES.items():
        comparison = run.read_json(EVALUATION, benchmark, COMPARISON)
        if comparison is None:
            continue
        models = [comparison["reference"], *comparison["models"]]
        found = {m: run.read_json(EVALUATION, benchmark, m, METRICS) for m in models}
        parts.append(f"**{title}**\n\n{comparison_table(found, comparison, COLUMNS[benchmark])}")
    return "\n\n".join(parts)
