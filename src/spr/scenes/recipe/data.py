"""Training data of the recipe: scenes squashed to what the models see, as one array per set, with their
things in pixels of the scene.

In: a folder, a scale. Out: NAME.npy (n, 112, 112, 3) uint8 and NAME.json (a `Seen` per scene); for `regions`
also regions_crop.npy. Deterministic, and written under a temporary name first: what is there is complete.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import random
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.progress import track

from spr.boxes import as_boxes
from spr.scenes.world import NOUNS, Thing, scene_of
from spr.stages.regions import grow
from spr.store.files import whole, write_whole
from spr.types import Box, Frame

# as spr.scenes.recipe.architectures has it; torch is not imported here, because the drawing processes do not
# need it
PIXELS = 112
CHUNK = 250  # scenes per task of a drawing process
# scenes by split of the world
COUNTS: Mapping[str, int] = {"train": 40_000, "easy": 12_000, "regions": 12_000}
NUMBER: Mapping[str, int] = {noun: k for k, noun in enumerate(NOUNS)}
Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Seen:
    """A scene without its picture. `region` and what it holds are given in the set `regions` only."""

    width: int
    height: int
    things: tuple[Thing, ...]
    region: Box | None = None
    held: tuple[Thing, ...] = ()

    @property
    def frame(self) -> Frame:
        """Size in pixels."""
        return Frame(self.width, self.height)

    def unit_boxes(self) -> NDArray[np.float32]:
        """(n, 4): the things' boxes as shares of the image."""
        size = np.array([self.width, self.height, self.width, self.height])
        unit: NDArray[np.float32] = (as_boxes([t.box for t in self.things]) / size).astype(np.float32)
        return unit

    def largest_first(self) -> list[int]:
        """Indices of the things by falling area, so that what is written last is the smallest."""
        unit = self.unit_boxes()
        order: list[int] = np.argsort(-(unit[:, 2:] - unit[:, :2]).prod(1), kind="stable").tolist()
        return order


@dataclass(frozen=True, slots=True)
class TrainingSet:
    """Pictures (memory-mapped) and what is on them."""

    images: Pixels
    seen: Sequence[Seen]
    crops: Pixels | None = None


def region_in(things: Sequence[Thing], rng: random.Random) -> tuple[Box, list[Thing]]:
    """A region with one to six things or more, grown as the pipeline grows its own (method 2.1), and what it
    holds.
    """
    growth = grow([t.box for t in things], rng.randrange(len(things)), rng.randint(1, 6))
    return growth.box, [things[i] for i in growth.held]


def _squash(image: Image.Image) -> Pixels:
    return np.asarray(image.resize((PIXELS, PIXELS), Image.Resampling.BICUBIC))


def _draw(task: tuple[str, int, int]) -> tuple[list[Pixels], list[Seen]]:
    """Some scenes of a split: the array of pictures, for `regions` also that of crops, and what is on
    them.
    """
    split, first, count = task
    images, crops, seen = [], [], []
    for index in range(first, first + count):
        scene = scene_of(split, index)
        images.append(_squash(scene.image))
        if split != "regions":
            seen.append(Seen(*scene.image.size, scene.things))
            continue
        box, held = region_in(scene.things, random.Random(f"region/{index}"))
        x1, y1, x2, y2 = (round(v) for v in box)
        crops.append(_squash(scene.image.crop((x1, y1, x2, y2))))
        seen.append(Seen(*scene.image.size, scene.things, box, tuple(held)))
    return [np.stack(part) for part in (images, crops) if part], seen


def write_sets(folder: Path, scale: float, processes: int) -> None:
    """Draw the sets that are not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    missing = {
        name: max(64, round(full * scale))
        for name, full in COUNTS.items()
        if not (folder / f"{name}.json").exists()
    }
    if missing:
        with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
            for name, count in missing.items():
                _write_set(folder, name, count, pool)


def _write_set(folder: Path, name: str, count: int, pool: ProcessPoolExecutor) -> None:
    tasks = [(name, at, min(CHUNK, count - at)) for at in range(0, count, CHUNK)]
    parts = (name, f"{name}_crop") if name == "regions" else (name,)
    seen: list[Seen] = []
    with contextlib.ExitStack() as files:
        arrays = [_array(files.enter_context(whole(folder / f"{part}.npy")), count) for part in parts]
        for drawn, rows in track(pool.map(_draw, tasks), description=f"data: {name}", total=len(tasks)):
            for array, pictures in zip(arrays, drawn, strict=True):
                array[len(seen) : len(seen) + len(rows)] = pictures
            seen += rows
        for array in arrays:
            array.flush()
    write_whole(folder / f"{name}.json", json.dumps([_row(s) for s in seen]))


def _array(path: Path, count: int) -> np.memmap[tuple[int, ...], np.dtype[np.uint8]]:
    return np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(count, PIXELS, PIXELS, 3))


def _things(things: Sequence[Thing]) -> list[tuple[str, Box]]:
    return [(t.noun, t.box) for t in things]


def _row(s: Seen) -> list[object]:
    return [s.width, s.height, _things(s.things), s.region, _things(s.held)]


def read_set(folder: Path, name: str) -> TrainingSet:
    """A set that was written before."""
    rows = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))

    def things(values: Sequence[tuple[str, Sequence[float]]]) -> tuple[Thing, ...]:
        return tuple(Thing(noun, (box[0], box[1], box[2], box[3])) for noun, box in values)

    seen = [
        Seen(w, h, things(all_of_it), tuple(region) if region else None, things(held))
        for w, h, all_of_it, region, held in rows
    ]
    crops = np.load(folder / f"{name}_crop.npy", mmap_mode="r") if name == "regions" else None
    return TrainingSet(np.load(folder / f"{name}.npy", mmap_mode="r"), seen, crops)
