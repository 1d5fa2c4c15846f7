"""A small world and one finished run of it, made once for all end-to-end tests (which only read them)."""

from __future__ import annotations

from pathlib import Path

import pytest

from spr.scenes.files import SplitFiles, write_split
from spr.store.run import Run
from tests.e2e.tools import config_of, spr


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> dict[str, SplitFiles]:
    folder = tmp_path_factory.mktemp("world")
    return {split: write_split(folder, split, count) for split, count in (("pair", 8), ("test", 4))}


@pytest.fixture(scope="session")
def finished(world: dict[str, SplitFiles], tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Path]:
    config = config_of(world, tmp_path_factory.mktemp("run") / "whole")
    spr("run", str(config))
    return Run(str(config.with_suffix(""))), config
