"""The resized frame of the Qwen2-VL family: the image is scaled to multiples of `factor` pixels with a
bounded area.

Formula: `smart_resize` of transformers (image_processing_pil_qwen2_vl) and qwen-vl-utils. The coordinates of
Qwen2.5-VL are pixels of this size, so it is part of the contract and cannot be recovered from a text.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from spr.types import Frame

MIN_PIXELS = 56 * 56  # transformers' class default
MAX_PIXELS = 14 * 14 * 4 * 1280  # 1,003,520, transformers' class default
FACTOR = 28  # patch 14 x merge 2
RESIZE_OPTIONS = ("min_pixels", "max_pixels", "factor")


def smart_resize(
    frame: Frame, factor: int = FACTOR, min_pixels: int = MIN_PIXELS, max_pixels: int = MAX_PIXELS
) -> tuple[int, int]:
    """(width, height) that the model sees. Raises ValueError for a side below 1 pixel or an aspect ratio
    above 200.
    """
    w, h = frame.width, frame.height
    if w < 1 or h < 1:
        raise ValueError(f"image size: found {w}x{h}, expected sides of at least 1 pixel")
    if max(w, h) / min(w, h) > 200:
        raise ValueError(f"image size: found {w}x{h}, expected an aspect ratio of at most 200")
    new_h, new_w = round(h / factor) * factor, round(w / factor) * factor
    if new_h * new_w > max_pixels:
        beta = math.sqrt((h * w) / max_pixels)
        new_h = max(factor, math.floor(h / beta / factor) * factor)
        new_w = max(factor, math.floor(w / beta / factor) * factor)
    elif new_h * new_w < min_pixels:
        beta = math.sqrt(min_pixels / (h * w))
        new_h = math.ceil(h * beta / factor) * factor
        new_w = math.ceil(w * beta / factor) * factor
    return new_w, new_h


def resized_in_words(min_pixels: int = MIN_PIXELS, max_pixels: int = MAX_PIXELS, factor: int = FACTOR) -> str:
    """The frame of a contract."""
    return f"resized to {min_pixels}-{max_pixels} px, multiples of {factor}"


def _value(config: Any, name: str) -> Any:
    return config.get(name) if isinstance(config, Mapping) else getattr(config, name, None)


def resize_options(config: Any) -> dict[str, int]:
    """min_pixels, max_pixels and factor from a processor or its configuration: `size` first, then the older
    names, then the defaults.
    """
    size = _value(config, "size") or {}
    found = {
        "min_pixels": _value(size, "shortest_edge") or _value(config, "min_pixels") or MIN_PIXELS,
        "max_pixels": _value(size, "longest_edge") or _value(config, "max_pixels") or MAX_PIXELS,
        "factor": int(_value(config, "patch_size") or 14) * int(_value(config, "merge_size") or 2),
    }
    return {name: int(value) for name, value in found.items()}


def frame_for(config: Any, frame: Frame) -> Frame:
    """The size of the image that a Qwen2-VL-like processor shows to the model. Raises ValueError for an image
    that it refuses.

    `config`: an image processor, what is in its preprocessor_config.json, or the `size` of either alone.
    """
    if _value(config, "shortest_edge") or _value(config, "longest_edge"):
        config = {"size": config}
    options = resize_options(config)
    return Frame(*smart_resize(frame, options["factor"], options["min_pixels"], options["max_pixels"]))
