"""Pictures of the report: text of models and data is escaped everywhere, and coordinates stay those of the
image.
"""

from __future__ import annotations

import math
import re

import pytest
from PIL import Image

from spr.report.pictures import Outline, Series, bars, data_uri, line_plot, marked, overlay

EVIL = '<script>alert("x")</script>'


def test_text_of_a_model_never_becomes_markup() -> None:
    image = Image.new("RGB", (20, 10))
    for html in (
        overlay(image, [Outline((1, 2, 3, 4), "chosen", EVIL)], EVIL),
        marked(f"a {EVIL} b", [(2, 2 + len(EVIL), EVIL, "m0")]),
        line_plot(EVIL, [Series(EVIL, "base", [0, 1], [0, 1])], EVIL, EVIL),
        bars([(EVIL, 0.5, None)], ("chosen", "rejected")),
    ):
        assert "<script" not in html
        assert "&lt;script&gt;" in html


def test_overlay_keeps_pixel_coordinates_and_sorts_reversed_boxes() -> None:
    html = overlay(Image.new("RGB", (200, 100)), [Outline((50, 60, 20, 30), "rejected")], "x")
    assert 'viewBox="0 0 200 100"' in html
    # a reversed box is drawn where it is, not with a negative size
    assert 'x="20.0" y="30.0" width="30.0" height="30.0"' in html


def test_marks_keep_every_character_of_the_text() -> None:
    for quiet in (None, re.compile(r"\[.*?\]")):
        html = marked("a cat [1, 2] and a dog", [(2, 12, "1", "m0")], quiet)
        assert re.sub(r"<sup>.*?</sup>|<[^>]+>", "", html) == "a cat [1, 2] and a dog"
        assert ("<i>[1, 2]</i>" in html) == (quiet is not None)


def test_a_large_image_is_embedded_small_and_a_palette_image_works() -> None:
    assert data_uri(Image.new("P", (4000, 3000))).startswith("data:image/jpeg;base64,")
    assert len(data_uri(Image.new("RGB", (4000, 3000)))) < 20_000


@pytest.mark.parametrize(
    "y",
    [
        [0.5, 0.5, 0.5],  # a flat line has no height to scale by
        [1.0, math.nan, 2.0],  # a step without a figure is left out
        [-1e-9, 1e9, 0.0],  # extreme range
    ],
)
def test_plots_survive_awkward_series(y: list[float]) -> None:
    html = line_plot("t", [Series("s", "base", [0, 1, 2], y)], "x", "y", zero=True)
    assert "nan" not in html
    assert html.count("<polyline") == 1


def test_a_plot_without_figures_is_a_sentence() -> None:
    assert "no figures" in line_plot("Loss", [Series("s", "base", [], [])], "x", "y")


def test_a_missing_score_is_a_dash_not_a_zero() -> None:
    assert "–" in bars([("crop", None, 0.25)], ("chosen", "rejected"))
