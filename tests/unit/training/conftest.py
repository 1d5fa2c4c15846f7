"""Pairs over pictures of noise, and a tiny LLaVA checkpoint, shared by the tests of training."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
import torch

from tests.contract.checkpoints import build


@pytest.fixture(scope="session")
def llava(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of a random LLaVA."""
    return str(build("llava", tmp_path_factory.mktemp("training")))


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """The same sums in the same order; and objects of libraries are no garbage (accelerate collects before
    every training).
    """
    torch.set_num_threads(1)
    gc.freeze()


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "adapter"
