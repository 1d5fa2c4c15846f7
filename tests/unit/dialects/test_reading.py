"""What each family really writes, incl. the degenerate forms seen in the wild: one row per text, the reason beside it."""

from __future__ import annotations

import pytest

from spr.dialects import Frame, get_dialect

F = Frame(1000, 1000)  # a unit of a 1000-notation is a pixel
K = 1000 / 999  # pixels of a unit of a 999-notation
L = 1000 / 1023
P = 1000 / 980  # what Qwen2.5-VL makes of 1000 pixels
REF, END = "<|object_ref_start|>", "<|object_ref_end|>"
BOX, BEND = "<|box_start|>", "<|box_end|>"
GB, GE = "<|begin_of_box|>", "<|end_of_box|>"

# dialect, text, mentions as (phrase, boxes), problem kinds, plain, reason
ROWS: list[tuple[str, str, list[tuple[str | None, list[tuple[float, ...]]]], list[str], str, str]] = [
    # --- Ferret: no delimiters at all
    ("ferret", "a dog [1, 2, 3, 4]", [("a dog", [(1, 2, 3, 4)])], ["phrase_guessed"], "a dog", "the family's form"),
    ("ferret", "There are two dogs [1, 2, 3, 4] [5, 6, 7, 8].", [("two dogs", [(1, 2, 3, 4), (5, 6, 7, 8)])], ["phrase_guessed"], "There are two dogs.", "two brackets in a row belong to one phrase; the leading words are cut"),
    ("ferret", "and with a cat [1, 2, 3, 4]", [("a cat", [(1, 2, 3, 4)])], ["phrase_guessed"], "and with a cat", "leading words go together"),
    ("ferret", "[1, 2, 3, 4]", [(None, [(1, 2, 3, 4)])], [], "", "a bare answer"),
    ("ferret", "and [1, 2, 3, 4]", [(None, [(1, 2, 3, 4)])], [], "and", "no word is left behind a lone \"and\""),
    ("ferret", "a [1, 2, 3", [], ["truncated"], "a", "cut inside the box"),
    ("ferret", "a dog [1, 2, 3, 4] and a cat [5, 6", [("a dog", [(1, 2, 3, 4)])], ["phrase_guessed", "truncated"], "a dog and a cat", "cut inside the second box: the first survives"),
    ("ferret", "x [1, 2, 3]", [], ["wrong_arity"], "x", "three numbers"),
    ("ferret", "x [1, 2, 3, 4, 5]", [], ["wrong_arity"], "x", "five numbers"),
    ("ferret", "x [9, 8, 7, 6]", [("x", [(9, 8, 7, 6)])], ["phrase_guessed", "reversed"], "x", "kept as written"),
    ("ferret", "x [1, 2, 3, 1002]", [("x", [(1, 2, 3, 1002)])], ["out_of_range", "phrase_guessed"], "x", "Ferret-Bench has these"),
    ("ferret", "x [1, two, 3, 4]", [], ["not_a_number"], "x", "a word for a number"),
    ("ferret", "x [1, 2, 3, 99999999999999999999]", [], ["not_a_number"], "x", "runaway digits"),
    ("ferret", "see [note] and [1]: x [1, 2, 3, 4]", [("x", [(1, 2, 3, 4)])], ["phrase_guessed", "wrong_arity"], "see [note] and: x", "brackets in prose: words are prose, a lone number is a broken box"),
    ("ferret", "x [note] [1, 2, 3, 4]", [("x [note]", [(1, 2, 3, 4)])], ["phrase_guessed"], "x [note]", "a bracket of words is part of the phrase"),
    ("ferret", "x [[1, 2, 3, 4]]", [("x", [(1, 2, 3, 4)])], ["phrase_guessed"], "x", "another family's brackets"),
    ("ferret", "x [1, 2, 3, 4\n] y", [], ["tag_mismatch"], "x ] y", "a line end closes nothing, and what it broke is said"),
    ("ferret", "x [1, 2, 3 and more", [], [], "x [1, 2, 3 and more", "prose in a bracket is prose"),
    ("ferret", "a dog (brown) [1, 2, 3, 4]", [("a dog (brown)", [(1, 2, 3, 4)])], ["phrase_guessed"], "a dog (brown)", "only . , ; : ! ? end a phrase"),
    ("ferret", "A big Dog and  There are two cats [1, 2, 3, 4]", [("A big Dog and  There are two cats", [(1, 2, 3, 4)])], ["phrase_guessed"], "A big Dog and There are two cats", "leading words are cut at the start only; case and inner blanks stay"),
    ("ferret", "ok! There is a cat  of mine [1, 2, 3, 4]", [("a cat  of mine", [(1, 2, 3, 4)])], ["phrase_guessed"], "ok! There is a cat of mine", "inner blanks stay"),
    ("ferret", "x [1, ٢, 3, 4]", [], ["not_a_number"], "x", "digits of no vocabulary"),
    ("ferret", "x [1, 2, 3, 99999]", [("x", [(1, 2, 3, 99999)])], ["out_of_range", "phrase_guessed"], "x", "runaway digits, still a number"),
    ("ferret", "x [-5, 2, 3, 4]", [("x", [(-5, 2, 3, 4)])], ["out_of_range", "phrase_guessed"], "x", "a negative number is kept as written"),
    ("ferret", "x\x00 [1, 2, 3, 4]\x00", [("x\x00", [(1, 2, 3, 4)])], ["phrase_guessed"], "x\x00 \x00", "control characters are characters"),
    ("ferret", "x [1, 2, 3, 4] [5, 6]", [("x", [(1, 2, 3, 4)])], ["phrase_guessed", "wrong_arity"], "x", "a point behind a box does not take the box along"),
    ("ferret", "x [1, 2, 3,, 4]", [("x", [(1, 2, 3, 4)])], ["phrase_guessed"], "x", "a doubled comma still leaves four numbers"),
    ("ferret", "x [1 - 2, 3, 4]", [], ["not_a_number"], "x", "a formula is no box"),
    ("ferret", "x [64-7, 3, 4]", [], ["not_a_number"], "x", "two numbers without a sign between them"),
    ("ferret", "a dog [", [], ["truncated"], "a dog", "cut right behind the bracket"),
    ("ferret", "[1 [2, 3, 4, 5]", [("[1", [(2, 3, 4, 5)])], ["phrase_guessed", "tag_mismatch"], "", "an open bracket inside another"),
    # --- Shikra, LLaVA, CogVLM
    ("shikra", "a man[0.100,0.200,0.300,0.400;0.5,0.6,0.7,0.8]", [("a man", [(100, 200, 300, 400), (500, 600, 700, 800)])], ["phrase_guessed"], "a man", "several boxes in one bracket"),
    ("shikra", "a[0.1,0.2,0.3,0.4;0.5,0.6]", [("a", [(100, 200, 300, 400)])], ["phrase_guessed", "wrong_arity"], "a", "the second box breaks off, the first is whole"),
    ("llava", "[0.12, 0.34, 0.56, 1.02]", [(None, [(120, 340, 560, 1020)])], ["out_of_range"], "", "beyond the padded square, as LLaVA-1.5 was seen to write"),
    ("cogvlm", "A man[[086,540,400,760]] sits.", [("A man", [(86, 540, 400, 760)])], ["phrase_guessed"], "A man sits.", "three digits, zero padded"),
    ("cogvlm", "dogs[[001,002,003,004;005,006,007,008]]", [("dogs", [(1, 2, 3, 4), (5, 6, 7, 8)])], ["phrase_guessed"], "dogs", "several boxes in one bracket"),
    ("cogvlm", "a[[001,002,003,004]", [("a", [(1, 2, 3, 4)])], ["phrase_guessed", "truncated"], "a", "the second bracket is missing"),
    ("cogvlm", "a[[001,002,003,004] b", [("a", [(1, 2, 3, 4)])], ["phrase_guessed", "tag_mismatch"], "a b", "one closing bracket is missing and the text goes on"),
    # --- Qwen-VL
    ("qwen2_vl", f"{REF}a dog{END}{BOX}(1,2),(3,4){BEND}", [("a dog", [(1, 2, 3, 4)])], [], "a dog", "the family's form"),
    ("qwen2_vl", f"{REF}dogs{END}{BOX}(1,2),(3,4){BEND}, {BOX}(5,6),(7,8){BEND}", [("dogs", [(1, 2, 3, 4), (5, 6, 7, 8)])], [], "dogs,", "repeated boxes of one phrase, with a comma between them"),
    ("qwen2_vl", f"{BOX}(1,2),(3,4){BEND} {BOX}(5,6),(7,8){BEND}", [(None, [(1, 2, 3, 4)]), (None, [(5, 6, 7, 8)])], [], "", "no phrase: own mentions"),
    ("qwen2_vl", f"{REF}a{END} is at {BOX}(1,2),(3,4){BEND}", [(None, [(1, 2, 3, 4)])], [], "a is at", "not adjacent: not bound"),
    ("qwen2_vl", "a dog(1,2),(3,4)", [("a dog", [(1, 2, 3, 4)])], ["phrase_guessed", "tags_stripped"], "a dog", "skip_special_tokens=True"),
    ("qwen2_vl", f"{REF}a{END}{BOX}(1,2),(3{BEND}", [], ["wrong_arity"], "a", "the last number is missing"),
    ("qwen2_vl", f"{REF}a{END}{BOX}(1,2),(3,4)", [("a", [(1, 2, 3, 4)])], ["truncated"], "a", "the last bracket closed before the cut"),
    ("qwen2_vl", f"{REF}a{END}{BOX}(1,2),(3,", [], ["truncated"], "a", "cut inside the box"),
    ("qwen2_vl", f"{REF}a{END}{BOX}(1,2),(3,4),(5,6){BEND}", [("a", [(1, 2, 3, 4)])], ["wrong_arity"], "a", "a pair too many: the first two make the box"),
    ("qwen2_vl", f"{REF}a{END}{BOX}(x,2),(3,4){BEND}", [], ["not_a_number", "wrong_arity"], "a", "a letter for a number"),
    ("qwen2_vl", f"{REF}a{END}{BOX}(1,2,3,4){BEND}", [("a", [(1, 2, 3, 4)])], [], "a", "one pair of brackets around all four"),
    ("qwen2_vl", f"{REF}a{END}{BOX}(1,2,3){BEND}", [], ["wrong_arity"], "a", "three numbers in one pair of brackets"),
    ("qwen2_vl", f"{REF}a{END}{BOX}1,2,3,4{BEND}", [("a", [(1, 2, 3, 4)])], [], "a", "brackets forgotten, four numbers all the same"),
    ("qwen2_vl", f"{REF}a{END}{BOX}{BEND}", [], ["wrong_arity"], "a", "an empty box"),
    ("qwen2_vl", f"{REF}a{END}{BOX}here{BEND}", [], ["non_box_payload"], "a", "words in box tags"),
    ("qwen2_vl", f"{REF}a {REF}b{END}{BOX}(1,2),(3,4){BEND}", [("b", [(1, 2, 3, 4)])], ["nested_tag"], "a b", "a phrase tag in a phrase tag: the inner one counts"),
    ("qwen2_vl", f"{BOX}(1,2),(3,4){REF}b{END}", [(None, [(1, 2, 3, 4)])], ["nested_tag"], "b", "a phrase tag opens inside the box, which is whole"),
    ("qwen2_vl", f"{BOX}(1,2),(3,4){END}", [(None, [(1, 2, 3, 4)])], ["nested_tag", "tag_mismatch"], "", "the box is closed by the wrong tag"),
    ("qwen2_vl", f"a{END}{BEND}", [], ["tag_mismatch", "tag_mismatch"], "a", "closing tags alone"),
    ("qwen2_vl", f"{REF}a do", [], ["truncated"], "a do", "cut inside the phrase"),
    ("qwen2_vl", f"{REF}a{END}<|box_st", [], ["truncated"], "a", "the tag itself is cut"),
    ("qwen2_vl", f"{REF} {END}{BOX}(1,2),(3,4){BEND}", [(None, [(1, 2, 3, 4)])], [], "", "'' is never a phrase"),
    ("qwen_vl", "<ref>a</ref><quad>(1,2),(3,4),(5,6),(7,8)</quad>", [], ["non_box_payload"], "a", "a quadrilateral is no box"),
    ("qwen_vl", "<quad>(1,2)", [], ["truncated"], "", "cut inside a quadrilateral"),
    ("qwen_vl", "</quad>x", [], ["tag_mismatch"], "x", "a quadrilateral that nothing opened"),
    ("qwen_vl", "in words (see 3) only", [], [], "in words (see 3) only", "brackets in prose"),
    ("qwen_vl", "f (a), (b)", [], [], "f (a), (b)", "looks like two points, holds none"),
    # --- InternVL, DeepSeek, MiniCPM
    ("internvl", "<ref>car</ref><box>[[75, 658, 250, 871]]</box>", [("car", [(75, 658, 250, 871)])], [], "car", "the family's form"),
    ("internvl", "<ref>car</ref><box>[[1, 2, 3, 4], [5, 6, 7, 8]]</box>", [("car", [(1, 2, 3, 4), (5, 6, 7, 8)])], [], "car", "several boxes in one tag"),
    ("internvl", "car[[75, 658, 250, 871]]", [("car", [(75, 658, 250, 871)])], ["phrase_guessed", "tags_stripped"], "car", "InternVL issue 953"),
    ("internvl", "[[1, 2, 3, 4], [5, 6, 7, 8]] x", [(None, [(1, 2, 3, 4), (5, 6, 7, 8)])], ["tags_stripped"], "x", "stripped tags, several boxes"),
    ("internvl", "[see] nothing [1, 2]", [], [], "[see] nothing [1, 2]", "brackets in prose, and a point"),
    ("internvl", "<box>[[1, 2, 3, 4], [5, 6", [(None, [(1, 2, 3, 4)])], ["truncated"], "", "cut in the second box: the first was closed"),
    ("internvl", "<ref>a</ref><box>[[1, 2, x, 4]]</box>", [], ["not_a_number"], "a", "a letter for a number"),
    ("internvl", "<ref>a</ref><box>1, 2, 3, 4</box>", [("a", [(1, 2, 3, 4)])], [], "a", "both brackets forgotten, four numbers all the same"),
    ("deepseek_vl2", "<|ref|>a<|/ref|><|det|>[[1, 2<|ref|>b<|/ref|>", [], ["nested_tag"], "a b", "a phrase tag opens inside the box, which is not whole"),
    ("minicpm_v", "<ref>a</ref><box>1 2 3 4</box>", [("a", [(1, 2, 3, 4)])], [], "a", "the family's form"),
    ("minicpm_v", "<ref>a</ref><box>1 2 3 4", [], ["truncated"], "a", "the last number may be cut"),
    ("minicpm_v", "<ref>a</ref><box>1 2 3</box><box></box>", [], ["wrong_arity", "wrong_arity"], "a", "three numbers, then none"),
    ("internvl", "<box>1, 2, 3, 4", [], ["truncated"], "", "no bracket says that the last number is whole"),
    ("internvl", "<ref>a</ref>: <box>[[1, 2, 3, 4]]</box><box>[[5, 6, 7, 8]]</box>", [(None, [(1, 2, 3, 4)]), (None, [(5, 6, 7, 8)])], [], "a:", "not adjacent"),
    ("minicpm_v", "1 2 3 4", [], [], "1 2 3 4", "without tags four numbers are no box"),
    # --- angle tokens
    ("minigpt_v2", "<p>a dog</p> {<10><20><30><40>}", [("a dog", [(100, 200, 300, 400)])], [], "a dog", "the family's form"),
    ("minigpt_v2", "<p>x</p> {<1><2><3><4>}<delim>{<5><6><7><8>}", [("x", [(10, 20, 30, 40), (50, 60, 70, 80)])], [], "x", "several boxes with the family's separator"),
    ("minigpt_v2", "{<1><2><3><4>}", [(None, [(10, 20, 30, 40)])], [], "", "[refer] answers"),
    ("minigpt_v2", "<p>x</p> {<1><2><3><4>} and {y}", [("x", [(10, 20, 30, 40)])], [], "x and {y}", "braces in prose"),
    ("minigpt_v2", "a dog <1><2><3><4>", [("a dog", [(10, 20, 30, 40)])], ["phrase_guessed", "tags_stripped"], "a dog", "stripped tags; the bins are left"),
    ("rex_omni", f"{REF}a{END}{BOX}<1><2><3><4>,<5><6><7><8>{BEND}", [("a", [(K, 2 * K, 3 * K, 4 * K), (5 * K, 6 * K, 7 * K, 8 * K)])], [], "a", "several boxes in one tag"),
    ("rex_omni", f"{REF}a{END}{BOX}<1><2>{BEND}", [], ["non_box_payload"], "a", "a point"),
    ("rex_omni", f"{REF}a{END}{BOX}<1><2><3>{BEND}", [], ["wrong_arity"], "a", "three numbers"),
    ("rex_omni", f"{REF}a{END}{BOX}12<1><2><3><4>34{BEND}", [("a", [(K, 2 * K, 3 * K, 4 * K)])], ["not_a_number", "not_a_number"], "a", "digits outside the tokens"),
    ("rex_omni", f"{REF}a{END}{BOX}<1><2><3><{'9' * 400}>{BEND}", [], ["not_a_number", "wrong_arity"], "a", "no float would hold it"),
    ("rex_omni", f"{REF}a{END}{BOX}None{BEND}", [("a", [])], ["absent_marker"], "a", "the family's way to say that it is not there"),
    ("locate_anything", "<ref>a</ref><box>none</box>", [("a", [])], ["absent_marker"], "a", "the family's way to say that it is not there"),
    ("locate_anything", "<ref>a</ref><box><1><2><3><4></box><box><5><6><7><8></box>", [("a", [(1, 2, 3, 4), (5, 6, 7, 8)])], [], "a", "repeated boxes of one phrase"),
    ("locate_anything", "<ref>a</ref><box><1><2><3><4>,<5><6><7><8></box><box><1><1><2><2></box>", [("a", [(1, 2, 3, 4), (5, 6, 7, 8), (1, 1, 2, 2)])], [], "a", "two boxes in one tag, then a third"),
    # --- Kosmos-2: cells of 31.25 px
    ("kosmos2", "<grounding> It<phrase> a</phrase><object><patch_index_0000><patch_index_0033></object>", [("a", [(15.625, 15.625, 46.875, 46.875)])], [], "It a", "the family's form: cell centres"),
    ("kosmos2", "<phrase> a</phrase><object><patch_index_0000><patch_index_0000></object>", [("a", [(0, 0, 31.25, 31.25)])], [], "a", "both corners in one cell: its edges"),
    ("kosmos2", "<phrase> a</phrase><object><patch_index_0000></object>", [], ["wrong_arity"], "a", "one cell is no box"),
    ("kosmos2", "<phrase> a</phrase><object><patch_index_0000><patch_index_9999></object>", [("a", [(15.625, 15.625, 484.375, 9765.625)])], ["out_of_range"], "a", "a cell outside the grid is decoded as written"),
    ("kosmos2", "<phrase> a</phrase><object> <patch_index_0000> <patch_index_0033> </delimiter_of_multi_objects/> <patch_index_0000> <patch_index_0000> </object>", [("a", [(15.625, 15.625, 46.875, 46.875), (0, 0, 31.25, 31.25)])], [], "a", "the blanks with which transformers writes prompts"),
    ("kosmos2", "<grounding> a snowman", [], [], "a snowman", "the prefix alone"),
    ("kosmos2", "<grounding> a dog<patch_index_0000><patch_index_0000>", [("a dog", [(0, 0, 31.25, 31.25)])], ["phrase_guessed", "tags_stripped"], "a dog", "stripped tags; the cells are left"),
    # --- PaliGemma: y1 x1 y2 x2 of 1024
    ("paligemma", "<loc0256><loc0000><loc0512><loc1023> cat", [("cat", [(0, 250, 999.0234375, 500)])], [], "cat", "the family's form: y before x"),
    ("paligemma", "<loc0256><loc0000><loc0512><loc0512><seg001><seg002> cat ; <loc0000><loc0000><loc0512><loc0512> a dog", [("cat", [(0, 250, 500, 500)]), ("a dog", [(0, 0, 500, 500)])], [], "cat; a dog", "two items, one with a mask"),
    ("paligemma", "<loc0256><loc0000><loc0512> cat", [], ["wrong_arity"], "cat", "three tokens, then the label"),
    ("paligemma", "<loc0256><loc0000>", [], ["truncated"], "", "cut between tokens"),
    ("paligemma", "<loc0256><loc0000><loc0001><lo", [], ["truncated", "truncated"], "", "cut inside a token"),
    ("paligemma", "<loc0256><loc0000><loc0512><loc0512>\nx", [(None, [(0, 250, 500, 500)])], [], "x", "a line end is no label"),
    ("paligemma", "a < b", [], [], "a < b", "a sign in prose"),
    # --- Florence-2: centres of thousandths
    ("florence2", "cat<loc_0><loc_0><loc_499><loc_999>", [("cat", [(0.5, 0.5, 499.5, 999.5)])], ["phrase_guessed"], "cat", "the family's form: centres of bins"),
    ("florence2", "<s>cat<loc_0><loc_0><loc_1><loc_1><loc_2><loc_2><loc_3><loc_3></s>", [("cat", [(0.5, 0.5, 1.5, 1.5), (2.5, 2.5, 3.5, 3.5)])], ["phrase_guessed"], "cat", "two boxes of one phrase, with the tags of the sequence"),
    ("florence2", "cat<loc_0><loc_0><loc_1><loc_1><loc_2>dog", [("cat", [(0.5, 0.5, 1.5, 1.5)])], ["phrase_guessed", "wrong_arity"], "cat dog", "a fifth token before the next phrase"),
    ("florence2", "cat<loc_0><loc_0>", [], ["truncated"], "cat", "cut after two tokens"),
    ("florence2", "cat<loc_0><loc_0><loc_1><loc_1><loc_", [("cat", [(0.5, 0.5, 1.5, 1.5)])], ["phrase_guessed", "truncated"], "cat", "cut inside a token"),
    ("florence2", "<loc_0><loc_0><loc_1><loc_1>", [(None, [(0.5, 0.5, 1.5, 1.5)])], [], "", "a bare answer"),
    ("florence2", "a <", [], [], "a <", "a sign in prose"),
    # --- GLM: no label, any brackets
    ("glm4v", f"{GB}[[1,2,3,4]]{GE}", [(None, [(1, 2, 3, 4)])], [], "", "the family's form"),
    ("glm4v", f"It is {GB}(1,2,3,4){GE}.", [(None, [(1, 2, 3, 4)])], [], "It is.", "round brackets"),
    ("glm4v", f"{GB}<1,2,3,4>{GE}", [(None, [(1, 2, 3, 4)])], [], "", "angle brackets"),
    ("glm4v", f"{GB}yes{GE}", [], ["non_box_payload"], "", "markers are used for any short answer"),
    ("glm4v", f'{GB}[{{"bbox_2d": [1, 2, 3, 4], "label": "cat"}}]{GE}', [("cat", [(1, 2, 3, 4)])], [], "cat.", "JSON on request, inside the markers"),
    ("glm4v", f"{GB}42{GE}", [], ["non_box_payload"], "", "a number between the markers is an answer"),
    ("glm4v", f"{GB}[1,2,3]{GE}", [], ["wrong_arity"], "", "three numbers"),
    ("glm4v", f"<think>at {GB}[[1,2,3,4]]{GE}</think><answer>{GB}[[5,6,7,8]]{GE}</answer>", [(None, [(5, 6, 7, 8)])], ["draft_box"], "", "a draft with the same markers before the answer"),
    ("glm4v", "[[1,2,3,4]]", [(None, [(1, 2, 3, 4)])], ["tags_stripped"], "", "stripped markers"),
    # --- JSON
    ("qwen3_vl", '```json\n[\n\t{"bbox_2d": [1, 2, 3, 4], "label": "a cat"},\n\t{"bbox_2d": [5, 6, 7, 8], "label": "dog"}\n]\n```', [("a cat", [(1, 2, 3, 4)]), ("dog", [(5, 6, 7, 8)])], [], "a cat and dog.", "the family's form: fenced, one object per box"),
    ("qwen3_vl", 'Here [as asked]: {"bbox_2d": [1, 2, 3, 4]} ok', [(None, [(1, 2, 3, 4)])], [], "Here [as asked]: ok", "lone object, no label"),
    ("qwen3_vl", '{"label": "a", "bbox_2d": [1, 2, 3, 4], "score": 0.5, "tags": ["x"], "attr": {"c": 1}}', [("a", [(1, 2, 3, 4)])], [], "a.", "any order of keys, and keys that nobody asked for"),
    ("qwen3_vl", '{"bbox_2d": [1, 2, 3, 4], "label": "a"}\n{"bbox_2d": [5, 6, 7, 8], "label": "b"}\n{"bbox_2d": [5, 6, 7, 9], "label": "c"}', [("a", [(1, 2, 3, 4)]), ("b", [(5, 6, 7, 8)]), ("c", [(5, 6, 7, 9)])], [], "a, b and c.", "JSON Lines"),
    ("qwen3_vl", "{'bbox_2d': [1, 2, 3, 4], 'label': 'dog\\'s \"bone\"'}", [('dog\'s "bone"', [(1, 2, 3, 4)])], [], 'dog\'s "bone".', "Python's quotes"),
    ("qwen3_vl", '{"bbox_2d": [1, 2, 3, 4], "label": "a\\qb"}', [("a\\qb", [(1, 2, 3, 4)])], [], "a\\qb.", "not a valid escape: as it is"),
    ("qwen3_vl", '[{"bbox_2d": [1, 2, 3, 4], "label": "a"}, {"bbox_2d": [5, 6', [("a", [(1, 2, 3, 4)])], ["truncated"], "a.", "cut in the second object: the first survives"),
    ("qwen3_vl", '[{"bbox_2d": [1, 2, 3, 4], "label": "a', [], ["truncated"], "", "the unfinished object is lost, though its box was closed"),
    ("qwen3_vl", '[{"bbox_2d": [1, 2, 3, 4]', [], ["truncated"], "", "an object without its closing brace is not finished"),
    ("qwen3_vl", 'Here:\n```json\n[{"bbox', [], ["truncated"], "Here:", "cut inside the key"),
    ("qwen3_vl", '[{"label": "the man\'s hat', [], ["truncated"], "", "cut before the box"),
    ("qwen3_vl", '{"bbox_2d": [[1, 2, 3, 4], [5, 6', [], ["nested_tag", "truncated"], "", "cut in a nested list"),
    ("qwen3_vl", '{"bbox_2d": [1, 2, 3, 4]\nSo it is there.', [(None, [(1, 2, 3, 4)])], ["tag_mismatch"], "So it is there.", "prose is not a cut"),
    ("qwen3_vl", '[{"point_2d": [1, 2], "label": "hand"}]', [], ["non_box_payload"], "hand.", "a point"),
    ("qwen3_vl", '{"bbox_2d": {"x": 1}, "label": "a"}', [], ["non_box_payload"], '{"bbox_2d": {"x": 1}, "label": "a"}', "an object where the list must be"),
    ("qwen3_vl", '{"bbox_2d": [1, 2, 3, 4], "label": "a"}\n```', [("a", [(1, 2, 3, 4)])], [], "a.", "a lone closing fence"),
    ("qwen3_vl", 'First {"bbox_2d": [1, 2, 3, 4], "label": "a"} then [{"bbox_2d": [5, 6, 7, 8], "label": "b"}] end', [("a", [(1, 2, 3, 4)]), ("b", [(5, 6, 7, 8)])], [], "First a. then b. end", "prose around objects"),
    ("qwen3_vl", '{"bbox_2d": [1, 2, 3], "label": "a"}', [], ["wrong_arity"], "a.", "three numbers"),
    ("qwen3_vl", '{"bbox_2d": [1, 2], "label": "a"}', [], ["non_box_payload"], "a.", "a point"),
    ("qwen3_vl", '{"bbox_2d": [1, "x", 3, 4], "label": "a"}', [], ["not_a_number"], "a.", "a string for a number"),
    ("qwen3_vl", '{"bbox_2d": null, "label": "a"}', [("a", [])], ["absent_marker"], "a.", "null under the box key"),
    ("qwen3_vl", '{"bbox_2d": [], "label": "a"}', [("a", [])], ["absent_marker"], "a.", "an empty list under the box key"),
    ("qwen3_vl", '{"bbox_2d": "None"}', [(None, [])], ["absent_marker"], "", "None as a string"),
    ("qwen3_vl", '{"bbox_2d": "left", "label": "a"}', [], ["non_box_payload"], "a.", "words under the box key"),
    ("qwen3_vl", '{"bbox_2d": [[1, 2, 3, 4], [5, 6, 7, 8]], "label": "a"}', [("a", [(1, 2, 3, 4), (5, 6, 7, 8)])], ["nested_tag"], "a.", "a nested list"),
    ("qwen3_vl", '{"bbox_2d": [1, 2, 3, 4] "label": "a"}', [(None, [(1, 2, 3, 4)])], ["tag_mismatch"], '"label": "a"}', "a comma is missing"),
    ("qwen3_vl", '{"bbox_2d": }', [], ["not_a_number"], '{"bbox_2d": }', "nothing under the box key"),
    ("qwen3_vl", '{"a": }{}{"b": [1, {"c": 1}]} {"d": {"e": {"bbox_2d": [1, 2, 3, 4]}}}', [(None, [(1, 2, 3, 4)])], [], '{"a": }{}{"b": [1, {"c": 1}]} {"d": }', "broken objects around a whole one"),
    ("qwen3_vl", '{"objects": [{"bbox_2d": [1, 2, 3, 4], "label": "a"}]}', [("a", [(1, 2, 3, 4)])], [], "a.", "a wrapping object is markup"),
    ("qwen3_vl", "1,2,3,4 a cat\n5, 6, 7, 8", [("a cat", [(1, 2, 3, 4)]), (None, [(5, 6, 7, 8)])], [], "a cat", "plain form, on request"),
    ("qwen3_vl", "a cat [1, 2, 3, 4] [x]", [("a cat", [(1, 2, 3, 4)])], ["phrase_guessed"], "a cat [x]", "another family's brackets"),
    ("qwen3_vl", '{"name": "b", "class": "c", "bbox_2d": [1, 2, 3, 4], "label": "a"}', [("a", [(1, 2, 3, 4)])], [], "a.", "\"label\" wins"),
    ("qwen3_vl", "1,2,3,99999999999999999999 a", [], [], "1,2,3,99999999999999999999 a", "runaway digits in the plain form"),
    ("qwen3_vl", "[1, 2, 3, 4]", [(None, [(1, 2, 3, 4)])], [], "", "a bare list"),
    ("gemini", '[{"box_2d": [100, 200, 300, 400], "label": "x"}]', [("x", [(200, 100, 400, 300)])], [], "x.", "y first"),
    # --- Isaac
    ("isaac", '<point_box mention="a cat" t="0.5"> (1,2) (3,4) </point_box>', [("a cat", [(1, 2, 3, 4)])], [], "a cat", "the family's form"),
    ("isaac", '<hint>BOX</hint><collection mention="x"><point_box> (1,2) (3,4) </point_box><point_box> (5,6) (7,8) </point_box></collection>', [("x", [(1, 2, 3, 4), (5, 6, 7, 8)])], [], "x", "a collection names its boxes"),
    ("isaac", '<point mention="x"> (1,2) </point>', [], ["non_box_payload"], "", "a point"),
    ("isaac", "<point_box> (1,2) </point_box>", [], ["wrong_arity"], "", "a point in a box tag"),
    ("isaac", "<point_box> here </point_box>", [], ["non_box_payload"], "", "words in a box tag"),
    ("isaac", "<point_box> (1,2) (3,4) (5,6) (7,8) </point_box>", [(None, [(1, 2, 3, 4), (5, 6, 7, 8)])], [], "", "two boxes in one tag"),
    ("isaac", "<point_box><point_box> (1,2) (3,4) </point_box>", [(None, [(1, 2, 3, 4)])], ["nested_tag"], "", "a tag in a tag"),
    ("isaac", "</point_box> x", [], ["tag_mismatch"], "x", "a closing tag alone"),
    ("isaac", '<collection mention="x"><point_box> (1,2) (3,4) </point_box><point_box> (5', [("x", [(1, 2, 3, 4)])], ["truncated", "truncated"], "x", "cut in the second box of a collection"),
    ("isaac", '<collection><collection mention="y"><point_box> (1,2) (3,4) </point_box></collection></collection> <point_b', [("y", [(1, 2, 3, 4)])], ["nested_tag", "tag_mismatch", "truncated"], "y", "a collection in a collection, and a cut tag"),
    ("isaac", '<collection mention="x"><point_box> (1,2) (3,4) </point_box><point_box> (5 </collection> tail', [("x", [(1, 2, 3, 4)])], ["truncated"], "x tail", "an element that a collection closes"),
    ("isaac", "a <b", [], [], "a <b", "a sign in prose"),
    ("isaac", "a <bird", [], [], "a <bird", "another tag in prose"),
    ("isaac", "<point_box mention='' t=1> (1,2) (3,4) </point_box>", [(None, [(1, 2, 3, 4)])], [], "", "an empty name is no phrase"),
    ("isaac", "<point_box mention=cat> (1,2) (3,4) </point_box></collection>", [("cat", [(1, 2, 3, 4)])], ["tag_mismatch"], "cat", "a name without quotes, and a closing tag alone"),
    # --- the whole answer says that there is none
    ("qwen3_vl", "None", [(None, [])], ["absent_marker"], "", "the whole answer is the word"),
    ("qwen3_vl", "```json\n[]\n```", [(None, [])], ["absent_marker"], "", "an empty list, fenced"),
    ("ferret", "none.", [(None, [])], ["absent_marker"], "", "the whole answer is the word, with a full stop"),
    ("ferret", "None of them.", [], [], "None of them.", "a sentence that begins with the word"),
    # --- what a decoder leaves of the chat
    ("qwen2_vl", f"{REF}a{END}{BOX}(1,2),(3,4){BEND}<|im_end|>", [("a", [(1, 2, 3, 4)])], [], "a", "the end of the turn is no text"),
    ("paligemma", "<loc0256><loc0000><loc0512><loc0512> cat<eos>", [("cat", [(0, 250, 500, 500)])], [], "cat", "the end of the sequence is no label"),
    # --- thinking: drafts are reported and not part of the answer
    ("ferret", "<think>a [1, 2, 3, 4]</think>b [5, 6, 7, 8]", [("b", [(5, 6, 7, 8)])], ["draft_box", "phrase_guessed"], "b", "a thought, then the answer"),
    ("ferret", "<think>a [1, 2, 3, 4] and so on", [], ["draft_box"], "", "never ends: all draft"),
    ("ferret", "a [1, 2, 3, 4]</think>b [5, 6, 7, 8]", [("b", [(5, 6, 7, 8)])], ["draft_box", "phrase_guessed"], "b", "opened in the prompt"),
    ("ferret", "<think>a<think>b</think>c</think>", [], ["tag_mismatch", "tag_mismatch"], "c", "thoughts in thoughts"),
    # --- every family: what its answers look like, and how they break
    ("asmv2", "<ref>car</ref><box>[[0, 333, 999, 666]]</box>", [("car", [(0, 333 * K, 999 * K, 666 * K)])], [], "car", "InternVL's bytes in 999ths"),
    ("asmv2", "<ref>car</ref><box>[[1, 2, 3, 4], [5, 6", [("car", [(K, 2 * K, 3 * K, 4 * K)])], ["truncated"], "car", "cut in the second box: the first was closed"),
    ("asmv2", "<ref>car</ref><box>[[1, 2, 3]]</box>", [], ["wrong_arity"], "car", "three numbers"),
    ("asmv2", "car[[0, 333, 999, 666]]", [("car", [(0, 333 * K, 999 * K, 666 * K)])], ["phrase_guessed", "tags_stripped"], "car", "stripped tags"),
    ("asmv2", "<ref>car</ref><box>[[0, 0, 999, 1000]]</box>", [("car", [(0, 0, 999 * K, 1000 * K)])], ["out_of_range"], "car", "a thousand is too many"),
    ("deepseek_vl2", "<|ref|>The giraffe at the back.<|/ref|><|det|>[[580, 270, 999, 900]]<|/det|>", [("The giraffe at the back.", [(580 * K, 270 * K, 999 * K, 900 * K)])], [], "The giraffe at the back.", "the family's form, with the end of the sentence inside the tag"),
    ("deepseek_vl2", "<|ref|>a dog<|/ref|><|det|>[[1, 2, 3, 4], [5, 6, 7, 8]]<|/det|><｜end▁of▁sentence｜>", [("a dog", [(K, 2 * K, 3 * K, 4 * K), (5 * K, 6 * K, 7 * K, 8 * K)])], [], "a dog", "several boxes, and the end of the sequence"),
    ("deepseek_vl2", "<|ref|>a<|/ref|><|det|>[[1, 2, 3, 4], [5, 6, 7", [("a", [(K, 2 * K, 3 * K, 4 * K)])], ["truncated"], "a", "cut in the second box: the first was closed"),
    ("deepseek_vl2", "<|ref|>a<|/ref|><|det|>[[1, 2, 3, 4, 5]]<|/det|>", [], ["wrong_arity"], "a", "five numbers"),
    ("deepseek_vl2", "<|ref|>a<|/ref|><|det|>[[1, 2, 3, 4]]<|ref|>b<|/ref|><|det|>[[5, 6, 7, 8]]<|/det|>", [("a", [(K, 2 * K, 3 * K, 4 * K)]), ("b", [(5 * K, 6 * K, 7 * K, 8 * K)])], ["nested_tag"], "a b", "a phrase tag where the box should be closed"),
    ("deepseek_vl2", "a dog[[1, 2, 3, 4]]", [("a dog", [(K, 2 * K, 3 * K, 4 * K)])], ["phrase_guessed", "tags_stripped"], "a dog", "stripped tags"),
    ("deepseek_vl2", "<|ref|>a<|/ref|><|det|>[[900, 800, 100, 200]]<|/det|>", [("a", [(900 * K, 800 * K, 100 * K, 200 * K)])], ["reversed"], "a", "reversed corners"),
    ("llava", "[0.40, 0.57, 0.63, 0.71]", [(None, [(400, 570, 630, 710)])], [], "", "a bare answer"),
    ("llava", "The dog is at [0.40, 0.57, 0.63, 0.71].", [("The dog is at", [(400, 570, 630, 710)])], ["phrase_guessed"], "The dog is at.", "a sentence around the answer"),
    ("llava", "[0.1, 0.2, 0.3", [], ["truncated"], "", "cut inside the box"),
    ("llava", "[12, 34, 56, 78]", [(None, [(12000, 34000, 56000, 78000)])], ["out_of_range"], "", "thousandths for fractions"),
    ("llava:original", "[0.10, 0.20, 0.30, 0.40]", [(None, [(100, 200, 300, 400)])], [], "", "fractions of the image itself"),
    ("llava", "[0.1, 0.2, 0.3]", [], ["wrong_arity"], "", "three numbers"),
    ("shikra", "Answer: [0.100,0.200,0.300,0.400] .", [(None, [(100, 200, 300, 400)])], [], "Answer:.", "the family's answer to Where is"),
    ("shikra", "a man[0.100,0.200,0.3", [], ["truncated"], "a man", "cut inside the box"),
    ("shikra", "a man[0.900,0.800,0.100,0.200]", [("a man", [(900, 800, 100, 200)])], ["phrase_guessed", "reversed"], "a man", "reversed corners"),
    ("cogvlm", "a man[[900,800,100,200]]", [("a man", [(900, 800, 100, 200)])], ["phrase_guessed", "reversed"], "a man", "reversed corners"),
    ("cogvlm", "a man[[1,2,3]]", [], ["wrong_arity"], "a man", "three numbers"),
    ("cogvlm", "[[086,540,400,760]]", [(None, [(86, 540, 400, 760)])], [], "", "a bare answer"),
    ("qwen_vl", "<ref>dog</ref><box>(0,333),(999,666)</box>", [("dog", [(0, 333 * K, 999 * K, 666 * K)])], [], "dog", "the family's form in 999ths"),
    ("qwen_vl:1000", "<ref>dog</ref><box>(0,333),(1000,666)</box>", [("dog", [(0, 333, 1000, 666)])], [], "dog", "in thousandths"),
    ("qwen_vl", "<ref>dog</ref><box>(0,0),(999,1000)</box>", [("dog", [(0, 0, 999 * K, 1000 * K)])], ["out_of_range"], "dog", "a thousand is too many"),
    ("qwen_vl", "<box>(1,2),(3,4)</box> <box>(5,6),(7,8)</box><|endoftext|>", [(None, [(K, 2 * K, 3 * K, 4 * K)]), (None, [(5 * K, 6 * K, 7 * K, 8 * K)])], [], "", "boxes without a phrase, and the end of the sequence"),
    ("qwen2_5_vl", '```json\n[\n\t{"bbox_2d": [252, 252, 504, 504], "label": "a cat"}\n]\n```', [("a cat", [(252 * P, 252 * P, 504 * P, 504 * P)])], [], "a cat.", "the family's form: pixels of 980 x 980"),
    ("qwen2_5_vl", '[{"bbox_2d": [252, 252, 980, 504], "label": "a cat"}]', [("a cat", [(252 * P, 252 * P, 980 * P, 504 * P)])], ["out_of_range"], "a cat.", "beyond the last pixel"),
    ("qwen2_5_vl", '[{"bbox_2d": [1, 2, 3, 4], "label": "a"}, {"bbox_2d": [5, 6, 7, 8], "la', [("a", [(P, 2 * P, 3 * P, 4 * P)])], ["truncated"], "a.", "cut in the second object: the first survives"),
    ("qwen2_5_vl", 'The objects [two] are:\n```json\n{"bbox_2d": [0, 0, 252, 504], "label": "a"}\n```', [("a", [(0, 0, 252 * P, 504 * P)])], [], "The objects [two] are: a.", "a bracket in prose before the fence, and a lone object"),
    ("qwen2_5_vl", '{"bbox_2d": [504, 504, 252, 252], "label": "a"}\n```', [("a", [(504 * P, 504 * P, 252 * P, 252 * P)])], ["reversed"], "a.", "reversed corners, and a lone closing fence"),
    ("qwen2_5_vl", "0,0,252,504 a cat", [("a cat", [(0, 0, 252 * P, 504 * P)])], [], "a cat", "the plain form, on request"),
    ("qwen2_5_vl", '<think>{"bbox_2d": [1, 2, 3, 4], "label": "a"}</think>[{"bbox_2d": [0, 0, 252, 504], "label": "b"}]', [("b", [(0, 0, 252 * P, 504 * P)])], ["draft_box"], "b.", "a draft, then the answer"),
    ("gemini", '```json\n[\n  {"box_2d": [100, 200, 300, 400], "label": "a dog"},\n  {"box_2d": [500, 600, 700, 800], "label": "a cat"}\n]\n```', [("a dog", [(200, 100, 400, 300)]), ("a cat", [(600, 500, 800, 700)])], [], "a dog and a cat.", "the family's form, fenced"),
    ("gemini", '[{"box_2d": [300, 200, 100, 400], "label": "x"}]', [("x", [(200, 300, 400, 100)])], ["reversed"], "x.", "bottom above top"),
    ("gemini", '[{"box_2d": [1, 2, 3, 4], "mask": "iVBO", "label": "x"}]', [("x", [(2, 1, 4, 3)])], [], "x.", "a mask beside the box"),
    ("gemini", '[{"point": [10, 20], "label": "x"}]', [], ["non_box_payload"], "x.", "a point"),
    ("gemini", '[{"box_2d": [1, 2, 3, 4], "label": "x"}, {"box_2d": [1, 2', [("x", [(2, 1, 4, 3)])], ["truncated"], "x.", "cut in the second object: the first survives"),
    ("gemini", "[]", [(None, [])], ["absent_marker"], "", "an empty list"),
    ("qwen3_vl", '[{"label": "x"}, {"bbox_2d": [1, 2, 3, 4], "label": "y"}]', [("y", [(1, 2, 3, 4)])], [], "x and y.", "an object whose box was removed keeps its label"),
    ("qwen3_vl", '[{"label": "x"}]', [], [], "x.", "the only box was removed"),
    ("qwen3_vl", '{"label": "x"}\n[1, 2, 3, 4]', [(None, [(1, 2, 3, 4)])], [], '{"label": "x"}', "a bare list behind an object without a box"),
    ("qwen3_vl", '[{"bbox_2d": [1, 2, 3, 99999], "label": "a"}]', [("a", [(1, 2, 3, 99999)])], ["out_of_range"], "a.", "runaway digits, still a number"),
    ("minicpm_v", "<ref>a</ref><box>900 800 100 200</box>", [("a", [(900, 800, 100, 200)])], ["reversed"], "a", "reversed corners"),
    ("minicpm_v", "<ref>a</ref><box>1 2 3 4</box> and <ref>b</ref><box>5 6 7 1001</box>", [("a", [(1, 2, 3, 4)]), ("b", [(5, 6, 7, 1001)])], ["out_of_range"], "a and b", "two phrases, the second box too far"),
    ("minicpm_v", "<ref>a</ref><box>1 2 3 4 5</box>", [], ["wrong_arity"], "a", "five numbers"),
    ("locate_anything", "<ref>a</ref><box><1><2><3></box>", [], ["wrong_arity"], "a", "three numbers"),
    ("locate_anything", "<ref>a</ref><box><1><2><3><4></box>, <ref>a</ref><box><5><6><7><8></box>", [("a", [(1, 2, 3, 4)]), ("a", [(5, 6, 7, 8)])], [], "a, a", "detection repeats the phrase"),
    ("locate_anything", "<ref>a</ref><box><900><800><100><200></box>", [("a", [(900, 800, 100, 200)])], ["reversed"], "a", "reversed corners are not sorted"),
    ("locate_anything", "<ref>a</ref><box>None</box>", [("a", [])], ["absent_marker"], "a", "the capital of its training data"),
    ("locate_anything", "<ref>a</ref><box><1><2><3><", [], ["truncated"], "a", "cut inside a token"),
    ("minigpt_v2", "<p>x</p> {<1><2><3>}", [], ["wrong_arity"], "x", "three numbers"),
    ("minigpt_v2", "<p>x</p> {<90><80><10><20>}", [("x", [(900, 800, 100, 200)])], ["reversed"], "x", "reversed corners"),
    ("minigpt_v2", "<p>x</p> {<1><2><3><101>}", [("x", [(10, 20, 30, 1010)])], ["out_of_range"], "x", "a bin too many"),
    ("minigpt_v2", "<p>x</p> {<1><2><3", [], ["truncated"], "x", "cut inside a token"),
    ("rex_omni", "<|object_ref_start|>a<|object_ref_end|><|box_start|><1><2><3", [], ["truncated"], "a", "cut inside a token"),
    ("rex_omni", "<|object_ref_start|>a<|object_ref_end|><|box_start|><1><2><3><1000><|box_end|>", [("a", [(K, 2 * K, 3 * K, 1000 * K)])], ["out_of_range"], "a", "a thousand is too many"),
    ("rex_omni", "a<1><2><3><4>", [("a", [(K, 2 * K, 3 * K, 4 * K)])], ["phrase_guessed", "tags_stripped"], "a", "stripped tags"),
    ("internvl", "<ref>a</ref><box>[[900, 800, 100, 200]]</box>", [("a", [(900, 800, 100, 200)])], ["reversed"], "a", "reversed corners"),
    ("internvl", "<ref>cat</ref><box>[[1, 2, 3, 4]]</box>\n<ref>dog</ref><box>[[5, 6, 7, 8]]</box>", [("cat", [(1, 2, 3, 4)]), ("dog", [(5, 6, 7, 8)])], [], "cat dog", "detection: a line per class"),
    ("kosmos2", "<phrase> a</phrase><object><patch_index_0000><patch_ind", [], ["truncated"], "a", "cut inside a token"),
    ("kosmos2", "<phrase> a</phrase><object><patch_index_0033><patch_index_0000></object>", [("a", [(46.875, 46.875, 15.625, 15.625)])], ["reversed"], "a", "reversed corners"),
    ("paligemma:1023", "<loc0256><loc0000><loc0512><loc1023> cat", [("cat", [(0, 256 * L, 1023 * L, 512 * L)])], [], "cat", "in 1023rds"),
    ("paligemma", "<loc0512><loc0000><loc0256><loc0512> cat", [("cat", [(0, 500, 500, 250)])], ["reversed"], "cat", "reversed corners"),
    ("paligemma", "<loc0001><loc0002><loc0003><loc0004><loc0005> cat", [], ["wrong_arity"], "cat", "five tokens"),
    ("florence2:int", "cat<loc_0><loc_0><loc_499><loc_999>", [("cat", [(0, 0, 499, 999)])], ["phrase_guessed"], "cat", "whole pixels, as transformers has them"),
    ("florence2", "cat<loc_9><loc_8><loc_7><loc_6>", [("cat", [(9.5, 8.5, 7.5, 6.5)])], ["phrase_guessed", "reversed"], "cat", "reversed corners"),
    ("florence2", "cat<loc_0><loc_0><loc_1><loc_1000>", [("cat", [(0.5, 0.5, 1.5, 1000.5)])], ["out_of_range", "phrase_guessed"], "cat", "a bin too many"),
    ("glm4v", "<|begin_of_box|>[[900,800,100,200]]<|end_of_box|>", [(None, [(900, 800, 100, 200)])], ["reversed"], "", "reversed corners"),
    ("glm4v", "<|begin_of_box|>[[1,2,3,4],[5,6", [(None, [(1, 2, 3, 4)])], ["truncated"], "", "cut in the second box: the first was closed"),
    ("isaac", '<point_box mention="a"> (9,8) (7,6) </point_box>', [("a", [(9, 8, 7, 6)])], ["reversed"], "a", "reversed corners"),
    ("isaac", '<point_box mention="a"> (1,2), (3,4) </point_box>', [("a", [(1, 2, 3, 4)])], [], "a", "a comma between the corners"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "text", "mentions", "problems", "plain", "reason"), ROWS, ids=[f"{row[0]}: {row[-1]}" for row in ROWS])
def test_reading(
    name: str, text: str, mentions: list[tuple[str | None, list[tuple[float, ...]]]], problems: list[str], plain: str, reason: str
) -> None:
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
