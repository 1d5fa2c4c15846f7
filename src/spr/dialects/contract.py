"""What the numbers of a notation mean, and how its family is asked: two small records, each with its
source.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Prompt:
    """A form of question. `text` has {expression}, {phrases} or {region} where they belong; `source` says who
    published it.
    """

    text: str
    source: str


@dataclass(frozen=True, slots=True)
class Contract:
    """What the numbers of a notation mean. `str(contract)` is one readable line.

    Formulas: x = pixels on the model's image, v = a written number, W = a side of the original image, S = its
    longer side.
    """

    order: str  # xyxy, yxyx, or cell ids
    divisor: float | None  # units per side; None = pixels of the resized image
    maximum: float | None  # inclusive; None = resized side - 1
    offset: float  # in units, added before decoding
    frame: str  # original, padded to a square, resized to ...
    # the published encoder as a formula, or "not published"; get_dialect(..., encode="official") writes with
    # it
    encode: str
    official_decode: str  # the published decoder as a formula; ours is always its float form
    phrase: str  # where the phrase stands
    several: str  # how several boxes of one phrase are written
    source: str
    verified: bool = True
    writes: tuple[str, ...] = ("boxes",)  # "boxes", "points"
    edge: float = 1.0  # of pixels: the inclusive maximum is the side less this

    @property
    def scale(self) -> str:
        """Units and inclusive range in words."""
        return (
            "pixels, 0 to side" + (f" - {self.edge:g}" if self.edge else "")
            if self.divisor is None
            else f"{self.divisor:g} per side, 0 to {self.maximum:g}"
        )

    def __str__(self) -> str:
        offset = f" · offset {self.offset:g}" if self.offset else ""
        mark = "" if self.verified else " · unverified"
        writes = "" if self.writes == ("boxes",) else f" · writes {' and '.join(self.writes)}"
        return (
            f"{self.order} · {self.scale} · {self.frame}{offset} · encode {self.encode} · decode "
            f"{self.official_decode}"
            f" · phrase {self.phrase} · several boxes: {self.several}{writes} · {self.source}{mark}"
        )
