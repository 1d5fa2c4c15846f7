"""Every family: grammar, codec, contract, prompts. To add one, write one function here and one line in FAMILIES.

Facts are from the families' official code, model cards and maintainers' answers; what no primary source says is marked unverified. An `official`
encoder is the published formula, x on an image of side `side`; it stands beside its text in the contract.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from spr.dialects.base import Grammar
from spr.dialects.brackets import BracketGrammar, N
from spr.dialects.codec import Codec, LinearCodec, PatchCodec, square_size
from spr.dialects.contract import Contract, Prompt
from spr.dialects.glm import GlmGrammar
from spr.dialects.isaac import IsaacGrammar
from spr.dialects.json_objects import JsonGrammar
from spr.dialects.locations import FlorenceGrammar, PaliGemmaGrammar
from spr.dialects.payloads import AngleReader, read_blanks, read_brackets, read_parens
from spr.dialects.resize import FACTOR, MAX_PIXELS, MIN_PIXELS, smart_resize
from spr.dialects.tags import TagGrammar

Family: TypeAlias = tuple[Grammar, Codec, Contract, Mapping[str, Prompt]]
Given: TypeAlias = str | tuple[str, str]  # a prompt of the contract's source, or (prompt, source)

BRACKET_BOX = re.compile(rf"(?<=\[)\s*{N}(?:\s*,\s*{N}){{3}}\s*(?=\])")
PAREN_BOX = re.compile(rf"\(\s*{N}\s*,\s*{N}\s*\)\s*(?:,\s*)?\(\s*{N}\s*,\s*{N}\s*\)")
BLANK_BOX = re.compile(rf"(?<=<box>)\s*{N}(?:\s+{N}){{3}}\s*(?=</box>)")
ANGLE_BOX = re.compile(r"(?:<[0-9]+>){4}")
PATCH_BOX = re.compile(r"<patch_index_[0-9]{4}>\s*<patch_index_[0-9]{4}>")
BARE_BRACKET = re.compile(r"\[[^\[\]]*\]")  # what a box looks like when its tags were stripped
BARE_PARENS = re.compile(r"\([^()]*\)\s*(?:,\s*)?\([^()]*\)")
BARE_ANGLES = re.compile(r"(?:<[0-9]{1,4}>){4}")

OURS = "ours: no official form is published"
FORMS = {
    "grounded_caption": "Describe the image in detail and give the bounding box of each object.",
    "grounded_region": "Describe the objects in the region {region} in detail, with their locations.",
    "rec": "Give the bounding box of this object: {expression}",
    "phrase_grounding": "Give the bounding box of each of these: {phrases}",
    "region_caption": "What is the object in the region {region}?",
}
NOT_PUBLISHED = "not published"


def _family(
    grammar: Grammar, codec: Codec, source: str, *, decode: str, phrase: str, several: str, encode: str = NOT_PUBLISHED, frame: str = "",
    verified: bool = True, **prompts: Given,
) -> Family:  # fmt: skip
    """The contract takes its numbers from the codec; a form of question that a family does not publish is ours and says so."""
    contract = Contract(
        codec.order, codec.divisor, codec.maximum, codec.offset, frame or codec.frame, encode, decode, phrase, several, source, verified
    )
    forms = {name: Prompt(text, OURS) for name, text in FORMS.items()}
    forms |= {name: Prompt(given, source) if isinstance(given, str) else Prompt(*given) for name, given in prompts.items()}
    return grammar, codec, contract, forms


def _paren_payload(boxes: Sequence[Sequence[str]]) -> str:
    return "".join(f"({b[0]},{b[1]}),({b[2]},{b[3]})" for b in boxes)


def _list_payload(boxes: Sequence[Sequence[str]]) -> str:
    return "[" + ", ".join("[" + ", ".join(b) + "]" for b in boxes) + "]"


def _angle_payload(boxes: Sequence[Sequence[str]]) -> str:
    return ",".join("".join(f"<{n}>" for n in b) for b in boxes)


def _blank_payload(boxes: Sequence[Sequence[str]]) -> str:
    return " ".join(" ".join(b) for b in boxes)


def _patch_payload(boxes: Sequence[Sequence[str]]) -> str:
    return "</delimiter_of_multi_objects/>".join("".join(f"<patch_index_{n}>" for n in b) for b in boxes)


def ferret() -> Family:
    """Ferret v1 and Ferret-UI: plain text."""
    return _family(
        BracketGrammar(1, ", ", " "),
        LinearCodec(1000, 999, official=lambda x, side: int(min(max(x, 0), side - 1) * 1000 / side)),
        "apple/ml-ferret ferretui/constants.py",
        encode="int(x * 1000 / W), x clamped to [0, W - 1]", decode="int(v * W / 1000)", phrase="before, guessed", several="[..] [..]",
        grounded_caption="Describe the image in detail.\nInclude the coordinates for each mentioned object.",
        rec="What is the location of {expression} in the image?",
        phrase_grounding="What are the locations of {phrases}?",
        region_caption=("What is the object {region}?", OURS),
    )  # fmt: skip


def shikra() -> Family:
    """Shikra: fractions of the padded square."""
    return _family(
        BracketGrammar(1, ",", ";", glue=""),
        LinearCodec(1, 1, frame="padded to a square", decimals=3, official=lambda x, side: round(x / side, 3), size=square_size),
        "shikras/shikra config/_base_/dataset/template",
        encode="round(x / S, 3), clamped", decode="v * S - (S - W) // 2", phrase="before, guessed", several="[a,b,c,d;e,f,g,h]",
        grounded_caption="Can you provide a description of the image and include the coordinates [x0,y0,x1,y1] for each mentioned object?",
        rec="Where is {expression} in the image?",
        region_caption="Can you give me a description of the region {region} in image?",
    )  # fmt: skip


def llava(padded: bool = True) -> Family:
    """LLaVA-1.5: fractions of the padded square, two decimals. Not padded: LLaVA-OneVision, taken to span the original image (unverified)."""
    side = "S" if padded else "W"
    codec = LinearCodec(1, 1, decimals=2, official=lambda x, side: round(x / side, 2))
    if padded:
        codec = LinearCodec(1, 1, frame="padded to a square", decimals=2, official=codec.official, size=square_size)
    return _family(
        BracketGrammar(1, ", ", " "), codec,
        "haotian-liu/LLaVA issue 606; TRI-ML/vlm-evaluation 16" if padded else "LLaVA-OneVision: no source says which frame",
        encode=f"round(x / {side}, 2)", decode="v * S - (S - W) // 2" if padded else "v * W", phrase="before, guessed", several="none documented",
        verified=padded,
        rec=("Please provide the bounding box coordinate of the region this sentence describes: {expression}", "LLaVA-1.5 data mix"),
        region_caption=("Please provide a short description for this region: {region}.", "LLaVA-1.5 data mix"),
    )  # fmt: skip


def cogvlm() -> Family:
    """CogVLM-grounding: three digits."""
    return _family(
        BracketGrammar(2, ",", ";", digits=3, glue=""), LinearCodec(1000, 999), "zai-org/CogVLM README",
        decode="int(v / 1000 * W)", phrase="before, guessed", several="[[a,b,c,d;e,f,g,h]]",
        grounded_caption="Can you provide a description of the image and include the coordinates [[x0,y0,x1,y1]] for each mentioned object?",
        rec="Where is {expression}? answer in [[x0,y0,x1,y1]] format.",
        region_caption="Tell me what you see within the designated area {region} in the picture.",
    )  # fmt: skip


def kosmos2() -> Family:
    """Kosmos-2: two cells of a grid."""
    grammar = TagGrammar(
        ("<object>", "</object>"), AngleReader("<patch_index_", ">", arity=2, digits="[0-9]{4}", gap=r"\s*"), _patch_payload, PATCH_BOX,
        ref=("<phrase>", "</phrase>"), pad=" ", extra=("<grounding>", "</delimiter_of_multi_objects/>"), forbidden=("<",), bare=PATCH_BOX, digits=4,
    )  # fmt: skip
    return _family(
        grammar, PatchCodec(), "transformers processing_kosmos2.py",
        encode="cells floor(x / W * 32), ceil(x / W * 32) - 1", decode="cell centres; outer edges of two cells in one row or column",
        phrase="<phrase> before", several="delimiter inside <object>",
        grounded_caption="<grounding> Describe this image in detail:",
        rec="<grounding><phrase> {expression}</phrase>",
        phrase_grounding="<grounding><phrase> {phrases}</phrase>",
        region_caption="<grounding><phrase> It</phrase>{region} is",
    )  # fmt: skip


def qwen_vl(divisor: int = 999) -> Family:
    """Qwen-VL; officials divide by 999 in evaluation and by 1000 when drawing."""
    grammar = TagGrammar(
        ("<box>", "</box>"), read_parens, _paren_payload, PAREN_BOX, ref=("<ref>", "</ref>"), several="repeat", others=(("<quad>", "</quad>"),),
        bare=BARE_PARENS,
    )  # fmt: skip
    return _family(
        grammar, LinearCodec(divisor, divisor),
        "QwenLM/Qwen-VL eval_mm/evaluate_grounding.py (999)" if divisor == 999 else "QwenLM/Qwen-VL tokenization_qwen.py (1000)",
        decode="v / 999 * W" if divisor == 999 else "int(v / 1000 * W)", phrase="<ref> before", several="repeated <box>",
        grounded_caption=("Generate the caption in English with grounding:", "QwenLM/Qwen-VL README"),
        rec=("<ref>{expression}</ref><box>", "QwenLM/Qwen-VL eval_mm/evaluate_grounding.py"),
    )  # fmt: skip


def qwen2_vl() -> Family:
    """Qwen2-VL."""
    grammar = TagGrammar(
        ("<|box_start|>", "<|box_end|>"), read_parens, _paren_payload, PAREN_BOX, ref=("<|object_ref_start|>", "<|object_ref_end|>"),
        several="repeat", others=(("<|quad_start|>", "<|quad_end|>"),), bare=BARE_PARENS,
    )  # fmt: skip
    return _family(
        grammar, LinearCodec(1000, 1000, official=lambda x, side: round(x / side * 1000)), "Qwen2-VL paper and cookbook",
        encode="round(x / W * 1000), clamped", decode="v * W / 1000", phrase="tag before", several="repeated box tags",
    )  # fmt: skip


def qwen2_5_vl(min_pixels: int = MIN_PIXELS, max_pixels: int = MAX_PIXELS, factor: int = FACTOR) -> Family:
    """Qwen2.5-VL: pixels of the resized image."""
    size = functools.partial(smart_resize, factor=factor, min_pixels=min_pixels, max_pixels=max_pixels)
    return _family(
        JsonGrammar("bbox_2d"), LinearCodec(None, None, frame="resized", size=size), "QwenLM/Qwen2.5-VL cookbook and issue 991",
        encode="round(x * new_W / W), clamped", decode="int(v / new_W * W)", phrase="JSON label", several="one object per box",
        frame=f"resized to {min_pixels}-{max_pixels} px, multiples of {factor}",
        grounded_caption="Please first output bbox coordinates and names of every item in this image in JSON format, and then describe the image.",
        rec="Locate {expression} in this image and output the bbox coordinates in JSON format.",
        phrase_grounding=("Locate each of these in this image and output the bbox coordinates in JSON format: {phrases}", OURS),
        region_caption=("What is inside {region}?", OURS),
    )  # fmt: skip


def qwen3_vl() -> Family:
    """Qwen3-VL: the JSON of Qwen2.5-VL with relative thousandths."""
    locate = 'locate every instance that belongs to the following categories: "{}". Report bbox coordinates in JSON format.'
    return _family(
        JsonGrammar("bbox_2d"), LinearCodec(1000, 1000, official=lambda x, side: round(x / side * 1000)),
        "QwenLM/Qwen3-VL cookbooks/2d_grounding.ipynb; issue 1741 has 0-999",
        encode="round(x / W * 1000)", decode="int(v / 1000 * W)", phrase="JSON label", several="one object per box",
        rec=locate.format("{expression}"), phrase_grounding=locate.format("{phrases}"),
        region_caption=("What is inside {region}?", "QwenLM/Qwen3-VL issue 1927"),
    )  # fmt: skip


def gemini() -> Family:
    """Gemini 2 and 3: y before x."""
    return _family(
        JsonGrammar("box_2d"), LinearCodec(1000, 1000, order="yxyx"), "google-gemini/cookbook Spatial_understanding",
        decode="int(v / 1000 * W)", phrase="JSON label", several="one object per box",
        rec=("Return the bounding box of {expression} as a JSON array with labels.", OURS),
    )  # fmt: skip


def _ref_box_list(ref: tuple[str, str], box: tuple[str, str]) -> TagGrammar:
    return TagGrammar(box, read_brackets, _list_payload, BRACKET_BOX, ref=ref, bare=BARE_BRACKET)


def internvl() -> Family:
    """InternVL 1.2 to 3.5."""
    return _family(
        _ref_box_list(("<ref>", "</ref>"), ("<box>", "</box>")), LinearCodec(1000, 1000, official=lambda x, side: int(x / side * 1000)),
        "OpenGVLab/InternVL issue 285 and eval/refcoco",
        encode="int(x / W * 1000)", decode="int(v / 1000 * W)", phrase="<ref> before", several="[[..], [..]] in one <box>",
        grounded_caption="Please detect and label all objects in the following image and mark their positions.",
        rec="Please provide the bounding box coordinate of the region this sentence describes: <ref>{expression}</ref>",
    )  # fmt: skip


def asmv2() -> Family:
    """All-Seeing v2: InternVL's bytes, another meaning."""
    grammar, _, _, prompts = internvl()
    codec = LinearCodec(999, 999, frame="padded to a square", official=lambda x, side: int(x / side * 999), size=square_size)
    _, _, contract, _ = _family(
        grammar, codec, "OpenGVLab/all-seeing issue 10",
        encode="int(x / S * 999)", decode="v / 999 * S - (S - W) // 2", phrase="<ref> before", several="[[..], [..]] in one <box>",
    )  # fmt: skip
    return grammar, codec, contract, prompts


def deepseek_vl2() -> Family:
    """DeepSeek-VL2 and DeepSeek-OCR."""
    return _family(
        _ref_box_list(("<|ref|>", "<|/ref|>"), ("<|det|>", "<|/det|>")), LinearCodec(999, 999), "deepseek-ai/DeepSeek-VL2 utils.py and issue 100",
        decode="int(v / 999 * W)", phrase="<|ref|> before", several="[[..], [..]] in one <|det|>",
        rec="<|ref|>{expression}<|/ref|>.", grounded_caption="<|grounding|>Describe the image in detail.",
    )  # fmt: skip


def minicpm_v() -> Family:
    """MiniCPM-V 2.6 and 4.5."""
    grammar = TagGrammar(("<box>", "</box>"), read_blanks, _blank_payload, BLANK_BOX, ref=("<ref>", "</ref>"), several="repeat")
    return _family(
        grammar, LinearCodec(1000, 1000), "OpenBMB/MiniCPM-V issue 982", decode="v / 1000 * W", phrase="<ref> before", several="unverified"
    )


def minigpt_v2() -> Family:
    """MiniGPT-v2: hundredths."""
    grammar = TagGrammar(
        ("{", "}"), AngleReader(), _angle_payload, ANGLE_BOX, ref=("<p>", "</p>"), several="repeat", between="<delim>", glue=" ",
        extra=("<delim>",), bare=BARE_ANGLES, needs=("(?=<-?[0-9])", "(?<=[0-9>])"),
    )  # fmt: skip
    return _family(
        grammar, LinearCodec(100, 100, official=lambda x, side: int(x / side * 100)), "Vision-CAIR/MiniGPT-4 minigpt_v2 and eval_ref.py",
        encode="int(x / W * 100)", decode="v / 100 * W", phrase="<p> before", several="}<delim>{",
        grounded_caption="[grounding] please describe this image in details",
        rec="[refer] give me the location of {expression}", phrase_grounding="[detection] {phrases}",
        region_caption="[identify] what is this {region}",
    )  # fmt: skip


def paligemma(divisor: int = 1024) -> Family:
    """PaliGemma 1 and 2; officials decode by 1024 and by 1023."""
    return _family(
        PaliGemmaGrammar(), LinearCodec(divisor, 1023, order="yxyx", official=lambda x, side: round(x / side * 1023)),
        "big_vision pp/proj/paligemma (encode), HF Space and blog (decode /1024)" if divisor == 1024 else "big_vision evaluators (decode /1023)",
        encode="round(x / W * 1023), clipped", decode=f"v / {divisor} * W", phrase="label behind", several="repeat the item",
        rec="detect {expression}", phrase_grounding="detect {phrases}",
    )  # fmt: skip


def florence2(integer: bool = False) -> Family:
    """Florence-2; transformers truncates to whole pixels."""
    return _family(
        FlorenceGrammar(),
        LinearCodec(1000, 999, offset=0.5, official=lambda x, side: math.floor(x / (side / 1000)), truncate=integer),
        "transformers processing_florence2.py (adds int)" if integer else "microsoft/Florence-2 processing_florence2.py",
        encode="floor(x / (W / 1000)), clamped", decode="int((v + 0.5) * W / 1000)" if integer else "(v + 0.5) * W / 1000",
        phrase="before, guessed", several="4-tuples in a row",
        grounded_caption="<DENSE_REGION_CAPTION>", rec="<OPEN_VOCABULARY_DETECTION>{expression}",
        phrase_grounding="<CAPTION_TO_PHRASE_GROUNDING>{phrases}", region_caption="<REGION_TO_DESCRIPTION>{region}",
    )  # fmt: skip


def glm4v() -> Family:
    """GLM-4.1V to 4.6V."""
    return _family(
        GlmGrammar(), LinearCodec(1000, 1000, official=lambda x, side: round(x / side * 1000)), "zai-org/GLM-V issue 118 and inference examples",
        encode="round(x / W * 1000)", decode="v / 1000 * W", phrase="none (JSON label on request)", several="a list inside the markers",
        rec="Help me to locate {expression} in the image and give me its bounding boxes.",
        phrase_grounding="Please pinpoint the bounding box [[x1,y1,x2,y2], ...] in the image as per the given description. {phrases}",
    )  # fmt: skip


def rex_omni() -> Family:
    """Rex-Omni."""
    grammar = TagGrammar(
        ("<|box_start|>", "<|box_end|>"), AngleReader(point=2), _angle_payload, ANGLE_BOX, ref=("<|object_ref_start|>", "<|object_ref_end|>"),
        absent="None", bare=BARE_ANGLES,
    )  # fmt: skip
    detect = "Detect {}. Output the bounding box coordinates in [x0, y0, x1, y1] format."
    return _family(
        grammar, LinearCodec(999, 999, official=lambda x, side: int(x / side * 999)), "IDEA-Research/Rex-Omni",
        encode="int(x / W * 999)", decode="v / 999 * W", phrase="tag before", several="comma inside the tag",
        rec=detect.format("{expression}"), phrase_grounding=detect.format("{phrases}"),
    )  # fmt: skip


def locate_anything() -> Family:
    """LocateAnything."""
    grammar = TagGrammar(
        ("<box>", "</box>"), AngleReader(), _angle_payload, ANGLE_BOX, ref=("<ref>", "</ref>"), several="repeat", absent="none", bare=BARE_ANGLES
    )
    return _family(
        grammar, LinearCodec(1000, 1000), "NVlabs/Eagle Embodied, LocateAnything",
        decode="v / 1000 * W", phrase="<ref> before", several="repeated <box>",
        rec="Locate a single instance that matches the following description: {expression}.",
        phrase_grounding="Locate all the instances that matches the following description: {phrases}.",
    )  # fmt: skip


def isaac() -> Family:
    """Isaac of Perceptron (scale unverified)."""
    return _family(
        IsaacGrammar(), LinearCodec(1000, 1000), "perceptron-ai/isaac (scale: third party)",
        decode="v / 1000 * W", phrase="attribute mention", several="<collection>", verified=False,
        rec=("<hint>BOX</hint> Where is {expression}?", OURS),
    )  # fmt: skip


FAMILIES: Mapping[str, Callable[..., Family]] = {
    "ferret": ferret, "shikra": shikra, "llava": llava, "kosmos2": kosmos2, "qwen_vl": qwen_vl, "qwen2_vl": qwen2_vl, "qwen2_5_vl": qwen2_5_vl,
    "qwen3_vl": qwen3_vl, "internvl": internvl, "asmv2": asmv2, "cogvlm": cogvlm, "minigpt_v2": minigpt_v2, "paligemma": paligemma,
    "florence2": florence2, "deepseek_vl2": deepseek_vl2, "glm4v": glm4v, "gemini": gemini, "rex_omni": rex_omni,
    "locate_anything": locate_anything, "minicpm_v": minicpm_v, "isaac": isaac,
}  # fmt: skip
VARIANTS: Mapping[str, Callable[..., Family]] = {
    "qwen_vl:999": qwen_vl, "qwen_vl:1000": functools.partial(qwen_vl, 1000), "paligemma:1024": paligemma,
    "paligemma:1023": functools.partial(paligemma, 1023), "florence2:float": florence2, "florence2:int": functools.partial(florence2, True),
    "llava:original": functools.partial(llava, False),
}  # fmt: skip
OPTIONS: Mapping[str, tuple[str, ...]] = {"qwen2_5_vl": ("min_pixels", "max_pixels", "factor")}  # keywords that a family takes
