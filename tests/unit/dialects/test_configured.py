"""Contracts of one's own: what they mean, worked out by hand, and what cannot be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from spr.dialects import Dialect, Frame, get_dialect
from spr.errors import DialectError
from spr.types import Box

F = Frame(800, 400)
BOX: Box = (200.0, 100.0, 600.0, 300.0)

# options, how the box is written
CONTRACTS: list[tuple[dict[str, Any], str]] = [
    ({}, "250, 250, 750, 750"),
    ({"scale": 1024}, "256, 256, 768, 768"),
    ({"scale": 1}, "0.250, 0.250, 0.750, 0.750"),
    ({"scale": 1, "decimals": 2}, "0.25, 0.25, 0.75, 0.75"),
    ({"scale": 100}, "25, 25, 75, 75"),
    ({"scale": 448}, "112, 112, 336, 336"),  # a fixed square of 448 pixels
    ({"scale": "pixels"}, "200, 100, 600, 300"),
    ({"scale": "pixels", "longest_side": 400}, "100, 50, 300, 150"),
    ({"scale": "pixels", "longest_side": 1000}, "200, 100, 600, 300"),  # smaller images stay
    ({"order": "yxyx"}, "250, 250, 750, 750"),
    ({"order": "yxyx", "scale": "pixels"}, "100, 200, 300, 600"),
    ({"order": "xxyy", "scale": "pixels"}, "200, 600, 100, 300"),
    ({"order": "yyxx", "scale": "pixels"}, "100, 300, 200, 600"),
    ({"order": "xywh", "scale": "pixels"}, "200, 100, 400, 200"),
    ({"order": "yxhw", "scale": "pixels"}, "100, 200, 200, 400"),
    ({"order": "cxcywh", "scale": "pixels"}, "400, 200, 400, 200"),
    ({"order": "xywh"}, "250, 250, 500, 500"),
    ({"frame": "padded"}, "250, 375, 750, 625"),  # 200 pixels above and below
    ({"frame": "padded_end"}, "250, 125, 750, 375"),
    ({"frame": "padded", "scale": "pixels"}, "200, 300, 600, 500"),
    ({"frame": "padded", "scale": "pixels", "longest_side": 400}, "100, 150, 300, 250"),
    ({"frame": "padded_end", "scale": "pixels"}, "200, 100, 600, 300"),
    ({"frame": "padded", "order": "cxcywh"}, "500, 500, 500, 250"),
    ({"frame": "resized"}, "203, 98, 609, 294"),  # 812 x 392: multiples of 28
    ({"frame": "resized", "factor": 32}, "200, 96, 600, 288"),  # 800 x 384
    ({"frame": "resized", "max_pixels": 100_000}, "105, 49, 315, 147"),  # 420 x 196
    ({"frame": "resized", "longest_side": 400}, "98, 49, 294, 147"),  # 400 x 200, then 392 x 196
]


@pytest.mark.parametrize(("options", "numbers"), CONTRACTS, ids=lambda v: str(v))
def test_what_a_contract_means(options: Mapping[str, Any], numbers: str) -> None:
    """Written and read, in YAML's form and as keywords; name and options make it again."""
    for d in (get_dialect("qwen3_vl", **options), get_dialect({"base": "qwen3_vl", **options})):
        assert d.box_text(BOX, F) == f'{{"bbox_2d": [{numbers}]}}'
        g = d.parse(d.box_text(BOX, F), F)
        assert g.mentions[0].boxes == (pytest.approx(BOX, abs=3.0),)
        assert g.problems == ()
        assert get_dialect(d.name, **d.options).parse(g.text, F) == g


def test_what_is_not_given_stays_as_the_family_has_it() -> None:
    gemini = get_dialect("gemini", scale=1024)
    assert gemini.box_text(BOX, F) == '{"box_2d": [256, 256, 768, 768]}'
    assert str(gemini).startswith("gemini: yxyx · 1024 per side, 0 to 1024 · original")
    assert "configured, from google-gemini" in str(gemini)
    assert get_dialect("qwen3_vl", order="yxyx").contract.maximum == 1000
    assert get_dialect("ferret", order="yxyx").contract.maximum == 999  # an inclusive maximum of its own
    assert get_dialect("florence2", order="yxyx").contract.offset == 0.5
    assert get_dialect("florence2", scale=512).contract.offset == 0
    assert get_dialect("shikra", order="yxyx").box_text(BOX, F) == "[0.375,0.250,0.625,0.750]"
    tars = get_dialect("ui_tars", max_pixels=100_000, order="yxyx")
    assert tars.model_size(F) == get_dialect("ui_tars", max_pixels=100_000).model_size(F)
    assert get_dialect("molmo", order="yxyx").contract.order == "yx"


def test_a_scale_takes_pixels_of_the_resized_image_to_the_original() -> None:
    """A share of the resized image is the same share of the original one."""
    assert get_dialect("qwen2_5_vl", scale=1000).box_text(BOX, F) == '{"bbox_2d": [250, 250, 750, 750]}'
    assert get_dialect("qwen2_5_vl", frame="original").box_text(BOX, F) == '{"bbox_2d": [200, 100, 600, 300]}'
    assert get_dialect("qwen2_5_vl", scale="pixels").contract.frame.startswith("resized")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"scale": "pixels"}, "pixels, 0 to side · original"),
        ({"frame": "resized"}, "pixels, 0 to side - 1 · resized to 3136-1003520 px, multiples of 28"),
        ({"frame": "resized", "max_pixels": 9000}, "resized to 3136-9000 px, multiples of 28"),
        ({"frame": "resized", "longest_side": 9}, "multiples of 28, after a longer side of at most 9 px"),
        (
            {"frame": "padded", "scale": "pixels", "longest_side": 90},
            "square, after a longer side of at most 90",
        ),
        ({"frame": "padded"}, "decode v / 1000 * S - (S - W) // 2"),
        ({"frame": "padded_end"}, "decode v / 1000 * S ·"),
        ({"scale": 512}, "decode v / 512 * W"),
        ({"frame": "resized"}, "decode v / new_W * W"),
    ],
)
def test_a_contract_in_words(options: Mapping[str, Any], words: str) -> None:
    assert words in str(get_dialect("qwen3_vl", **options))


def test_a_key_of_ones_own() -> None:
    text = '[{"bbox": [250, 250, 750, 750], "bbox_2d": [1, 2, 3, 4], "label": "a"}]'
    for name in ("qwen3_vl", "glm4v"):
        d = get_dialect(name, key="bbox")
        assert [(m.phrase, m.boxes) for m in d.parse(text, F).mentions] == [("a", (BOX,))]
    seed = get_dialect("seed", key="box")
    assert seed.parse('{"box": "<bbox>250 250 750 750</bbox>"}', F).mentions[0].boxes == (BOX,)


WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("qwen3_vl", {"scale": 0}, r"qwen3_vl.scale: found 0, expected units per side \(1000\) or 'pixels'"),
    ("qwen3_vl", {"scale": True}, "scale: found True"),
    ("qwen3_vl", {"scale": float("inf")}, "scale: found inf"),
    ("qwen3_vl", {"scale": "percent"}, "scale: found 'percent'"),
    ("qwen3_vl", {"order": "xyxz"}, r"order: unknown order 'xyxz' \(did you mean '"),
    (
        "qwen3_vl",
        {"frame": "pad"},
        "frame: unknown frame 'pad'.*known: original, padded, padded_end, resized",
    ),
    (
        "qwen3_vl",
        {"frame": "resized", "scale": 1000},
        "found 1000 with frame: resized, expected scale: pixels",
    ),
    ("qwen3_vl", {"longest_side": 9}, "found scale 1000, expected scale: pixels"),
    ("qwen3_vl", {"scale": "pixels", "longest_side": 0}, "found 0, expected a positive whole number"),
    ("qwen3_vl", {"decimals": 9}, "found 9, expected a whole number from 0 to 8"),
    ("qwen3_vl", {"decimals": True}, "found True, expected a whole number"),
    ("qwen3_vl", {"factor": 28}, "found the original frame, expected frame: resized"),
    ("qwen3_vl", {"frame": "resized", "factor": 2.5}, "found 2.5, expected a positive whole number"),
    ("qwen2_5_vl", {"max_pixels": True}, "found True, expected a positive whole number"),
    ("qwen3_vl", {"key": ""}, "found '', expected the name of the key"),
    ("qwen3_vl", {"key": 3}, "found 3, expected the name of the key"),
    ("qwen3_vl", {"key": "label"}, "found key: label, expected numbers that this notation can write"),
    ("ferret", {"key": "box"}, "this notation has no key"),
    ("moondream", {"key": "box"}, "this notation has no key"),
    ("qwen3_vl", {"scale": 1, "decimals": 0}, r"reads back as \(0.0, 0.0"),
    ("paligemma", {"scale": 1}, "reads back as nothing"),
    ("kosmos2", {"scale": 64}, "its boxes are cells of a grid"),
    ("florence2:int", {"scale": 512}, "its boxes are whole pixels"),
    ("qwen_points", {"order": "xywh"}, "expected xyxy or yxyx: it writes points too"),
    ("qwen3_vl", {"zoom": 1}, "unknown option 'zoom'.*known: decimals, encode, factor"),
]


@pytest.mark.parametrize(("name", "options", "message"), WRONG)
def test_what_cannot_be_is_one_line(name: str, options: Mapping[str, Any], message: str) -> None:
    with pytest.raises(DialectError, match=message) as caught:
        get_dialect(name, **options)
    assert "\n" not in str(caught.value)


def test_a_mapping_says_its_base() -> None:
    with pytest.raises(DialectError, match="found scale, expected base, the name of a dialect, too"):
        get_dialect({"scale": 3})
    with pytest.raises(DialectError, match="found nothing, expected base"):
        get_dialect({})
    with pytest.raises(DialectError, match="unknown dialect 'qwen'"):
        get_dialect({"base": "qwen"})


def test_the_published_formula_is_of_the_published_contract() -> None:
    """With other numbers there is none, and the nearest value is written."""
    d: Dialect = get_dialect("ferret", encode="official", scale=500)
    assert d.box_text((1.2, 0.0, 800.0, 400.0), F) == "[1, 0, 500, 500]"
