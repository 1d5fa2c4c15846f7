"""`spr demo`: the whole loop on the embedded world. The configuration is demo.yaml beside this file; `--quick` takes less of everything and says so.

In: a folder. Out: a run folder with report.html. Running it again does nothing; a killed run goes on.
"""

from __future__ import annotations

from pathlib import Path

from spr.executor import Progress
from spr.pipeline import run_pipeline
from spr.wiring import load_config

CONFIG = Path(__file__).with_name("demo.yaml")
QUICK = ("regions.max_images=160", "evaluate.limit=200")  # a tenth of the data


def run_demo(out: Path, quick: bool, progress: Progress) -> Path:
    """Run or finish the demo in `out`. Returns the path of the report."""
    config = load_config(CONFIG, [f"run={out.absolute()}", *(QUICK if quick else ())])
    run = run_pipeline(config, progress)
    return Path(run.path("report.html"))
