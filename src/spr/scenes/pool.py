"""Training data of the recipe: pools of scenes drawn once, and batches drawn from them by (seed, stage, step) alone.

In: a folder. Out: uint8 pixels at the models' 112 px (memory-mapped) and objects; batches of images with targets. A batch depends on nothing but
its step, so a resumed run sees the same data.
"""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from spr.scenes.architectures import PIXELS
from spr.scenes.world import SIZE, SceneObject, draw_scene

MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(3, 1, 1)  # CLIP's
STD = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(3, 1, 1)


@dataclass(frozen=True)
class Pool:
    """`pixels` (n, 112, 112, 3) uint8 and the objects of each scene (boxes in the 224 px of the original)."""

    pixels: NDArray[np.uint8]
    objects: list[tuple[SceneObject, ...]]

    def images(self, indices: Sequence[int]) -> torch.Tensor:
        """(b, 3, 112, 112) float32, normalised as CLIP's processor does."""
        raw = torch.from_numpy(np.ascontiguousarray(self.pixels[list(indices)]))
        return (raw.permute(0, 3, 1, 2).float() / 255 - MEAN) / STD

    @cached_property
    def size(self) -> int:
        """Number of scenes."""
        return len(self.objects)


def _draw(index: int, seed: int, split: str, count: tuple[int, int] | None) -> tuple[NDArray[np.uint8], list[tuple[str, tuple[float, ...]]]]:
    scene = draw_scene(seed, split, index, count)
    small = Image.fromarray(scene.pixels).resize((PIXELS, PIXELS), Image.Resampling.BICUBIC)
    return np.asarray(small), [(o.noun, o.box) for o in scene.objects]


def make_pool(folder: Path, name: str, split: str, start: int, count: int, seed: int, objects: tuple[int, int] | None = None) -> Pool:
    """Draw the pool unless it is there already; two processes, a minute for 25,000 scenes."""
    folder.mkdir(parents=True, exist_ok=True)
    pixels_path, objects_path = folder / f"{name}.npy", folder / f"{name}.json"
    if not objects_path.exists():
        pixels = np.lib.format.open_memmap(pixels_path, "w+", np.uint8, (count, PIXELS, PIXELS, 3))
        found: list[list[tuple[str, tuple[float, ...]]]] = []
        with multiprocessing.get_context("spawn").Pool(2) as workers:
            draw = partial(_draw, seed=seed, split=split, count=objects)
            for i, (image, names) in enumerate(workers.imap(draw, range(start, start + count), chunksize=64)):
                pixels[i] = image
                found.append(names)
        pixels.flush()
        objects_path.write_text(json.dumps(found))
    raw = json.loads(objects_path.read_text())
    pixels = np.load(pixels_path, mmap_mode="r")
    return Pool(pixels, [tuple(SceneObject(noun, tuple(box)) for noun, box in scene) for scene in raw])


def patch_targets(objects: Sequence[SceneObject], side: int) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]:
    """Per patch (side * side): index of the smallest object over its centre (-1: none), that object's box (unit xyxy), and how central it is.

    Centrality is a Gaussian of the distance between patch centre and box centre in units of a quarter of the box (CenterNet's idea), and exactly 1
    at the nearest patch of each object.
    """
    at = (np.arange(side) + 0.5) / side
    x, y = np.meshgrid(at, at)
    owner = np.full(side * side, -1, dtype=np.int64)
    boxes = np.zeros((side * side, 4), dtype=np.float32)
    heat = np.zeros(side * side, dtype=np.float32)
    order = sorted(range(len(objects)), key=lambda i: -(objects[i].box[2] - objects[i].box[0]) * (objects[i].box[3] - objects[i].box[1]))
    for i in order:
        x1, y1, x2, y2 = (v / SIZE for v in objects[i].box)
        cx, cy = (x1 + x2) / 2, (y1 + y2) / 2
        inside = ((x >= x1) & (x <= x2) & (y >= y1) & (y <= y2)).ravel()
        distance = (((x - cx) / (x2 - x1)) ** 2 + ((y - cy) / (y2 - y1)) ** 2).ravel() * 16
        nearest = int((((x - cx) ** 2 + (y - cy) ** 2).ravel()).argmin())
        inside[nearest] = True
        owner[inside] = i
        boxes[inside] = (x1, y1, x2, y2)
        heat[inside] = np.exp(-distance[inside] / 2)
        heat[nearest] = 1.0
    return owner, boxes, heat
