"""A small world of plain pictures with random objects, and all its benchmark files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spr.evaluation.config import BenchmarkConfig
from spr.scenes.files import image_name
from spr.scenes.world import NOUNS, Thing
from tests.support.benchmark_forms import SIZE, World
from tests.support.benchmarks import write_benchmarks


def scene(rng: np.random.Generator) -> tuple[Thing, ...]:
    """Five to seven objects on a grid, so that none overlap; some nouns twice."""
    names = list(NOUNS)
    cells = rng.permutation(9)[: int(rng.integers(5, 8))].tolist()
    found: list[Thing] = []
    for k, cell in enumerate(cells):
        x, y = 74 * (cell % 3) + int(rng.integers(0, 10)), 74 * (cell // 3) + int(rng.integers(0, 10))
        noun = found[-1].noun if k == 3 else names[int(rng.integers(len(names)))]
        found.append(
            Thing(
                noun, (float(x), float(y), x + float(rng.integers(20, 60)), y + float(rng.integers(20, 60)))
            )
        )
    return tuple(found)


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Six scenes; the pictures are plain, because nobody looks at them."""
    folder = tmp_path_factory.mktemp("world")
    for i in range(6):
        Image.new("RGB", (SIZE, SIZE), (40 * i, 90, 120)).save(folder / image_name(i))
    return World(tuple(scene(np.random.default_rng([5, i])) for i in range(6)), folder)


@pytest.fixture(scope="session")
def benchmarks(world: World, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, BenchmarkConfig]:
    """Every form, written once."""
    return {b.name: b for b in write_benchmarks(world, tmp_path_factory.mktemp("forms"))}


@pytest.fixture
def forms(benchmarks: Mapping[str, BenchmarkConfig], tmp_path: Path) -> Path:
    """A copy of the files that a test may break."""
    import shutil

    out = tmp_path / "forms"
    shutil.copytree(Path(benchmarks["mdetr"].path).parent, out)
    return out
