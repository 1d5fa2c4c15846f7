"""A small world of plain pictures with random objects, and all its benchmark files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from spr.evaluation.config import BenchmarkConfig
from tests.support.benchmark_forms import World, plain_world
from tests.support.benchmarks import write_benchmarks


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Six scenes."""
    return plain_world(tmp_path_factory.mktemp("world"), 6)


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
