"""What each family really writes, incl. the degenerate forms seen in the wild: one row per text, the reason beside it."""

from __future__ import annotations

import pytest

from spr.dialects import Frame, get_dialect

F = Frame(1000, 1000)  # a unit of a 1000-notation is a pixel
K = 1000 / 999  # pixels of a unit of a 999-notation
REF, END = "<|object_ref_start|>", "<|object_ref_end|>"
BOX, BEND = "<|box_start|>", "<|box_end|>"
GB, GE = "<|begin_of_box|>", "<|end_of_box|>"

# dialect, text, mentions as (phrase, boxes), problem kinds, plain
ROWS: list[tuple[str, str, list[tuple[str | None, list[tuple[float, ...]]]], list[str], str]] = [
    # --- Ferret: no delimiters at all
    ("ferret", "a dog [1, 2, 3, 4]", [("a dog", [(1, 2, 3, 4)])], ["phrase_guessed"], "a dog"),
    (
        "ferret",
        "There are two dogs [1, 2, 3, 4] [5, 6, 7, 8].",
        [("two dogs", [(1, 2, 3, 4), (5, 6, 7, 8)])],
        ["phrase_guessed"],
        "There are two dogs.",
    ),
    ("ferret", "and with a cat [1, 2, 3, 4]", [("a cat", [(1, 2, 3, 4)])], ["phrase_guessed"], "and with a cat"),  # leading words go together
    ("ferret", "[1, 2, 3, 4]", [(None, [(1, 2, 3, 4)])], [], ""),  # a bare answer
    ("ferret", "and [1, 2, 3, 4]", [(None, [(1, 2, 3, 4)])], [], "and"),  # no word is left behind a lone "and"
    ("ferret", "a [1, 2, 3", [], ["truncated"], "a"),  # cut inside the box
    ("ferret", "a dog [1, 2, 3, 4] and a cat [5, 6", [("a dog", [(1, 2, 3, 4)])], ["phrase_guessed", "truncated"], "a dog and a cat"),
    ("ferret", "x [1, 2, 3]", [], ["wrong_arity"], "x"),
    ("ferret", "x [1, 2, 3, 4, 5]", [], ["wrong_arity"], "x"),
    ("ferret", "x [9, 8, 7, 6]", [("x", [(9, 8, 7, 6)])], ["phrase_guessed", "reversed"], "x"),  # kept as written
    ("ferret", "x [1, 2, 3, 1002]", [("x", [(1, 2, 3, 1002)])], ["out_of_range", "phrase_guessed"], "x"),  # Ferret-Bench has these
    ("ferret", "x [1, two, 3, 4]", [], ["not_a_number"], "x"),
    ("ferret", "x [1, 2, 3, 99999999999999999999]", [], ["not_a_number"], "x"),  # runaway digits
    ("ferret", "see [note] and [1]: x [1, 2, 3, 4]", [("x", [(1, 2, 3, 4)])], ["phrase_guessed", "wrong_arity"], "see [note] and: x"),
    ("ferret", "x [note] [1, 2, 3, 4]", [("x [note]", [(1, 2, 3, 4)])], ["phrase_guessed"], "x [note]"),
    ("ferret", "x [[1, 2, 3, 4]]", [("x", [(1, 2, 3, 4)])], ["phrase_guessed"], "x"),  # another family's brackets
    ("ferret", "x [1, 2, 3, 4\n] y", [], ["tag_mismatch"], "x ] y"),  # a line end closes nothing, and what it broke is said
    ("ferret", "x [1, 2, 3 and more", [], [], "x [1, 2, 3 and more"),  # prose in a bracket is prose
    (
        "ferret",
        "a dog (brown) [1, 2, 3, 4]",
        [("a dog (brown)", [(1, 2, 3, 4)])],
        ["phrase_guessed"],
        "a dog (brown)",
    ),  # only . , ; : ! ? end a phrase
    (
        "ferret",
        "A big Dog and  There are two cats [1, 2, 3, 4]",
        [("A big Dog and  There are two cats", [(1, 2, 3, 4)])],
        ["phrase_guessed"],
        "A big Dog and There are two cats",
    ),
    (
        "ferret",
        "ok! There is a cat  of mine [1, 2, 3, 4]",
        [("a cat  of mine", [(1, 2, 3, 4)])],
        ["phrase_guessed"],
        "ok! There is a cat of mine",
    ),  # inner blanks stay
    ("ferret", "x [1, ٢, 3, 4]", [], ["not_a_number"], "x"),  # digits of no vocabulary
    ("ferret", "x [1, 2, 3, 99999]", [("x", [(1, 2, 3, 99999)])], ["out_of_range", "phrase_guessed"], "x"),  # runaway digits, still a number
    ("ferret", "x [-5, 2, 3, 4]", [("x", [(-5, 2, 3, 4)])], ["out_of_range", "phrase_guessed"], "x"),
    ("ferret", "x\x00 [1, 2, 3, 4]\x00", [("x\x00", [(1, 2, 3, 4)])], ["phrase_guessed"], "x\x00 \x00"),
    ("ferret", "x [1, 2, 3, 4] [5, 6]", [("x", [(1, 2, 3, 4)])], ["phrase_guessed", "wrong_arity"], "x"),
    ("ferret", "x [1, 2, 3,, 4]", [("x", [(1, 2, 3, 4)])], ["phrase_guessed"], "x"),
    ("ferret", "x [1 - 2, 3, 4]", [], ["not_a_number"], "x"),
    ("ferret", "x [64-7, 3, 4]", [], ["not_a_number"], "x"),  # two numbers without a sign between them
    ("ferret", "a dog [", [], ["truncated"], "a dog"),
    ("ferret", "[1 [2, 3, 4, 5]", [("[1", [(2, 3, 4, 5)])], ["phrase_guessed", "tag_mismatch"], ""),  # an open bracket inside another
    # --- Shikra, LLaVA, CogVLM
    (
        "shikra",
        "a man[0.100,0.200,0.300,0.400;0.5,0.6,0.7,0.8]",
        [("a man", [(100, 200, 300, 400), (500, 600, 700, 800)])],
        ["phrase_guessed"],
        "a man",
    ),
    ("shikra", "a[0.1,0.2,0.3,0.4;0.5,0.6]", [("a", [(100, 200, 300, 400)])], ["phrase_guessed", "wrong_arity"], "a"),
    ("llava", "[0.12, 0.34, 0.56, 1.02]", [(None, [(120, 340, 560, 1020)])], ["out_of_range"], ""),
    ("cogvlm", "A man[[086,540,400,760]] sits.", [("A man", [(86, 540, 400, 760)])], ["phrase_guessed"], "A man sits."),
    ("cogvlm", "dogs[[001,002,003,004;005,006,007,008]]", [("dogs", [(1, 2, 3, 4), (5, 6, 7, 8)])], ["phrase_guessed"], "dogs"),
    ("cogvlm", "a[[001,002,003,004]", [("a", [(1, 2, 3, 4)])], ["phrase_guessed", "truncated"], "a"),  # the second bracket is missing
    ("cogvlm", "a[[001,002,003,004] b", [("a", [(1, 2, 3, 4)])], ["phrase_guessed", "tag_mismatch"], "a b"),
    # --- Qwen-VL
    ("qwen2_vl", f"{REF}a dog{END}{BOX}(1,2),(3,4){BEND}", [("a dog", [(1, 2, 3, 4)])], [], "a dog"),
    ("qwen2_vl", f"{REF}dogs{END}{BOX}(1,2),(3,4){BEND}, {BOX}(5,6),(7,8){BEND}", [("dogs", [(1, 2, 3, 4), (5, 6, 7, 8)])], [], "dogs,"),
    (
        "qwen2_vl",
        f"{BOX}(1,2),(3,4){BEND} {BOX}(5,6),(7,8){BEND}",
        [(None, [(1, 2, 3, 4)]), (None, [(5, 6, 7, 8)])],
        [],
        "",
    ),  # no phrase: own mentions
    ("qwen2_vl", f"{REF}a{END} is at {BOX}(1,2),(3,4){BEND}", [(None, [(1, 2, 3, 4)])], [], "a is at"),  # not adjacent: not bound
    ("qwen2_vl", "a dog(1,2),(3,4)", [("a dog", [(1, 2, 3, 4)])], ["phrase_guessed", "tags_stripped"], "a dog"),  # skip_special_tokens=True
    ("qwen2_vl", f"{REF}a{END}{BOX}(1,2),(3{BEND}", [], ["wrong_arity"], "a"),
    ("qwen2_vl", f"{REF}a{END}{BOX}(1,2),(3,4)", [("a", [(1, 2, 3, 4)])], ["truncated"], "a"),  # the last bracket closed before the cut
    ("qwen2_vl", f"{REF}a{END}{BOX}(1,2),(3,", [], ["truncated"], "a"),
    ("qwen2_vl", f"{REF}a{END}{BOX}(1,2),(3,4),(5,6){BEND}", [("a", [(1, 2, 3, 4)])], ["wrong_arity"], "a"),
    ("qwen2_vl", f"{REF}a{END}{BOX}(x,2),(3,4){BEND}", [], ["not_a_number", "wrong_arity"], "a"),
    ("qwen2_vl", f"{REF}a{END}{BOX}(1,2,3,4){BEND}", [("a", [(1, 2, 3, 4)])], [], "a"),
    ("qwen2_vl", f"{REF}a{END}{BOX}(1,2,3){BEND}", [], ["wrong_arity"], "a"),
    ("qwen2_vl", f"{REF}a{END}{BOX}1,2,3,4{BEND}", [("a", [(1, 2, 3, 4)])], [], "a"),  # brackets forgotten, four numbers all the same
    ("qwen2_vl", f"{REF}a{END}{BOX}{BEND}", [], ["wrong_arity"], "a"),
    ("qwen2_vl", f"{REF}a{END}{BOX}here{BEND}", [], ["non_box_payload"], "a"),
    ("qwen2_vl", f"{REF}a {REF}b{END}{BOX}(1,2),(3,4){BEND}", [("b", [(1, 2, 3, 4)])], ["nested_tag"], "a b"),
    ("qwen2_vl", f"{BOX}(1,2),(3,4){REF}b{END}", [(None, [(1, 2, 3, 4)])], ["nested_tag"], "b"),
    ("qwen2_vl", f"{BOX}(1,2),(3,4){END}", [(None, [(1, 2, 3, 4)])], ["nested_tag", "tag_mismatch"], ""),
    ("qwen2_vl", f"a{END}{BEND}", [], ["tag_mismatch", "tag_mismatch"], "a"),
    ("qwen2_vl", f"{REF}a do", [], ["truncated"], "a do"),
    ("qwen2_vl", f"{REF}a{END}<|box_st", [], ["truncated"], "a"),  # the tag itself is cut
    ("qwen2_vl", f"{REF} {END}{BOX}(1,2),(3,4){BEND}", [(None, [(1, 2, 3, 4)])], [], ""),  # '' is never a phrase
    ("qwen_vl", "<ref>a</ref><quad>(1,2),(3,4),(5,6),(7,8)</quad>", [], ["non_box_payload"], "a"),
    ("qwen_vl", "<quad>(1,2)", [], ["truncated"], ""),
    ("qwen_vl", "</quad>x", [], ["tag_mismatch"], "x"),
    ("qwen_vl", "in words (see 3) only", [], [], "in words (see 3) only"),
    ("qwen_vl", "f (a), (b)", [], [], "f (a), (b)"),  # looks like two points, holds none
    # --- InternVL, DeepSeek, MiniCPM
    ("internvl", "<ref>car</ref><box>[[75, 658, 250, 871]]</box>", [("car", [(75, 658, 250, 871)])], [], "car"),
    ("internvl", "<ref>car</ref><box>[[1, 2, 3, 4], [5, 6, 7, 8]]</box>", [("car", [(1, 2, 3, 4), (5, 6, 7, 8)])], [], "car"),
    ("internvl", "car[[75, 658, 250, 871]]", [("car", [(75, 658, 250, 871)])], ["phrase_guessed", "tags_stripped"], "car"),  # InternVL issue 953
    ("internvl", "[[1, 2, 3, 4], [5, 6, 7, 8]] x", [(None, [(1, 2, 3, 4), (5, 6, 7, 8)])], ["tags_stripped"], "x"),
    ("internvl", "[see] nothing [1, 2]", [], [], "[see] nothing [1, 2]"),
    ("internvl", "<box>[[1, 2, 3, 4], [5, 6", [(None, [(1, 2, 3, 4)])], ["truncated"], ""),
    ("internvl", "<ref>a</ref><box>[[1, 2, x, 4]]</box>", [], ["not_a_number"], "a"),
    ("internvl", "<ref>a</ref><box>1, 2, 3, 4</box>", [("a", [(1, 2, 3, 4)])], [], "a"),
    ("deepseek_vl2", "<|ref|>a<|/ref|><|det|>[[1, 2<|ref|>b<|/ref|>", [], ["nested_tag"], "a b"),
    ("minicpm_v", "<ref>a</ref><box>1 2 3 4</box>", [("a", [(1, 2, 3, 4)])], [], "a"),
    ("minicpm_v", "<ref>a</ref><box>1 2 3 4", [], ["truncated"], "a"),  # the last number may be cut
    ("minicpm_v", "<ref>a</ref><box>1 2 3</box><box></box>", [], ["wrong_arity", "wrong_arity"], "a"),
    ("internvl", "<box>1, 2, 3, 4", [], ["truncated"], ""),
    (
        "internvl",
        "<ref>a</ref>: <box>[[1, 2, 3, 4]]</box><box>[[5, 6, 7, 8]]</box>",
        [(None, [(1, 2, 3, 4)]), (None, [(5, 6, 7, 8)])],
        [],
        "a:",
    ),  # not adjacent
    ("minicpm_v", "1 2 3 4", [], [], "1 2 3 4"),  # without tags four numbers are no box
    # --- angle tokens
    ("minigpt_v2", "<p>a dog</p> {<10><20><30><40>}", [("a dog", [(100, 200, 300, 400)])], [], "a dog"),
    ("minigpt_v2", "<p>x</p> {<1><2><3><4>}<delim>{<5><6><7><8>}", [("x", [(10, 20, 30, 40), (50, 60, 70, 80)])], [], "x"),
    ("minigpt_v2", "{<1><2><3><4>}", [(None, [(10, 20, 30, 40)])], [], ""),  # [refer] answers
    ("minigpt_v2", "<p>x</p> {<1><2><3><4>} and {y}", [("x", [(10, 20, 30, 40)])], [], "x and {y}"),  # braces in prose
    ("minigpt_v2", "a dog <1><2><3><4>", [("a dog", [(10, 20, 30, 40)])], ["phrase_guessed", "tags_stripped"], "a dog"),
    ("rex_omni", f"{REF}a{END}{BOX}<1><2><3><4>,<5><6><7><8>{BEND}", [("a", [(K, 2 * K, 3 * K, 4 * K), (5 * K, 6 * K, 7 * K, 8 * K)])], [], "a"),
    ("rex_omni", f"{REF}a{END}{BOX}<1><2>{BEND}", [], ["non_box_payload"], "a"),  # a point
    ("rex_omni", f"{REF}a{END}{BOX}<1><2><3>{BEND}", [], ["wrong_arity"], "a"),
    ("rex_omni", f"{REF}a{END}{BOX}12<1><2><3><4>34{BEND}", [("a", [(K, 2 * K, 3 * K, 4 * K)])], ["not_a_number", "not_a_number"], "a"),
    ("rex_omni", f"{REF}a{END}{BOX}<1><2><3><{'9' * 400}>{BEND}", [], ["not_a_number", "wrong_arity"], "a"),  # no float would hold it
    ("rex_omni", f"{REF}a{END}{BOX}None{BEND}", [("a", [])], ["absent_marker"], "a"),
    ("locate_anything", "<ref>a</ref><box>none</box>", [("a", [])], ["absent_marker"], "a"),
    ("locate_anything", "<ref>a</ref><box><1><2><3><4></box><box><5><6><7><8></box>", [("a", [(1, 2, 3, 4), (5, 6, 7, 8)])], [], "a"),
    (
        "locate_anything",
        "<ref>a</ref><box><1><2><3><4>,<5><6><7><8></box><box><1><1><2><2></box>",
        [("a", [(1, 2, 3, 4), (5, 6, 7, 8), (1, 1, 2, 2)])],
        [],
        "a",
    ),
    # --- Kosmos-2: cells of 31.25 px
    (
        "kosmos2",
        "<grounding> It<phrase> a</phrase><object><patch_index_0000><patch_index_0033></object>",
        [("a", [(15.625, 15.625, 46.875, 46.875)])],
        [],
        "It a",
    ),
    ("kosmos2", "<phrase> a</phrase><object><patch_index_0000><patch_index_0000></object>", [("a", [(0, 0, 31.25, 31.25)])], [], "a"),
    ("kosmos2", "<phrase> a</phrase><object><patch_index_0000></object>", [], ["wrong_arity"], "a"),
    (
        "kosmos2",
        "<phrase> a</phrase><object><patch_index_0000><patch_index_9999></object>",
        [("a", [(15.625, 15.625, 484.375, 9765.625)])],
        ["out_of_range"],
        "a",
    ),
    (
        "kosmos2",
        "<phrase> a</phrase><object> <patch_index_0000> <patch_index_0033> </delimiter_of_multi_objects/> <patch_index_0000> <patch_index_0000> </object>",
        [("a", [(15.625, 15.625, 46.875, 46.875), (0, 0, 31.25, 31.25)])],
        [],
        "a",
    ),  # the blanks with which transformers writes prompts
    ("kosmos2", "<grounding> a snowman", [], [], "a snowman"),
    (
        "kosmos2",
        "<grounding> a dog<patch_index_0000><patch_index_0000>",
        [("a dog", [(0, 0, 31.25, 31.25)])],
        ["phrase_guessed", "tags_stripped"],
        "a dog",
    ),
    # --- PaliGemma: y1 x1 y2 x2 of 1024
    ("paligemma", "<loc0256><loc0000><loc0512><loc1023> cat", [("cat", [(0, 250, 999.0234375, 500)])], [], "cat"),
    (
        "paligemma",
        "<loc0256><loc0000><loc0512><loc0512><seg001><seg002> cat ; <loc0000><loc0000><loc0512><loc0512> a dog",
        [("cat", [(0, 250, 500, 500)]), ("a dog", [(0, 0, 500, 500)])],
        [],
        "cat; a dog",
    ),
    ("paligemma", "<loc0256><loc0000><loc0512> cat", [], ["wrong_arity"], "cat"),
    ("paligemma", "<loc0256><loc0000>", [], ["truncated"], ""),
    ("paligemma", "<loc0256><loc0000><loc0001><lo", [], ["truncated", "truncated"], ""),
    ("paligemma", "<loc0256><loc0000><loc0512><loc0512>\nx", [(None, [(0, 250, 500, 500)])], [], "x"),
    ("paligemma", "a < b", [], [], "a < b"),
    # --- Florence-2: centres of thousandths
    ("florence2", "cat<loc_0><loc_0><loc_499><loc_999>", [("cat", [(0.5, 0.5, 499.5, 999.5)])], ["phrase_guessed"], "cat"),
    (
        "florence2",
        "<s>cat<loc_0><loc_0><loc_1><loc_1><loc_2><loc_2><loc_3><loc_3></s>",
        [("cat", [(0.5, 0.5, 1.5, 1.5), (2.5, 2.5, 3.5, 3.5)])],
        ["phrase_guessed"],
        "cat",
    ),
    ("florence2", "cat<loc_0><loc_0><loc_1><loc_1><loc_2>dog", [("cat", [(0.5, 0.5, 1.5, 1.5)])], ["phrase_guessed", "wrong_arity"], "cat dog"),
    ("florence2", "cat<loc_0><loc_0>", [], ["truncated"], "cat"),
    ("florence2", "cat<loc_0><loc_0><loc_1><loc_1><loc_", [("cat", [(0.5, 0.5, 1.5, 1.5)])], ["phrase_guessed", "truncated"], "cat"),
    ("florence2", "<loc_0><loc_0><loc_1><loc_1>", [(None, [(0.5, 0.5, 1.5, 1.5)])], [], ""),
    ("florence2", "a <", [], [], "a <"),
    # --- GLM: no label, any brackets
    ("glm4v", f"{GB}[[1,2,3,4]]{GE}", [(None, [(1, 2, 3, 4)])], [], ""),
    ("glm4v", f"It is {GB}(1,2,3,4){GE}.", [(None, [(1, 2, 3, 4)])], [], "It is."),
    ("glm4v", f"{GB}<1,2,3,4>{GE}", [(None, [(1, 2, 3, 4)])], [], ""),
    ("glm4v", f"{GB}yes{GE}", [], ["non_box_payload"], ""),  # markers are used for any short answer
    ("glm4v", f'{GB}[{{"bbox_2d": [1, 2, 3, 4], "label": "cat"}}]{GE}', [("cat", [(1, 2, 3, 4)])], [], "cat."),
    ("glm4v", f"{GB}42{GE}", [], ["non_box_payload"], ""),
    ("glm4v", f"{GB}[1,2,3]{GE}", [], ["wrong_arity"], ""),
    ("glm4v", f"<think>at {GB}[[1,2,3,4]]{GE}</think><answer>{GB}[[5,6,7,8]]{GE}</answer>", [(None, [(5, 6, 7, 8)])], ["draft_box"], ""),
    ("glm4v", "[[1,2,3,4]]", [(None, [(1, 2, 3, 4)])], ["tags_stripped"], ""),
    # --- JSON
    (
        "qwen3_vl",
        '```json\n[\n\t{"bbox_2d": [1, 2, 3, 4], "label": "a cat"},\n\t{"bbox_2d": [5, 6, 7, 8], "label": "dog"}\n]\n```',
        [("a cat", [(1, 2, 3, 4)]), ("dog", [(5, 6, 7, 8)])],
        [],
        "a cat and dog.",
    ),
    ("qwen3_vl", 'Here [as asked]: {"bbox_2d": [1, 2, 3, 4]} ok', [(None, [(1, 2, 3, 4)])], [], "Here [as asked]: ok"),  # lone object, no label
    ("qwen3_vl", '{"label": "a", "bbox_2d": [1, 2, 3, 4], "score": 0.5, "tags": ["x"], "attr": {"c": 1}}', [("a", [(1, 2, 3, 4)])], [], "a."),
    (
        "qwen3_vl",
        '{"bbox_2d": [1, 2, 3, 4], "label": "a"}\n{"bbox_2d": [5, 6, 7, 8], "label": "b"}\n{"bbox_2d": [5, 6, 7, 9], "label": "c"}',
        [("a", [(1, 2, 3, 4)]), ("b", [(5, 6, 7, 8)]), ("c", [(5, 6, 7, 9)])],
        [],
        "a, b and c.",
    ),
    (
        "qwen3_vl",
        "{'bbox_2d': [1, 2, 3, 4], 'label': 'dog\\'s \"bone\"'}",
        [('dog\'s "bone"', [(1, 2, 3, 4)])],
        [],
        'dog\'s "bone".',
    ),  # Python's quotes
    ("qwen3_vl", '{"bbox_2d": [1, 2, 3, 4], "label": "a\\qb"}', [("a\\qb", [(1, 2, 3, 4)])], [], "a\\qb."),  # not a valid escape: as it is
    ("qwen3_vl", '[{"bbox_2d": [1, 2, 3, 4], "label": "a"}, {"bbox_2d": [5, 6', [("a", [(1, 2, 3, 4)])], ["truncated"], "a."),
    ("qwen3_vl", '[{"bbox_2d": [1, 2, 3, 4], "label": "a', [], ["truncated"], ""),  # the unfinished object is lost, though its box was closed
    ("qwen3_vl", '[{"bbox_2d": [1, 2, 3, 4]', [], ["truncated"], ""),
    ("qwen3_vl", 'Here:\n```json\n[{"bbox', [], ["truncated"], "Here:"),
    ("qwen3_vl", '[{"label": "the man\'s hat', [], ["truncated"], ""),  # cut before the box
    ("qwen3_vl", '{"bbox_2d": [[1, 2, 3, 4], [5, 6', [], ["nested_tag", "truncated"], ""),
    ("qwen3_vl", '{"bbox_2d": [1, 2, 3, 4]\nSo it is there.', [(None, [(1, 2, 3, 4)])], ["tag_mismatch"], "So it is there."),  # prose is not a cut
    ("qwen3_vl", '[{"point_2d": [1, 2], "label": "hand"}]', [], ["non_box_payload"], "hand."),  # a point
    ("qwen3_vl", '{"bbox_2d": {"x": 1}, "label": "a"}', [], ["non_box_payload"], '{"bbox_2d": {"x": 1}, "label": "a"}'),
    ("qwen3_vl", '{"bbox_2d": [1, 2, 3, 4], "label": "a"}\n```', [("a", [(1, 2, 3, 4)])], [], "a."),  # a lone closing fence
    (
        "qwen3_vl",
        'First {"bbox_2d": [1, 2, 3, 4], "label": "a"} then [{"bbox_2d": [5, 6, 7, 8], "label": "b"}] end',
        [("a", [(1, 2, 3, 4)]), ("b", [(5, 6, 7, 8)])],
        [],
        "First a. then b. end",
    ),
    ("qwen3_vl", '{"bbox_2d": [1, 2, 3], "label": "a"}', [], ["wrong_arity"], "a."),
    ("qwen3_vl", '{"bbox_2d": [1, 2], "label": "a"}', [], ["non_box_payload"], "a."),  # a point
    ("qwen3_vl", '{"bbox_2d": [1, "x", 3, 4], "label": "a"}', [], ["not_a_number"], "a."),
    ("qwen3_vl", '{"bbox_2d": null, "label": "a"}', [("a", [])], ["absent_marker"], "a."),
    ("qwen3_vl", '{"bbox_2d": [], "label": "a"}', [("a", [])], ["absent_marker"], "a."),
    ("qwen3_vl", '{"bbox_2d": "None"}', [(None, [])], ["absent_marker"], ""),
    ("qwen3_vl", '{"bbox_2d": "left", "label": "a"}', [], ["non_box_payload"], "a."),
    ("qwen3_vl", '{"bbox_2d": [[1, 2, 3, 4], [5, 6, 7, 8]], "label": "a"}', [("a", [(1, 2, 3, 4), (5, 6, 7, 8)])], ["nested_tag"], "a."),
    ("qwen3_vl", '{"bbox_2d": [1, 2, 3, 4] "label": "a"}', [(None, [(1, 2, 3, 4)])], ["tag_mismatch"], '"label": "a"}'),  # a comma is missing
    ("qwen3_vl", '{"bbox_2d": }', [], ["not_a_number"], '{"bbox_2d": }'),
    (
        "qwen3_vl",
        '{"a": }{}{"b": [1, {"c": 1}]} {"d": {"e": {"bbox_2d": [1, 2, 3, 4]}}}',
        [(None, [(1, 2, 3, 4)])],
        [],
        '{"a": }{}{"b": [1, {"c": 1}]} {"d": }',
    ),
    ("qwen3_vl", '{"objects": [{"bbox_2d": [1, 2, 3, 4], "label": "a"}]}', [("a", [(1, 2, 3, 4)])], [], "a."),  # a wrapping object is markup
    ("qwen3_vl", "1,2,3,4 a cat\n5, 6, 7, 8", [("a cat", [(1, 2, 3, 4)]), (None, [(5, 6, 7, 8)])], [], "a cat"),  # plain form, on request
    ("qwen3_vl", "a cat [1, 2, 3, 4] [x]", [("a cat", [(1, 2, 3, 4)])], ["phrase_guessed"], "a cat [x]"),
    ("qwen3_vl", '{"name": "b", "class": "c", "bbox_2d": [1, 2, 3, 4], "label": "a"}', [("a", [(1, 2, 3, 4)])], [], "a."),  # "label" wins
    ("qwen3_vl", "1,2,3,99999999999999999999 a", [], [], "1,2,3,99999999999999999999 a"),
    ("qwen3_vl", "[1, 2, 3, 4]", [(None, [(1, 2, 3, 4)])], [], ""),
    ("gemini", '[{"box_2d": [100, 200, 300, 400], "label": "x"}]', [("x", [(200, 100, 400, 300)])], [], "x."),  # y first
    # --- Isaac
    ("isaac", '<point_box mention="a cat" t="0.5"> (1,2) (3,4) </point_box>', [("a cat", [(1, 2, 3, 4)])], [], "a cat"),
    (
        "isaac",
        '<hint>BOX</hint><collection mention="x"><point_box> (1,2) (3,4) </point_box><point_box> (5,6) (7,8) </point_box></collection>',
        [("x", [(1, 2, 3, 4), (5, 6, 7, 8)])],
        [],
        "x",
    ),
    ("isaac", '<point mention="x"> (1,2) </point>', [], ["non_box_payload"], ""),
    ("isaac", "<point_box> (1,2) </point_box>", [], ["wrong_arity"], ""),
    ("isaac", "<point_box> here </point_box>", [], ["non_box_payload"], ""),
    ("isaac", "<point_box> (1,2) (3,4) (5,6) (7,8) </point_box>", [(None, [(1, 2, 3, 4), (5, 6, 7, 8)])], [], ""),
    ("isaac", "<point_box><point_box> (1,2) (3,4) </point_box>", [(None, [(1, 2, 3, 4)])], ["nested_tag"], ""),
    ("isaac", "</point_box> x", [], ["tag_mismatch"], "x"),
    ("isaac", '<collection mention="x"><point_box> (1,2) (3,4) </point_box><point_box> (5', [("x", [(1, 2, 3, 4)])], ["truncated", "truncated"], "x"),
    (
        "isaac",
        '<collection><collection mention="y"><point_box> (1,2) (3,4) </point_box></collection></collection> <point_b',
        [("y", [(1, 2, 3, 4)])],
        ["nested_tag", "tag_mismatch", "truncated"],
        "y",
    ),
    (
        "isaac",
        '<collection mention="x"><point_box> (1,2) (3,4) </point_box><point_box> (5 </collection> tail',
        [("x", [(1, 2, 3, 4)])],
        ["truncated"],
        "x tail",
    ),
    ("isaac", "a <b", [], [], "a <b"),
    ("isaac", "a <bird", [], [], "a <bird"),
    ("isaac", "<point_box mention='' t=1> (1,2) (3,4) </point_box>", [(None, [(1, 2, 3, 4)])], [], ""),
    ("isaac", "<point_box mention=cat> (1,2) (3,4) </point_box></collection>", [("cat", [(1, 2, 3, 4)])], ["tag_mismatch"], "cat"),
    # --- the whole answer says that there is none
    ("qwen3_vl", "None", [(None, [])], ["absent_marker"], ""),
    ("qwen3_vl", "```json\n[]\n```", [(None, [])], ["absent_marker"], ""),
    ("ferret", "none.", [(None, [])], ["absent_marker"], ""),
    ("ferret", "None of them.", [], [], "None of them."),
    # --- what a decoder leaves of the chat
    ("qwen2_vl", f"{REF}a{END}{BOX}(1,2),(3,4){BEND}<|im_end|>", [("a", [(1, 2, 3, 4)])], [], "a"),
    ("paligemma", "<loc0256><loc0000><loc0512><loc0512> cat<eos>", [("cat", [(0, 250, 500, 500)])], [], "cat"),
    # --- thinking: drafts are reported and not part of the answer
    ("ferret", "<think>a [1, 2, 3, 4]</think>b [5, 6, 7, 8]", [("b", [(5, 6, 7, 8)])], ["draft_box", "phrase_guessed"], "b"),
    ("ferret", "<think>a [1, 2, 3, 4] and so on", [], ["draft_box"], ""),  # never ends: all draft
    ("ferret", "a [1, 2, 3, 4]</think>b [5, 6, 7, 8]", [("b", [(5, 6, 7, 8)])], ["draft_box", "phrase_guessed"], "b"),  # opened in the prompt
    ("ferret", "<think>a<think>b</think>c</think>", [], ["tag_mismatch", "tag_mismatch"], "c"),
]


@pytest.mark.parametrize(("name", "text", "mentions", "problems", "plain"), ROWS)
def test_reading(name: str, text: str, mentions: list[tuple[str | None, list[tuple[float, ...]]]], problems: list[str], plain: str) -> None:
    d = get_dialect(name)
    g = d.parse(text, F)
    assert [(m.phrase, len(m.boxes)) for m in g.mentions] == [(phrase, len(boxes)) for phrase, boxes in mentions]
    assert [box for m in g.mentions for box in m.boxes] == [pytest.approx(box) for _, boxes in mentions for box in boxes]
    assert sorted(p.kind for p in g.problems) == sorted(problems)
    assert g.plain == plain
    assert d.render(g, F) == text
    spans = d.coordinate_spans(text)
    assert len(spans) == sum(len(m.boxes) for m in g.mentions) * (2 if name == "kosmos2" else 4)
    assert all(text[s:e].lstrip("-").replace(".", "").isdigit() for s, e in spans)


@pytest.mark.parametrize("frame", [Frame(0, 10), Frame(10, 0), Frame(-1, 5), Frame(10**400, 10**400)])
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("ferret", "a [1, 2, 3, 4]"),
        ("kosmos2", "<object><patch_index_0000><patch_index_0001></object>"),
        ("asmv2", "<box>[[1, 2, 3, 4]]</box>"),
        ("qwen2_5_vl", "[1, 2, 3, 4]"),
    ],
)
def test_an_image_without_pixels_is_a_problem_not_an_exception(name: str, text: str, frame: Frame) -> None:
    g = get_dialect(name).parse(text, frame)
    assert g.mentions == ()
    assert "frame_error" in {p.kind for p in g.problems}


def test_an_extreme_aspect_ratio_cannot_be_shown_to_qwen() -> None:
    d = get_dialect("qwen2_5_vl")
    with pytest.raises(ValueError, match="aspect ratio"):
        d.model_size(Frame(2010, 10))
    assert [p.kind for p in d.parse('{"bbox_2d": [1, 2, 3, 4]}', Frame(2010, 10)).problems] == ["frame_error"]


def test_same_text_other_pixels() -> None:
    """max_pixels alone moves a box of Qwen2.5-VL: the resized size is part of the contract."""
    text, frame = '{"bbox_2d": [135, 114, 1016, 672]}', Frame(1920, 1080)
    small = get_dialect("qwen2_5_vl").parse(text, frame).mentions[0].boxes[0]
    large = get_dialect("qwen2_5_vl", max_pixels=12_845_056).parse(text, frame).mentions[0].boxes[0]
    assert small == pytest.approx((196.96, 169.12, 1482.31, 996.92), abs=0.01)
    assert large == pytest.approx((134.16, 112.75, 1009.69, 664.62), abs=0.01)
