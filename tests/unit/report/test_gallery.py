"""The report in a browser: filters and keys work, nothing is fetched, nothing is logged, and it fits a phone.
The run is made by hand, the files are real.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from spr.dialects import get_dialect
from spr.evaluation.protocols import protocol_named
from spr.evaluation.protocols.rec import RecOptions
from spr.evaluation.results import compare, measure
from spr.evaluation.rows import write_predictions
from spr.report.build import build_report
from spr.store.executor import Stage, finish
from spr.store.identity import Origin
from spr.store.run import Run
from spr.types import Frame, Prediction, Score, TrainingPair
from tests.support.pages import refused

EVIL = "</script><script>alert(1)</script>"
DIALECT = get_dialect("florence2")
REC = protocol_named("rec")
FRAME = Frame(200, 150)
CHROMIUM = shutil.which("chromium")


def _row(k: int, iou: float | None) -> Prediction:
    truth = (0.0, 0.0, 100.0, 100.0)
    box = None if iou is None else (0.0, 0.0, 100.0, 100.0 * iou)
    answer = "nothing" if box is None else DIALECT.compose([("the cat", [box])], FRAME)
    name = EVIL if k == 0 else f"the cat {k}"
    boxes = () if box is None else (box,)
    return Prediction(
        f"i{k}",
        "rec",
        "test",
        f"image{k % 3}",
        name,
        truth,
        answer,
        box,
        iou,
        width=200,
        height=150,
        boxes=boxes,
    )


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Two items became right, one became wrong, one cannot be read any more; and three pairs, of two and of
    six objects.
    """
    run = Run(str(tmp_path_factory.mktemp("run")))
    before = [_row(k, iou) for k, iou in enumerate((0.6, 0.7, 0.9, 0.6, 0.9))]
    after = [_row(k, iou) for k, iou in enumerate((0.9, 0.95, 0.5, None, 0.9))]
    for model, rows in (("base", before), ("spr", after)):
        write_predictions(run, rows, None, [], "evaluation", "test", model)
        run.write_json(measure(rows, REC, RecOptions(), 100, 0), "evaluation", "test", model, "metrics.json")
    run.write_json(
        compare({"base": before, "spr": after}, REC, RecOptions(), 100, 0),
        "evaluation",
        "test",
        "comparison.json",
    )
    score = Score(0.5, 0.5, 0.5, 0.5, 0.5, None)
    boxes = tuple((20.0 * n, 0.0, 20.0 * n + 15, 40.0) for n in range(6))
    pairs = []
    for k, count in enumerate((2, 6, 6)):
        texts = [
            EVIL + DIALECT.compose([("a cat", [b]) for b in boxes[:count]], FRAME),
            DIALECT.compose([("a dog", [boxes[0]])], FRAME),
        ]
        pairs.append(
            TrainingPair(
                f"p{k}",
                "image0",
                200,
                150,
                (0, 0, 150, 100),
                "?",
                *texts,
                0.1 * k,
                0,
                1,
                score,
                score,
                boxes[:count],
            )
        )
    run.write_shard(0, pairs, TrainingPair, [], [], "pairs")
    nothing: Any = None  # every shard is there
    finish(run, Stage(Origin("pair", {}, {}), ("pairs",), TrainingPair, nothing), 1)

    def load(name: str) -> Image.Image:
        return Image.new("RGB", (200, 150), "gray")

    return build_report(run, DIALECT, load, load)


def test_text_of_models_and_data_is_text(page: str) -> None:
    assert EVIL not in page
    assert refused(page) == []
    assert page.count("<script") == page.count("</script") == 1
    assert "&lt;/script&gt;" in page


def test_a_picture_is_embedded_once_however_often_it_is_shown(page: str) -> None:
    assert page.count("data:image/jpeg") == 4  # three of the benchmark, one of the data set
    assert page.count("<use ") == 2 * 7


def test_a_mention_has_the_colour_of_its_box(page: str) -> None:
    pair = page[page.index(">p1<") :]
    pair = pair[: pair.index("</article>")]
    for colour in ("m0", "m5"):
        assert f'<rect class="o {colour}"' in pair
        assert f'<mark class="{colour}">' in pair


DRIVER = """
<script>
const wrong = [];
addEventListener("error", (e) => wrong.push(e.message));
addEventListener("securitypolicyviolation", (e) => wrong.push(e.blockedURI));
console.error = (...all) => wrong.push(all.join(" "));
addEventListener("load", () => {
  const cards = () => [...document.querySelectorAll(".gallery .card")].filter((c) => c.checkVisibility());
  const seen = () => cards().map((c) => c.querySelector("h3").textContent);
  const press = (name, value) =>
    document.querySelector(`[data-filter="${name}"][data-value="${value}"]`).click();
  const key = (key) => {
    const event = new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true });
    document.activeElement.dispatchEvent(event);
  };
  const result = { all: seen().length };
  press("outcome", "became wrong"); result.wrong = seen(); result.hash = location.hash;
  press("outcome", "unparsed"); result.unparsed = seen();
  press("outcome", ""); press("from", "pairs"); press("objects", "5 or 6"); result.pairs = seen();
  result.count = document.querySelector("output").textContent;
  result.pressed = [...document.querySelectorAll("[aria-pressed=true]")].map((b) => b.dataset.value);
  key("j"); result.first = document.activeElement.querySelector("h3").textContent;
  key("ArrowRight"); result.second = document.activeElement.querySelector("h3").textContent;
  key("Enter"); result.enlarged = document.querySelector("dialog[open] h3").textContent;
  key("k"); result.back = document.querySelector("dialog[open] h3").textContent;
  document.querySelector("dialog").close();
  press("from", ""); press("objects", "");
  result.sideways = document.documentElement.scrollWidth - document.documentElement.clientWidth;
  result.width = innerWidth;
  const fetched = performance.getEntriesByType("resource").map((e) => e.name);
  result.fetched = fetched.filter((name) => !name.startsWith("data:"));
  parent.postMessage(JSON.stringify({ ...result, errors: wrong }), "*");
});
</script>
"""


OUTER = """<!doctype html><iframe src="report.html" style="width:WIDTHpx;height:800px;border:0"></iframe>
<script>
addEventListener("message", (e) => {
  const pre = document.createElement("pre");
  pre.id = "result";
  pre.textContent = e.data;
  document.body.append(pre);
});
</script>"""


def _in_browser(page: str, folder: Path, width: int) -> dict[str, object]:
    """What the driver saw. The page stands in a frame of that width, because a window of chromium is never
    narrower than 500 pixels.
    """
    (folder / "report.html").write_text(page.replace("<title>", DRIVER + "<title>", 1), encoding="utf-8")
    (folder / "outer.html").write_text(OUTER.replace("WIDTH", str(width)), encoding="utf-8")
    options = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={folder / 'profile'}",
        "--virtual-time-budget=5000",
    ]
    command = [CHROMIUM or "", *options, "--dump-dom", (folder / "outer.html").as_uri()]
    for _ in range(2):
        with contextlib.suppress(subprocess.SubprocessError):
            done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
            if found := re.search(r'<pre id="result">(.*?)</pre>', done.stdout, re.DOTALL):
                break
    else:
        pytest.skip("chromium does not start here, twice: that says nothing about the page")
    result: dict[str, object] = json.loads(
        found.group(1).replace("&gt;", ">").replace("&lt;", "<").replace("&amp;", "&")
    )
    return result


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_in_chromium(page: str, tmp_path: Path, width: int) -> None:
    result = _in_browser(page, tmp_path, width)
    assert result["errors"] == []
    assert result["fetched"] == []
    assert result["width"] == width
    assert result["sideways"] == 0
    assert result["all"] == 7
    assert result["wrong"] == ["the cat 2"]
    assert result["hash"] == "#outcome=became+wrong"
    assert result["unparsed"] == ["the cat 3"]
    assert result["pairs"] == ["p2", "p1"]
    assert result["count"] == "2 of 7 shown."
    assert result["pressed"] == ["pairs", "", "5 or 6"]
    assert [result[k] for k in ("first", "second", "enlarged", "back")] == ["p2", "p1", "p1", "p2"]
