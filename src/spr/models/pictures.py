"""How adapters get pictures, and the same cut for every model that looks at a part of one."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

from PIL import Image

from spr.types import Box, Query

# the path of an image -> the picture, RGB, stored pixels (no EXIF rotation)
LoadImage: TypeAlias = Callable[[str], Image.Image]


def crop(image: Image.Image, box: Box) -> Image.Image:
    """The whole pixels that `box` touches, at least one, inside the image."""
    w, h = image.size
    x1, y1 = min(max(math.floor(box[0]), 0), w - 1), min(max(math.floor(box[1]), 0), h - 1)
    x2, y2 = max(min(math.ceil(box[2]), w), x1 + 1), max(min(math.ceil(box[3]), h), y1 + 1)
    return image.crop((x1, y1, x2, y2))


def pictures_of(query: Query, image: Image.Image) -> tuple[Image.Image, ...]:
    """What goes along with a question about `image`: the whole image, then the crop."""
    return (image,) if query.crop is None else (image, crop(image, query.crop))
