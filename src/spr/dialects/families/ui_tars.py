"""UI-TARS: Seed's tags, and actions: `click(start_box='(312,480)')`. UI-TARS 1.5 writes pixels of the resized
image, as Qwen2.5-VL does; the first one and Doubao's write thousandths.
"""

from __future__ import annotations

import functools

from spr.dialects.codec import LinearCodec
from spr.dialects.families import seed
from spr.dialects.family import Family, family
from spr.dialects.resize import FACTOR, RESIZE_OPTIONS, resized_in_words, smart_resize

_SOURCE = "ui-tars action_parser.py"
_MIN, _MAX = 100 * 28 * 28, 16384 * 28 * 28


def build(min_pixels: int = _MIN, max_pixels: int = _MAX, factor: int = FACTOR) -> Family:
    """Grammar, codec, contract, prompts."""
    size = functools.partial(smart_resize, factor=factor, min_pixels=min_pixels, max_pixels=max_pixels)
    return family(
        seed.grammar(calls=True),
        LinearCodec(None, None, frame="resized", size=size),
        _SOURCE,
        decode="v / new_W * W",
        phrase="none in actions; before, guessed",
        several="repeated <bbox>",
        frame=resized_in_words(min_pixels, max_pixels, factor),
        writes=("boxes", "points"),
    )


def relative() -> Family:
    """The same in thousandths of the original."""
    return family(
        seed.grammar(calls=True),
        LinearCodec(1000, 1000),
        _SOURCE,
        decode="v / 1000 * W",
        phrase="none in actions; before, guessed",
        several="repeated <bbox>",
        writes=("boxes", "points"),
    )


VARIANTS = {"relative": relative}
OPTIONS = RESIZE_OPTIONS
