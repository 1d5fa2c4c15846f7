"""The random checkpoints, built once per session."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.contract.checkpoints import build


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """Folder of the random checkpoint of a family."""
    root: Path = tmp_path_factory.mktemp("families")
    return lambda name: str(build(name, root))
