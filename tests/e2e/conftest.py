"""A small world and one finished run of it, made once for all end-to-end tests (which only read them), by
whichever process of the suite needs them first.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

from spr.scenes.files import SplitFiles, write_split
from spr.store.run import Run
from tests.e2e.tools import config_of, spr


def once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """A folder of the whole suite, made by one of its processes."""
    base = factory.getbasetemp()
    folder = (base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base) / name
    with FileLock(f"{folder}.lock"):
        if not (folder / "made").exists():
            folder.mkdir()
            make(folder)
            (folder / "made").touch()
    return folder


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> dict[str, SplitFiles]:
    found: dict[str, SplitFiles] = {}

    def make(folder: Path) -> None:
        found.update({s: write_split(folder, s, count) for s, count in (("pair", 8), ("test", 4))})
        (folder / "files.pickle").write_bytes(pickle.dumps(found))

    folder = once(tmp_path_factory, "world", make)
    files: dict[str, SplitFiles] = pickle.loads((folder / "files.pickle").read_bytes())
    return files


@pytest.fixture(scope="session")
def finished(world: dict[str, SplitFiles], tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Path]:
    folder = once(tmp_path_factory, "run", lambda folder: spr("run", str(config_of(world, folder / "whole"))))
    return Run(str(folder / "whole")), folder / "whole.yaml"
