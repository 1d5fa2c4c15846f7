"""A finished run -> one self-contained HTML file: results first, then the loop in numbers, training, and a
gallery of items and pairs.

In: a run folder, its dialect, loaders of images. Out: the page as text. No network, by its own content
security policy; one script, which filters the gallery and moves through it, and without which everything is
shown. What came from a model or a data set is escaped (Jinja2 autoescape; pictures escape their own labels).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from spr.dialects import Dialect
from spr.report.gallery import gallery
from spr.report.loop import answer_figures, stage_rows, trainings
from spr.report.page import render
from spr.report.results import benchmark_views, headline
from spr.store.run import Run

LoadImage = Callable[[str], Image.Image]
SCRIPT = Path(__file__).with_name("gallery.js").read_text(encoding="utf-8")
LEAD = (
    "Spatial preference rewarding: a model describes image regions, its descriptions are scored for "
    "meaning and for the fit of their boxes, "
    "and preference training on repaired against worst answers teaches it to place boxes tightly. "
    "Base and trained model answer the same questions."
)
ART = "Pictures of the embedded world are composed of OpenMoji emojis (openmoji.org), CC BY-SA 4.0."


def build_report(
    run: Run, dialect: Dialect, load_image: LoadImage, load_any: LoadImage, label: str = ""
) -> str:
    """The report of a run, labelled. `load_image` loads images of the data set by name, `load_any` those of
    the benchmarks by full path.
    """
    known = run.read_json("environment.json") or {}
    return render(
        Path(__file__).with_name("report.html.j2"),
        f"SPR report: {run.root.rstrip('/').rsplit('/', 1)[-1]}",
        SCRIPT,
        label=label,
        lead=LEAD,
        benchmarks=benchmark_views(run),
        stages=stage_rows(run),
        answers=answer_figures(run),
        trainings=trainings(run),
        headline=headline(run),
        gallery=gallery(run, dialect, load_image, load_any),
        footer=[
            f"{dialect.contract}",
            json.dumps(known),
            ART,
        ],
    )
