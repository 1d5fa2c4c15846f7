"""Editing in the observed style, composing, converting, refusing."""

from __future__ import annotations

import math
import random
import re
from typing import Any

import pytest

from spr.dialects import FAMILIES, Dialect, Frame, convert, get_dialect, known_names
from spr.errors import DialectError
from spr.types import Box

F = Frame(1000, 1000)
NEW: Box = (100.0, 200.0, 300.0, 400.0)
REF, END, BOX, BEND = "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>", "<|box_end|>"

# dialect, text, edits, result
EDITS: list[tuple[str, str, dict[tuple[int, int], Box | None], str]] = [
    ("ferret", "a dog [1,2,3,4].", {(0, 0): NEW}, "a dog [100,200,300,400]."),  # blanks as found
    ("ferret", "a dog [ 1, 2, 3, 4 ].", {(0, 0): NEW}, "a dog [ 100, 200, 300, 400 ]."),
    # decimals as found
    ("ferret", "a dog [1.5, 2.0, 3.0, 4.0].", {(0, 0): NEW}, "a dog [100.0, 200.0, 300.0, 400.0]."),
    # zero padding as found
    ("ferret", "a dog [001, 020, 300, 400].", {(0, 0): (1, 2, 3, 4)}, "a dog [001, 002, 003, 004]."),
    ("ferret", "a dog [1, 2, 3, 4], a cat [5, 6, 7, 8].", {(0, 0): None}, "a dog, a cat [5, 6, 7, 8]."),
    ("ferret", "a dog [1, 2, 3, 4].", {(0, 0): None}, "a dog."),  # no blank before the sign
    ("ferret", "a dog [1, 2, 3, 4] runs", {(0, 0): None}, "a dog runs"),
    ("ferret", "dog[1, 2, 3, 4]runs", {(0, 0): None}, "dog runs"),  # words do not fuse
    ("ferret", "[1, 2, 3, 4] dog", {(0, 0): None}, "dog"),
    ("ferret", "x [1, 2, 3, 4] [5, 6, 7, 8] [9, 9, 9, 9] y", {(0, 0): None, (0, 1): None},
        "x [9, 9, 9, 9] y"),
    ("ferret", "x [1, 2, 3, 4] [5, 6, 7, 8] [9, 9, 9, 9] y", {(0, 1): None, (0, 2): None},
        "x [1, 2, 3, 4] y"),
    ("ferret", "x [1, 2, 3, 4] [5, 6, 7, 8] [9, 9, 9, 9] y", {(0, 0): None, (0, 1): NEW, (0, 2): None},
        "x [100, 200, 300, 400] y"),
    # clamped to the notation
    ("ferret", "x [1, 2, 3, 4]", {(0, 0): (-50.0, 0.0, 2000.0, 100.0)}, "x [0, 0, 999, 100]"),
    ("ferret", "x [1, 2, 3, 4]", {}, "x [1, 2, 3, 4]"),
    ("shikra", "a[0.1,0.2,0.3,0.4;0.5,0.6,0.7,0.8]", {(0, 1): None}, "a[0.1,0.2,0.3,0.4]"),
    # whole numbers show no style: the family's decimals
    ("shikra", "a[0,0,1,1]", {(0, 0): NEW}, "a[0.100,0.200,0.300,0.400]"),
    ("cogvlm", "a[[086,540,400,760]]", {(0, 0): (1, 2, 3, 4)}, "a[[001,002,003,004]]"),
    ("qwen2_vl", f"{REF}a{END} {BOX}(1,2),(3,4){BEND} runs", {(0, 0): None}, f"{REF}a{END} runs"),
    ("qwen2_vl", f"{REF}a{END}{BOX}(1, 2),(3, 4){BEND}", {(0, 0): NEW},
        f"{REF}a{END}{BOX}(100, 200),(300, 400){BEND}"),
    ("qwen2_vl", "a dog(1,2),(3,4)", {(0, 0): None}, "a dog"),
    ("internvl", "<ref>a</ref><box>[[1, 2, 3, 4], [5, 6, 7, 8], [9, 9, 9, 9]]</box>", {(0, 1): None},
        "<ref>a</ref><box>[[1, 2, 3, 4], [9, 9, 9, 9]]</box>"),
    ("internvl", "<ref>a</ref><box>[[1, 2, 3, 4], [5, 6, 7, 8]]</box>", {(0, 0): None, (0, 1): None},
        "<ref>a</ref>"),
    ("internvl", "car[[75, 658, 250, 871]] here", {(0, 0): None}, "car here"),
    ("minigpt_v2", "<p>x</p> {<1><2><3><4>}<delim>{<5><6><7><8>} y", {(0, 1): None},
        "<p>x</p> {<1><2><3><4>} y"),
    ("minigpt_v2", "<p>x</p> {<1><2><3><4>} y", {(0, 0): None}, "<p>x</p> y"),
    ("rex_omni", f"{REF}a{END}{BOX}<1><2><3><4>,<5><6><7><8>{BEND}", {(0, 0): None},
        f"{REF}a{END}{BOX}<5><6><7><8>{BEND}"),
    ("paligemma", "<loc0001><loc0002><loc0003><loc0004> cat ; <loc0001><loc0002><loc0003><loc0004> dog", {(1,
        0): None}, "<loc0001><loc0002><loc0003><loc0004> cat ; dog"),
    ("paligemma", "<loc0001><loc0002><loc0003><loc0004> cat", {(0, 0): (0.0, 0.0, 500.0, 250.0)},
        "<loc0000><loc0000><loc0256><loc0512> cat"),
    ("florence2", "cat<loc_1><loc_2><loc_3><loc_4>dog<loc_5><loc_6><loc_7><loc_8>", {(0, 0): None},
        "cat dog<loc_5><loc_6><loc_7><loc_8>"),
    # no "-0"
    ("florence2", "cat<loc_1><loc_2><loc_3><loc_4>", {(0, 0): (0.2, 0.0, 1.0, 1.0)},
        "cat<loc_0><loc_0><loc_0><loc_0>"),
    ("glm4v", "<|begin_of_box|>[[1,2,3,4],[5,6,7,8]]<|end_of_box|>", {(0, 0): None},
        "<|begin_of_box|>[[5,6,7,8]]<|end_of_box|>"),
    ("qwen3_vl", '[{"label": "x", "bbox_2d": [1, 2, 3, 4]}]', {(0, 0): None}, '[{"label": "x"}]'),
    ("qwen3_vl", '[{"bbox_2d":[1,2,3,4],"label":"x"}]', {(0, 0): NEW},
        '[{"bbox_2d":[100,200,300,400],"label":"x"}]'),
    ("qwen3_vl", '[{"a": 1, "bbox_2d": [1, 2, 3, 4], "b": 2}]', {(0, 0): None}, '[{"a": 1, "b": 2}]'),
    # nothing left of it
    ("qwen3_vl", '[{"bbox_2d": [1, 2, 3, 4]}, {"bbox_2d": [5, 6, 7, 8]}]', {(0, 0): None},
        '[{"bbox_2d": [5, 6, 7, 8]}]'),
    ("qwen3_vl", '[{"bbox_2d": [1, 2, 3, 4]}, {"bbox_2d": [5, 6, 7, 8]}]', {(1, 0): None},
        '[{"bbox_2d": [1, 2, 3, 4]}]'),
    ("qwen3_vl", '[{"bbox_2d": [1, 2, 3, 4]}]', {(0, 0): None}, "[]"),
    ("qwen3_vl", '{"bbox_2d": [[1, 2, 3, 4], [5, 6, 7, 8]], "label": "a"}', {(0, 0): None},
        '{"bbox_2d": [[5, 6, 7, 8]], "label": "a"}'),
    ("qwen3_vl", "1,2,3,4 a cat", {(0, 0): None}, "a cat"),
    ("qwen3_vl", "1,2,3,4", {(0, 0): NEW}, "100,200,300,400"),
    ("gemini", '{"box_2d": [1, 2, 3, 4]}', {(0, 0): NEW}, '{"box_2d": [200, 100, 400, 300]}'),
    ("isaac", '<point_box mention="x"> (1,2) (3,4) </point_box> here', {(0, 0): NEW},
        '<point_box mention="x"> (100,200) (300,400) </point_box> here'),
    # the phrase is an attribute and stays as text
    ("isaac", 'A <point_box mention="cat" t="0.5"> (1,2) (3,4) </point_box>.', {(0, 0): None}, "A cat."),
    ("isaac", "<point_box> (1,2) (3,4) </point_box> here", {(0, 0): None}, "here"),
    ("isaac",
        '<collection mention="x"><point_box> (1,2) (3,4) </point_box><point_box> (5,6) (7,8) '
        '</point_box></collection> y',
        {(0, 0): None, (0, 1): None}, "x y"),
    ("kosmos2", "<phrase> a</phrase><object> <patch_index_0000> <patch_index_0033> </object> b", {(0, 0): (0,
        0, 31, 31)}, "<phrase> a</phrase><object> <patch_index_0000> <patch_index_0000> </object> b"),
    ("kosmos2",
        "<phrase> a</phrase><object><patch_index_0000><patch_index_0033></delimiter_of_multi_objects/>"
        "<patch_index_0000><patch_index_0000></object> b",
        {(0, 0): None}, "<phrase> a</phrase><object><patch_index_0000><patch_index_0000></object> b"),
    ("paligemma", "<loc0001><loc0002><loc0003><loc0004> cat ; <loc0001><loc0002><loc0003><loc0004> dog", {(0,
        0): None}, "cat ; <loc0001><loc0002><loc0003><loc0004> dog"),
    ("qwen2_vl", f"{REF}a{END}{BOX}(1,2),(3,4){BEND}{BOX}(5,6),(7,8){BEND}", {(0, 0): None, (0, 1): None},
        f"{REF}a{END}"),
    ("minicpm_v", "<ref>a</ref><box>1 2 3 4</box><box>5 6 7 8</box>", {(0, 0): None},
        "<ref>a</ref><box>5 6 7 8</box>"),
    ("locate_anything", "<ref>a</ref><box><1><2><3><4>,<5><6><7><8></box><box><1><1><2><2></box>", {(0,
        1): None, (0, 2): None}, "<ref>a</ref><box><1><2><3><4></box>"),
    ("deepseek_vl2", "<|ref|>a<|/ref|><|det|>[[1, 2, 3, 4]]<|/det|> b", {(0, 0): None}, "<|ref|>a<|/ref|> b"),
    ("cogvlm", "a[[086,540,400,760;001,002,003,004]]", {(0, 0): None}, "a[[001,002,003,004]]"),
    ("isaac",
        '<collection mention="x"><point_box> (1,2) (3,4) </point_box><point_box> (5,6) (7,8) '
        '</point_box></collection>',
        {(0, 0): None}, '<collection mention="x"><point_box> (5,6) (7,8) </point_box></collection>'),
    # as many decimals as there were, but a number must still be read (at most 17 characters)
    ("ferret", "a [0.1, 0.2, 0.30353840092463, 0.8]", {(0, 0): NEW},
        "a [100.00000000, 200.00000000, 300.00000000, 400.00000000]"),
    # what looks like a box only when another one is gone goes too, however deep
    ("ferret", "a [1, 2, 3, 4[5, 6, 7, 8]] sits", {(0, 0): None}, "a sits"),
    ("ferret", "a " + "[1, 2, 3, 4" * 9 + "]" * 9 + ".", {(0, 0): None}, "a."),
    ("qwen3_vl", '{"lamp": [1, 2, 3, 4], "bbox_2d": [5, 6, 7, 8]}', {(0, 0): None}, '{"lamp": []}'),
]  # fmt: skip


@pytest.mark.parametrize(("name", "text", "edits", "expected"), EDITS)
def test_editing(name: str, text: str, edits: dict[tuple[int, int], Box | None], expected: str) -> None:
    d = get_dialect(name)
    g = d.replace_boxes(d.parse(text, F), edits, F)
    assert g.text == expected
    assert g == d.parse(expected, F)


def test_an_unknown_box_is_named() -> None:
    d = get_dialect("ferret")
    g = d.parse("x [1, 2, 3, 4]", F)
    for slot in [(0, 1), (1, 0), (-1, 0), (0, -1)]:
        with pytest.raises(KeyError, match=re.escape(str(slot))):
            d.replace_boxes(g, {slot: NEW}, F)


def test_another_frame_is_refused() -> None:
    """The same numbers mean other pixels there."""
    d = get_dialect("ferret")
    g = d.parse("x [1, 2, 3, 4]", F)
    with pytest.raises(DialectError, match="found an image of 10x10, expected the text's own 1000x1000"):
        d.replace_boxes(g, {(0, 0): NEW}, Frame(10, 10))
    with pytest.raises(ValueError, match="10x10"):
        d.render(g, Frame(10, 10))


# dialect, parts, text
COMPOSED: list[tuple[str, Any, str]] = [
    ("ferret", ["I see ", ("a dog", [NEW]), " and ", ("cats", [NEW, NEW]), "."],
        "I see a dog [100, 200, 300, 400] and cats [100, 200, 300, 400] [100, 200, 300, 400]."),
    ("ferret", [("a dog", []), (None, [NEW])], "a dog[100, 200, 300, 400]"),
    ("shikra", [("cats", [NEW, NEW]), ("dogs", [])],
        "cats[0.100,0.200,0.300,0.400;0.100,0.200,0.300,0.400]dogs"),
    ("cogvlm", [("cats", [NEW, NEW])], "cats[[100,200,300,400;100,200,300,400]]"),
    ("kosmos2", [("a dog", [(0.0, 0.0, 62.5, 62.5)] * 2)],
        "<phrase> a dog</phrase><object><patch_index_0000><patch_index_0033></delimiter_of_multi_objects/>"
        "<patch_index_0000><patch_index_0033></object>"),
    ("qwen2_vl", [("a", [NEW, NEW])],
        f"{REF}a{END}{BOX}(100,200),(300,400){BEND}{BOX}(100,200),(300,400){BEND}"),
    ("internvl", [("a", [NEW, NEW]), " b"],
        "<ref>a</ref><box>[[100, 200, 300, 400], [100, 200, 300, 400]]</box> b"),
    ("internvl", [(None, [NEW])], "<box>[[100, 200, 300, 400]]</box>"),
    ("internvl", [("a", [])], "<ref>a</ref>"),
    ("minigpt_v2", [("a", [NEW, NEW])], "<p>a</p> {<10><20><30><40>}<delim>{<10><20><30><40>}"),
    ("minicpm_v", [("a", [NEW, NEW])], "<ref>a</ref><box>100 200 300 400</box><box>100 200 300 400</box>"),
    ("rex_omni", [("a", []), ", ", ("b", [NEW, NEW])],
        f"{REF}a{END}{BOX}None{BEND}, {REF}b{END}{BOX}<100><200><300><400>,<100><200><300><400>{BEND}"),
    ("locate_anything", [("a", [])], "<ref>a</ref><box>none</box>"),
    ("glm4v", ["It is ", (None, [NEW, NEW])],
        "It is <|begin_of_box|>[[100,200,300,400],[100,200,300,400]]<|end_of_box|>"),
    ("paligemma", [("cat", [NEW]), " ; ", (None, [NEW])],
        "<loc0205><loc0102><loc0410><loc0307> cat ; <loc0205><loc0102><loc0410><loc0307>"),
    ("florence2", ["A ", ("cat", [NEW, NEW]), ("dog", []), (None, [NEW])],
        "A cat<loc_100><loc_200><loc_300><loc_400><loc_100><loc_200><loc_300><loc_400>dog<loc_100><loc_200>"
        "<loc_300><loc_400>"),
    ("qwen3_vl", ["Here:", ("a \"b\"", [NEW]), ", ", (None, [NEW]), "done"],
        'Here:\n```json\n[\n\t{"bbox_2d": [100, 200, 300, 400], "label": "a \\"b\\""},\n\t{"bbox_2d": '
        '[100, 200, 300, 400]}\n]\n```\ndone'),
    ("qwen3_vl", ["nothing"], "nothing"),
    ("isaac", [("a", [NEW]), " ", ("b", [NEW, NEW]), ("c", []), (None, [NEW, NEW])],
        '<point_box mention="a"> (100,200) (300,400) </point_box> <collection mention="b"> <point_box> '
        '(100,200) (300,400) </point_box> <point_box> (100,200) (300,400) </point_box> </collection>c'
        '<collection> <point_box> (100,200) (300,400) </point_box> '
        '<point_box> (100,200) (300,400) </point_box> </collection>'),
]  # fmt: skip


@pytest.mark.parametrize(("name", "parts", "expected"), COMPOSED)
def test_composing(name: str, parts: Any, expected: str) -> None:
    assert get_dialect(name).compose(parts, F) == expected


# dialect, parts, what the refusal says
REFUSED: list[tuple[str, Any, str]] = [
    ("kosmos2", [("a < b", [NEW])], "found '<' in the phrase"),
    ("minigpt_v2", [("a</p>", [NEW])], "found '</p>' in the phrase"),
    ("ferret", [("a [b]", [NEW])], "found a bracket in the phrase"),
    ("florence2", [("a<b", [NEW])], "found '<' in the phrase"),
    ("paligemma", [("a", [NEW, NEW])], "found 2 boxes for 'a', expected 1"),
    ("paligemma", ["There is ", ("a", [NEW])], "found the words 'There is '"),
    ("paligemma", [("a;b", [NEW])], "found a separator"),
    ("qwen3_vl", [("a", [NEW, NEW])], "found 2 boxes under one label"),
    (
        "qwen3_vl",
        [("a", [NEW]), " runs after ", ("b", [NEW])],
        "found the words ' runs after ' between boxes",
    ),
    ("glm4v", [("a", [NEW])], "no place for a label"),
    ("isaac", [("a<b", [NEW])], "found a bracket"),
    ("internvl", [("a<box>", [NEW])], "found '<box>' in the phrase"),
    ("qwen_vl", [("a</quad>", [NEW])], "found '</quad>' in the phrase"),
    ("qwen3_vl", [("a", [])], "found 0 boxes under one label"),
    ("ferret", [(" ", [NEW])], "found the phrase ' ', expected words, or None"),
    ("qwen3_vl", [("a<think>", [NEW])], "found a tag of the chat or of another"),
    ("qwen3_vl", [("</s>a", [NEW])], "found a tag of the chat or of another"),
    (
        "ferret",
        [("a", [(1.0, 2.0, float("nan"), 3.0)])],
        "found the box (1.0, 2.0, nan, 3.0), expected four finite numbers",
    ),
    ("kosmos2", [("a", [(1.0, 2.0, float("inf"), 3.0)])], "expected four finite numbers"),
]


@pytest.mark.parametrize(("name", "parts", "message"), REFUSED)
def test_refusing_what_a_notation_cannot_say(name: str, parts: Any, message: str) -> None:
    with pytest.raises(DialectError, match=f"^{name}: .*{re.escape(message)}"):
        get_dialect(name).compose(parts, F)


# source, text, size there, target, size there, text
CONVERTED: list[tuple[str, str, tuple[int, int], str, tuple[int, int], str]] = [
    ("ferret", "I see a dog [100, 200, 300, 400].", (1000, 1000), "internvl", (500, 500),
        "<ref>I see a dog</ref><box>[[100, 200, 300, 400]]</box>."),
    ("ferret", "Look, a dog [0, 0, 1, 1]", (1000, 1000), "internvl", (1000, 1000),
        "Look, <ref>a dog</ref><box>[[0, 0, 1, 1]]</box>"),
    ("internvl", "<ref>a</ref><box>[[0, 0, 500, 1000]]</box>", (112, 112), "qwen2_5_vl", (112, 112),
        '```json\n[\n\t{"bbox_2d": [0, 0, 56, 111], "label": "a"}\n]\n```'),
    # the same notation: numbers in place, every other byte stays
    ("qwen3_vl", 'So:\n```json\n[{"label":"a","bbox_2d":[0,0,500,1000],"score":0.5}]\n```', (112, 112),
        "qwen2_5_vl", (112, 112), 'So:\n```json\n[{"label":"a","bbox_2d":[0,0,56,111],"score":0.5}]\n```'),
    ("internvl", "<ref>a</ref> <box>[[0, 0, 999, 500], [1, 1, 2, 2]]</box>", (1000, 1000), "asmv2", (1000,
        1000), "<ref>a</ref> <box>[[0, 0, 998, 500], [1, 1, 2, 2]]</box>"),
    # a list becomes prose with something between the mentions, without fence and brackets
    ("qwen3_vl",
        'Here:\n```json\n[\n\t{"bbox_2d": [1, 2, 3, 4], "label": "a"},\n\t{"bbox_2d": [5, 6, 7, 8], '
        '"label": "b"}\n]\n```\nDone.',
        (1000, 1000), "ferret", (1000, 1000), "Here:\na [1, 2, 3, 4], b [5, 6, 7, 8]\nDone."),
    ("internvl",
        "<ref>a</ref><box>[[1, 2, 3, 4]]</box><ref>b</ref><box>[[5, 6, 7, 8]]</box> and <ref>c</ref>", (1000,
        1000), "ferret", (1000, 1000), "a [1, 2, 3, 4], b [5, 6, 7, 8] and c"),
    # a label whose box was removed is a word
    ("qwen3_vl", '[{"label": "a"}, {"bbox_2d": [1, 2, 3, 4], "label": "b"}, {"label": "c"}]', (1000, 1000),
        "ferret", (1000, 1000), "a, b [1, 2, 3, 4], c"),
    ("qwen2_vl", f"A {REF}dog{END}{BOX}(1,2),(3,4){BEND} runs.", (1000, 1000), "kosmos2", (1000, 1000),
        "A <phrase> dog</phrase><object><patch_index_0000><patch_index_0000></object> runs."),
]  # fmt: skip


@pytest.mark.parametrize(("source", "text", "size", "target", "new_size", "expected"), CONVERTED)
def test_converting_to_another_notation_and_size(
    source: str, text: str, size: tuple[int, int], target: str, new_size: tuple[int, int], expected: str
) -> None:
    """Exports rewrite answers for another frame: half the size, half the pixels."""
    d = get_dialect(source)
    converted = convert(d.parse(text, Frame(*size)), Frame(*new_size), d, get_dialect(target))
    assert converted == expected


def test_converting_for_another_budget_of_pixels() -> None:
    """1920 x 1080 is 1316 x 728 by default and 1932 x 1092 with the released budget: (197, 169) px is (135,
    114) there, (198, 171) here.
    """
    small, large, frame = (
        get_dialect("qwen2_5_vl"),
        get_dialect("qwen2_5_vl", max_pixels=12_845_056),
        Frame(1920, 1080),
    )
    g = small.parse('{"bbox_2d": [135, 114, 1016, 672]}', frame)
    assert convert(g, frame, small, large) == '{"bbox_2d": [198, 171, 1492, 1008]}'
    assert convert(g, frame, small, get_dialect("qwen2_5_vl")) == g.text


def test_converting_refuses_what_it_cannot_carry_over() -> None:
    """A draft or a broken box would keep its old numbers, which mean other pixels there."""
    ferret, qwen = get_dialect("ferret"), get_dialect("qwen3_vl")
    for text in ("a [1, 2, 3", "<think>a [1, 2, 3, 4]</think>b [1, 2, 3, 4]"):
        g = ferret.parse(text, F)
        assert convert(g, F, ferret, ferret) == text
        with pytest.raises(DialectError, match="expected readable boxes only"):
            convert(g, Frame(500, 500), ferret, ferret)
    internvl = get_dialect("internvl")
    g = internvl.parse(
        "<ref>a</ref><box>[[1, 2, 3, 4]]</box> chases <ref>b</ref><box>[[1, 2, 3, 4]]</box>", F
    )
    with pytest.raises(DialectError, match="qwen3_vl: found the words ' chases '"):
        convert(g, F, internvl, qwen)


def test_unknown_names_and_options_list_the_known_ones() -> None:
    with pytest.raises(
        DialectError, match=r"unknown dialect 'feret' \(did you mean 'ferret'\?\); known: asmv2, cogvlm"
    ):
        get_dialect("feret")
    with pytest.raises(
        DialectError, match=r"unknown option 'maxpixels'.*known: decimals, encode, factor, frame, key"
    ):
        get_dialect("qwen2_5_vl", maxpixels=3)
    with pytest.raises(DialectError, match=r"max_pixels: found the original frame, expected frame: resized"):
        get_dialect("qwen3_vl", max_pixels=3)
    with pytest.raises(DialectError, match="found 'big', expected a positive whole number"):
        get_dialect("qwen2_5_vl", max_pixels="big")
    with pytest.raises(DialectError, match="found 'round', expected 'nearest' or 'official'"):
        get_dialect("ferret", encode="round")


FIELDS = {
    "grounded_caption": "",
    "grounded_region": "{region}",
    "rec": "{expression}",
    "phrase_grounding": "{phrases}",
    "region_caption": "{region}",
}


@pytest.mark.parametrize("name", known_names())
def test_contract_prompts_and_tokens(name: str) -> None:
    """Every family explains itself in one line with its source, has only questions that somebody published,
    and finds its own coordinates.
    """
    d = get_dialect(name)
    assert d.contract.source in str(d)
    assert "\n" not in str(d)
    assert set(d.prompts) <= set(FIELDS)
    assert all(
        FIELDS[task] in p.text and p.source and "ours" not in p.source for task, p in d.prompts.items()
    )
    place = NEW if "boxes" in d.contract.writes else NEW[:2]
    assert len(d.token_pattern.findall(d.compose([(None, [place])], F))) == 1
    assert d.box_text(place, F).strip("{}") in d.compose([(None, [place])], F)
    assert len(FAMILIES) == 28


# Published encoders, as their code has them (x of a box, image side) -> written
OFFICIAL: list[tuple[str, Frame, Box, str]] = [
    # int(x * 1000 / W) after clamping to W - 1
    ("ferret", Frame(640, 480), (100.9, 0.0, 640.0, 480.0), "[157, 0, 998, 997]"),
    # int(x / W * 1000)
    ("internvl", Frame(640, 480), (100.9, 0.0, 640.0, 480.0), "<box>[[157, 0, 1000, 1000]]</box>"),
    ("minigpt_v2", Frame(640, 480), (100.9, 0.0, 640.0, 480.0), "{<15><0><100><100>}"),
    # centre pad of 80 px, round to 3
    ("shikra", Frame(640, 480), (100.9, 0.0, 640.0, 480.0), "[0.158,0.125,1.000,0.875]"),
    ("llava", Frame(640, 480), (100.9, 0.0, 640.0, 480.0), "[0.16, 0.12, 1.00, 0.88]"),
    # floor, clamped
    ("florence2", Frame(640, 480), (100.9, 0.0, 640.0, 480.0), "<loc_157><loc_0><loc_999><loc_999>"),
    # round(v * 1023)
    ("paligemma", Frame(640, 480), (100.9, 0.0, 640.0, 480.0), "<loc0000><loc0161><loc1023><loc1023>"),
    (
        "kosmos2",
        Frame(640, 480),
        (100.9, 0.0, 640.0, 480.0),
        "<object><patch_index_0005><patch_index_1023></object>",
    ),
]


@pytest.mark.parametrize(("name", "frame", "box", "expected"), OFFICIAL)
def test_published_encoders(name: str, frame: Frame, box: Box, expected: str) -> None:
    assert get_dialect(name, encode="official").box_text(box, frame) == expected


FORMULA_FRAMES = [Frame(640, 480), Frame(333, 500), Frame(1921, 1080)]  # the last has an odd pad


def _scope(d: Dialect, frame: Frame, axis: int) -> dict[str, Any]:
    """What the names in a contract's formulas stand for, on one axis."""
    side = (frame.width, frame.height)[axis]
    return {
        "W": side,
        "S": max(frame.width, frame.height),
        "new_W": d.model_size(frame)[axis],
        "floor": math.floor,
    }


# its rule is no formula, and transformers' code is the test
@pytest.mark.parametrize("name", [n for n in known_names() if n != "kosmos2"])
def test_decoding_is_the_float_form_of_the_published_formula(name: str) -> None:
    """The decoder that officials publish, evaluated as it stands in the contract; `int` is left out, but
    where it is kept on purpose.
    """
    d = get_dialect(name)
    for frame in FORMULA_FRAMES:
        for v in (k / 100 if d.codec.decimals else float(k) for k in range(0, 101, 3)):
            box = d.codec.reader(frame)((v,) * 4)[0]
            for axis in (0, 1):
                scope = {**_scope(d, frame, axis), "v": v, "int": int if name == "florence2:int" else float}
                assert (
                    box[axis]
                    == box[axis + 2]
                    == pytest.approx(eval(d.contract.official_decode, scope), abs=1e-9)
                )


@pytest.mark.parametrize(
    "name", [n for n in known_names() if n != "kosmos2" and get_dialect(n).contract.encode != "not published"]
)
def test_official_encoding_is_the_published_formula(name: str) -> None:
    """The encoder that officials publish, evaluated as it stands in the contract, at whole and broken pixels
    inside the image.
    """
    d = get_dialect(name, encode="official")
    # without ", clamped" and the like behind it
    formula = d.contract.encode[: d.contract.encode.rindex(")") + 1]
    rng = random.Random(0)
    for frame in FORMULA_FRAMES:
        for _ in range(200):
            x, y = rng.choice([float, int])(rng.uniform(0, frame.width - 1)), rng.uniform(0, frame.height - 1)
            numbers = d.codec.encode((x, y, x, y), frame, d.codec.decimals, True)
            for axis, pixel, v in zip(
                (0, 1),
                (x, y),
                numbers if d.contract.order == "xyxy" else (numbers[1], numbers[0]),
                strict=False,
            ):
                scope = _scope(d, frame, axis)
                pad = (scope["S"] - scope["W"]) // 2 if d.contract.frame == "padded to a square" else 0
                assert v == eval(formula, {**scope, "x": pixel + pad})


# Published decoders as formulas: dialect, text, frame, box
DECODED: list[tuple[str, str, Frame, Box]] = [
    (
        "ferret",
        "[157, 250, 500, 999]",
        Frame(640, 480),
        (157 * 640 / 1000, 250 * 480 / 1000, 320, 999 * 480 / 1000),
    ),
    ("shikra", "[0.500,0.500,1.000,0.875]", Frame(640, 480), (320, 0.5 * 640 - 80, 640, 0.875 * 640 - 80)),
    ("asmv2", "<box>[[999, 999, 999, 999]]</box>", Frame(640, 480), (640, 640 - 80, 640, 560)),
    ("qwen_vl", "<box>(999,0),(999,999)</box>", Frame(640, 480), (640, 0, 640, 480)),
    ("qwen_vl:1000", "<box>(999,0),(999,500)</box>", Frame(640, 480), (639.36, 0, 639.36, 240)),
    ("deepseek_vl2", "<|det|>[[0, 0, 999, 999]]<|/det|>", Frame(640, 480), (0, 0, 640, 480)),
    ("rex_omni", f"{BOX}<0><0><999><999>{BEND}", Frame(640, 480), (0, 0, 640, 480)),
    (
        "paligemma",
        "<loc0512><loc0256><loc1023><loc1023>",
        Frame(640, 480),
        (160, 240, 1023 * 640 / 1024, 1023 * 480 / 1024),
    ),
    ("paligemma:1023", "<loc0000><loc0000><loc1023><loc1023>", Frame(640, 480), (0, 0, 640, 480)),
    ("florence2", "<loc_0><loc_0><loc_999><loc_999>", Frame(640, 480), (0.32, 0.24, 639.68, 479.76)),
    ("florence2:int", "<loc_0><loc_0><loc_999><loc_999>", Frame(640, 480), (0, 0, 639, 479)),
    # 644 x 476 is what the model sees
    ("qwen2_5_vl", '{"bbox_2d": [322, 238, 644, 476]}', Frame(640, 480), (320, 240, 640, 480)),
    ("gemini", '{"box_2d": [0, 500, 1000, 1000]}', Frame(640, 480), (320, 0, 640, 480)),
    ("minigpt_v2", "{<50><50><100><100>}", Frame(640, 480), (320, 240, 640, 480)),
    ("llava:original", "[0.50, 0.50, 1.00, 1.00]", Frame(640, 480), (320, 240, 640, 480)),
]


@pytest.mark.parametrize(("name", "text", "frame", "box"), DECODED)
def test_published_decoders(name: str, text: str, frame: Frame, box: Box) -> None:
    assert get_dialect(name).parse(text, frame).mentions[0].boxes[0] == pytest.approx(box, abs=1e-9)
