"""Read and write boxes in the notation of every model family, without losing a byte. Needs the standard
library only.

>>> from spr.dialects import Frame, get_dialect
>>> d, frame = get_dialect("qwen3_vl"), Frame(640, 480)
>>> g = d.parse('[{"bbox_2d": [100, 200, 500, 1000], "label": "cat"}]', frame)
>>> g.mentions[0].phrase, g.mentions[0].boxes
('cat', ((64.0, 96.0, 320.0, 480.0),))
"""

from spr.dialects.base import Dialect, Part
from spr.dialects.catalogue import get_dialect, known_names
from spr.dialects.contract import Contract, Prompt
from spr.dialects.convert import convert
from spr.dialects.families import FAMILIES, VARIANTS
from spr.dialects.resize import frame_for, resize_options, smart_resize
from spr.types import Frame, GroundedText, Mention, Problem

__all__ = [
    "FAMILIES",
    "VARIANTS",
    "Contract",
    "Dialect",
    "Frame",
    "GroundedText",
    "Mention",
    "Part",
    "Problem",
    "Prompt",
    "convert",
    "frame_for",
    "get_dialect",
    "known_names",
    "resize_options",
    "smart_resize",
]
