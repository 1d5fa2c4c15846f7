"""Qwen2.5-VL: pixels of the resized image."""

from __future__ import annotations

import functools

from spr.dialects.codec import LinearCodec
from spr.dialects.family import Family, family
from spr.dialects.json_objects import JsonGrammar
from spr.dialects.resize import FACTOR, MAX_PIXELS, MIN_PIXELS, RESIZE_OPTIONS, resized_in_words, smart_resize


def build(min_pixels: int = MIN_PIXELS, max_pixels: int = MAX_PIXELS, factor: int = FACTOR) -> Family:
    """Grammar, codec, contract, prompts."""
    size = functools.partial(smart_resize, factor=factor, min_pixels=min_pixels, max_pixels=max_pixels)
    return family(
        JsonGrammar("bbox_2d"),
        LinearCodec(None, None, frame="resized", size=size),
        "QwenLM/Qwen2.5-VL cookbook and issue 991",
        encode="round(x * new_W / W), clamped",
        decode="int(v / new_W * W)",
        phrase="JSON label",
        several="one object per box",
        frame=resized_in_words(min_pixels, max_pixels, factor),
        grounded_caption="Please first output bbox coordinates and names of every item in this image in "
        "JSON format.",
        rec="Locate {expression} in this image and output the bbox coordinates in JSON format.",
    )


OPTIONS = RESIZE_OPTIONS
