"""Numbers of a notation <-> pixels of the original image. The one place with divisors, offsets, paddings and
roundings.

Decoding is always in floats: `(v + offset) * side / divisor - pad`. Encoding writes the value whose float
decode is nearest (ties to even), clamped to [0, inclusive maximum] and never to the image; `official=True`
uses the formula that the family published, where there is one.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

from spr.types import Box, Frame

FrameKind: TypeAlias = Literal["original", "padded to a square", "padded at the end", "resized"]
ModelSize: TypeAlias = Callable[[Frame], tuple[int, int]]
Axis: TypeAlias = tuple[float, float, float, float]
# (pixels on the model's image, its side) -> the number to write
Encoder: TypeAlias = Callable[[float, float], float]
# written numbers -> the box exactly as written, and whether every number is in its range
Reader: TypeAlias = Callable[[Sequence[float]], tuple[Box, bool]]


class Order(NamedTuple):
    """Where in the four written numbers x, y and the second pair of x and y stand, and what that pair is: the
    other corner, or width and height from a corner or around a centre.
    """

    places: tuple[int, int, int, int]
    form: Literal["corners", "size", "centre"]


ORDERS: Mapping[str, Order] = {
    "xyxy": Order((0, 1, 2, 3), "corners"),
    "yxyx": Order((1, 0, 3, 2), "corners"),
    "xxyy": Order((0, 2, 1, 3), "corners"),
    "yyxx": Order((2, 0, 3, 1), "corners"),
    "xywh": Order((0, 1, 2, 3), "size"),
    "yxhw": Order((1, 0, 3, 2), "size"),
    "cxcywh": Order((0, 1, 2, 3), "centre"),
}


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


def shrunk(frame: Frame, longest_side: int) -> Frame:
    """The image as it is when its longer side was brought down to `longest_side` pixels beforehand."""
    width, height = original_size(frame)
    scale = min(1.0, longest_side / max(width, height))
    return Frame(max(1, round(width * scale)), max(1, round(height * scale)))


@dataclass(frozen=True, slots=True)
class LinearCodec:
    """v in [0, maximum] on each axis, `divisor` units per side (None: one unit per pixel of the image that
    `size` speaks of).
    """

    divisor: float | None
    maximum: float | None  # None: the side in units - `edge`
    order: str = "xyxy"
    frame: FrameKind = "original"
    offset: float = 0.0  # added in units when decoding (Florence-2: 0.5)
    decimals: int = 0
    official: Encoder | None = None
    size: ModelSize = original_size
    # decode to whole pixels as transformers' Florence-2 does: lossy, exempt from the round-trip law
    truncate: bool = False
    edge: float = 1.0

    def axes(self, frame: Frame) -> tuple[Axis, Axis]:
        """(pixels of the side, units of the side, pad in pixels, inclusive maximum) of x and of y. Raises
        ValueError for a bad frame.
        """
        width, height = self.size(frame)
        side_x = side_y = max(frame)
        pad_x = pad_y = 0.0
        if self.frame == "padded to a square":
            pad_x, pad_y = float((side_x - frame.width) // 2), float((side_y - frame.height) // 2)
        elif self.frame != "padded at the end":
            side_x, side_y = frame
        x, y = (width, height) if self.divisor is None else (self.divisor, self.divisor)
        most_x, most_y = (x - self.edge, y - self.edge) if self.maximum is None else (self.maximum,) * 2
        return (float(side_x), float(x), pad_x, most_x), (float(side_y), float(y), pad_y, most_y)

    def reader(self, frame: Frame) -> Reader:
        """Reads four written numbers about an image of that size. Raises ValueError for a bad frame."""
        (side, units, pad, most), (side2, units2, pad2, most2) = self.axes(frame)
        (i, j, k, m), form = ORDERS[self.order]
        offset = self.offset

        def read(values: Sequence[float]) -> tuple[Box, bool]:
            a, b, c, d = values[i], values[j], values[k], values[m]
            fits = 0 <= a <= most and 0 <= b <= most2 and 0 <= c <= most and 0 <= d <= most2
            if self.truncate:
                whole = _truncated((a, b, c, d), offset, (side / units, side2 / units2))
                return whole, fits
            x, y = (a + offset) * side / units - pad, (b + offset) * side2 / units2 - pad2
            if form == "corners":
                return (x, y, (c + offset) * side / units - pad, (d + offset) * side2 / units2 - pad2), fits
            w, h = c * side / units, d * side2 / units2
            if form == "centre":
                x, y = x - w / 2, y - h / 2
            return (x, y, x + w, y + h), fits

        return read

    def encode(self, box: Box, frame: Frame, decimals: int, official: bool) -> tuple[float, ...]:
        """The four numbers to write for a box, rounded to `decimals`."""
        axes = self.axes(frame)
        places, form = ORDERS[self.order]
        x1, y1, x2, y2 = box
        pixels = box
        if form != "corners":
            first = ((x1 + x2) / 2, (y1 + y2) / 2) if form == "centre" else (x1, y1)
            pixels = (*first, x2 - x1, y2 - y1)
        values = [0.0] * 4
        for n, (at, p) in enumerate(zip(places, pixels, strict=True)):
            side, units, pad, maximum = axes[n % 2]
            is_place = n < 2 or form == "corners"
            inner, offset = (p + pad, self.offset) if is_place else (p, 0.0)
            v = round(inner * units / side - offset, decimals)
            if official and self.official is not None:
                v = self.official(inner, side)
            values[at] = min(max(v, 0.0), maximum) + 0.0  # -0.0 would be written with its sign
        return tuple(values)


def _truncated(values: Sequence[float], offset: float, scales: tuple[float, float]) -> Box:
    """As transformers' Florence-2 decodes, in single precision, to whole pixels."""
    a, b, c, d = (
        float(math.trunc(_f32(_f32(v + offset) * _f32(scale))))
        for v, scale in zip(values, scales * 2, strict=True)
    )
    return a, b, c, d


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

    def reader(self, frame: Frame) -> Reader:
        """Reads two cell ids."""
        n = int(self.divisor)
        width, height = self.size(frame)
        w, h = width / n, height / n

        def read(values: Sequence[float]) -> tuple[Box, bool]:
            (y1, x1), (y2, x2) = (divmod(int(v), n) for v in values)
            low, high = (0.0, 1.0) if x1 == x2 or y1 == y2 else (self.offset, self.offset)
            box = ((x1 + low) * w, (y1 + low) * h, (x2 + high) * w, (y2 + high) * h)
            return box, all(0 <= v <= self.maximum for v in values)

        return read

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
