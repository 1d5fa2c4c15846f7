"""The scripted models stand behind the same ports and need no torch."""

from __future__ import annotations

import subprocess
import sys

from spr.models.scripted import ScriptedDescriber, ScriptedDetector, ScriptedScorer
from spr.ports import Describer, Detector, ImageTextScorer
from spr.types import Answer, Detection, Query, Sampling


def test_the_describer_says_its_lines() -> None:
    describer = ScriptedDescriber(
        lambda q, k: f"{q.prompt} {k}" if q.item_id != "bad" else Answer("", failed="asked to fail")
    )
    assert isinstance(describer, Describer)
    found = describer.answer([Query("a", "x", 1, 1, "what?"), Query("bad", "x", 1, 1, "?")], Sampling(n=2))
    assert found == [[Answer("what? 0"), Answer("what? 1")], [Answer("", failed="asked to fail")] * 2]


def test_the_scorer_takes_pairs() -> None:
    scorer = ScriptedScorer(lambda image, region, text: (region[0] / 10, len(text) / 10))
    assert isinstance(scorer, ImageTextScorer)
    crop, local = scorer.similarities("x", [(1, 0, 2, 2), (3, 0, 4, 2)], ["a", "bb"], [(1, 0), (0, 1)])
    assert (crop.tolist(), local.tolist()) == ([0.3, 0.1], [0.1, 0.2])
    assert scorer.similarities("x", [], [], [])[0].shape == (0,)


def test_the_detector_finds_what_is_listed_best_first() -> None:
    detector = ScriptedDetector({"x": {"Cat": [((0, 0, 1, 1), 0.2), ((1, 1, 2, 2), 0.9)]}})
    assert isinstance(detector, Detector)
    assert detector.detect("x", ["cat", "dog"]) == [
        [Detection((1, 1, 2, 2), 0.9, "cat"), Detection((0, 0, 1, 1), 0.2, "cat")],
        [],
    ]
    assert detector.detect("y", ["cat"]) == [[]]


def test_no_torch_is_loaded() -> None:
    code = (
        "import sys, spr.models.scripted; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
