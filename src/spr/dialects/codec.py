"""Numbers of a notation <-> pixels of the original image. The one place with divisors, offsets, paddings and
roundings.

Decoding is always in floats: `(v + offset) * side / divisor - pad`. Encoding writes the value whose float
decode is nearest (ties to even), clamped to [0, inclusive maximum] and never to the image; `official=True`
uses the formula that the family published, where there is one.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from spr.types import Box, Frame

FrameKind: TypeAlias = Literal["original", "padded to a square", "resized"]
ModelSize: TypeAlias = Callable[[Frame], tuple[int, int]]
Axis: TypeAlias = tuple[float, float, float, float]
# (pixels on the model's image, its side) -> the number to write
Encoder: TypeAlias = Callable[[float, float], float]


def original_size(frame: Frame) -> tuple[int, int]:
    """(width, height) of the original image. Raises ValueError for an image that has no pixels."""
    if frame.width < 1 or frame.height < 1:
        raise ValueError(
            f"image size: found {frame.width}x{frame.height}, expected sides of at least 1 pixel"
        )
    return frame.width, frame.height


def square_size(frame: Frame) -> tuple[int, int]:
    """(side, side) of the image padded to a square. Raises ValueError for an image that has no pixels."""
    side = max(original_size(frame))
    return side, side


@dataclass(frozen=True, slots=True)
class LinearCodec:
    """v in [0, maximum] on each axis, `divisor` units per side (None: one unit per pixel of the resized
    image).
    """

    divisor: float | None
    maximum: float | None  # None: the resized side - 1
    order: Literal["xyxy", "yxyx"] = "xyxy"
    frame: FrameKind = "original"
    offset: float = 0.0  # added in units when decoding (Florence-2: 0.5)
    decimals: int = 0
    official: Encoder | None = None
    size: ModelSize = original_size
    # decode to whole pixels as transformers' Florence-2 does: lossy, exempt from the round-trip law
    truncate: bool = False

    def axes(self, frame: Frame) -> tuple[Axis, Axis]:
        """(pixels of the side, units of the side, pad in pixels, inclusive maximum) of the first and of the
        second written number, and again of the third and fourth. Raises ValueError for a bad frame.
        """
        width, height = self.size(frame)
        if self.divisor is None or self.maximum is None:
            x = float(frame.width), float(width), 0.0, width - 1.0
            y = float(frame.height), float(height), 0.0, height - 1.0
        else:
            x = float(width), self.divisor, float((width - frame.width) // 2), self.maximum
            y = float(height), self.divisor, float((height - frame.height) // 2), self.maximum
        return (x, y) if self.order == "xyxy" else (y, x)

    def decode(self, values: tuple[float, ...], frame: Frame) -> Box:
        """The box of four written numbers, exactly as written."""
        axes = self.axes(frame)
        if self.truncate:
            a, b, c, d = (
                float(math.trunc(_f32(_f32(v + self.offset) * _f32(side / units))))
                for v, (side, units, _, _) in zip(values, axes * 2, strict=True)
            )
        else:
            (side, units, pad, _), (side2, units2, pad2, _) = axes
            a, b, c, d = [v + self.offset for v in values]
            a, c = a * side / units - pad, c * side / units - pad
            b, d = b * side2 / units2 - pad2, d * side2 / units2 - pad2
        return (a, b, c, d) if self.order == "xyxy" else (b, a, d, c)

    def in_range(self, values: tuple[float, ...], frame: Frame) -> bool:
        """Whether every number lies in [0, inclusive maximum]."""
        (*_, first), (*_, second) = self.axes(frame)
        a, b, c, d = values
        return 0 <= a <= first and 0 <= b <= second and 0 <= c <= first and 0 <= d <= second

    def encode(self, box: Box, frame: Frame, decimals: int, official: bool) -> tuple[float, ...]:
        """The four numbers to write for a box, rounded to `decimals`."""
        pixels = box if self.order == "xyxy" else (box[1], box[0], box[3], box[2])
        values = []
        for p, (side, units, pad, maximum) in zip(pixels, self.axes(frame) * 2, strict=True):
            v = round((p + pad) * units / side - self.offset, decimals)
            if official and self.official is not None:
                v = self.official(p + pad, side)
            values.append(min(max(v, 0.0), maximum) + 0.0)  # -0.0 would be written with its sign
        return tuple(values)


def _f32(v: float) -> float:
    """v in single precision, in which transformers decodes."""
    (rounded,) = struct.unpack("f", struct.pack("f", v))
    return float(rounded)


@dataclass(frozen=True, slots=True)
class PatchCodec:
    """Kosmos-2: two cells of a 32 x 32 grid, upper-left and lower-right, id = row * 32 + column.

    Decoded to the cells' centres; where both lie in the same column or row to the outer edges, as
    transformers' patch_index_to_coordinate does.
    """

    divisor: float = 32
    maximum: float = 1023
    order: str = "cell ids (upper left, lower right)"
    frame: FrameKind = "original"
    offset: float = 0.5
    decimals: int = 0
    size: ModelSize = original_size

    def decode(self, values: tuple[float, ...], frame: Frame) -> Box:
        """The box of two cell ids."""
        n = int(self.divisor)
        width, height = self.size(frame)
        (y1, x1), (y2, x2) = (divmod(int(v), n) for v in values)
        low, high = (0.0, 1.0) if x1 == x2 or y1 == y2 else (self.offset, self.offset)
        w, h = width / n, height / n
        return (x1 + low) * w, (y1 + low) * h, (x2 + high) * w, (y2 + high) * h

    def in_range(self, values: tuple[float, ...], frame: Frame) -> bool:
        """Whether both ids name a cell."""
        return all(0 <= v <= self.maximum for v in values)

    def encode(self, box: Box, frame: Frame, decimals: int, official: bool) -> tuple[float, ...]:
        """floor for the upper-left cell, ceil - 1 for the lower-right one, with 1e-6 slack for float
        noise.
        """
        n = int(self.divisor)
        x1, y1, x2, y2 = (v / side * n for v, side in zip(box, self.size(frame) * 2, strict=True))
        slack = 0.0 if official else 1e-6
        low = [min(max(math.floor(v + slack), 0), n - 1) for v in (x1, y1)]
        high = [min(max(math.ceil(v - slack) - 1, 0), n - 1) for v in (x2, y2)]
        return float(low[1] * n + low[0]), float(high[1] * n + high[0])


Codec: TypeAlias = LinearCodec | PatchCodec
