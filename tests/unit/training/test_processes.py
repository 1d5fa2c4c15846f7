"""Trainings that are killed, and trainings in two processes: both end where one undisturbed process does."""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

CHANGES = {"epochs": 48, "save_steps": 1, "batch": 4}


def launch(
    model: str, out: Path, changes: dict[str, Any], *more: str, **environment: str
) -> subprocess.Popen[str]:
    command = [
        sys.executable,
        "-m",
        "tests.unit.training.worker",
        model,
        str(out),
        json.dumps(changes),
        *more,
    ]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **environment}
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(*processes: subprocess.Popen[str]) -> list[str]:
    printed = []
    for process in processes:
        out, err = process.communicate(timeout=240)
        assert process.returncode == 0, err[-3000:]
        printed.append(out)
    return printed


def losses(out: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (out / "history.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_killed_at_ten_random_moments(llava: str, tmp_path: Path) -> None:
    """SIGKILL, wherever it strikes: in the reference pass, in a step, while a checkpoint is written."""
    moments = [random.Random(7).uniform(0.1, 2.5) for _ in range(10)]
    _, hits = finish(
        launch(llava, tmp_path / "whole", CHANGES),
        launch(llava, tmp_path / "killed", CHANGES, json.dumps(moments)),
    )
    assert int(hits) >= 5, "most kills came too late to mean anything"
    a, b = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("whole", "killed"))
    assert all(bool((a[key] == b[key]).all()) for key in a)
    assert losses(tmp_path / "whole") == losses(tmp_path / "killed")


def world() -> list[dict[str, str]]:
    """Environments of two processes."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    common = {
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    return [{**common, "RANK": str(r), "LOCAL_RANK": str(r)} for r in range(2)]


@pytest.mark.slow
def test_two_processes_are_one(llava: str, tmp_path: Path) -> None:
    """gloo on the CPU. 12 pairs in steps of 11: the second step of an epoch has one pair, which leaves a
    process without any. The small token budget makes the processes need different numbers of forward
    passes."""
    changes = {"epochs": 3, "batch": 11, "tokens": 400}
    finish(launch(llava, tmp_path / "one", changes))
    finish(*[launch(llava, tmp_path / "two", changes, **environment) for environment in world()])
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), abs=1e-5)
    a, b = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("one", "two"))
    assert max(float((a[key] - b[key]).abs().max()) for key in a) < 1e-4


@pytest.mark.slow
def test_sharded_weights_give_the_same_gradients(llava: str) -> None:
    """torch's fully_shard (FSDP 2) on two CPU processes: the answers' head works inside the model's forward,
    so the sharded one is complete there.

    accelerate itself wraps with DDP on a CPU, whatever the FSDP settings say; so Trainer's own FSDP path is
    not run here.
    """
    command = [sys.executable, "-m", "tests.unit.training.sharded", llava]
    processes = [
        subprocess.Popen(
            command,
            env={**os.environ, "OMP_NUM_THREADS": "1", **e},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for e in world()
    ]
    for printed in finish(*processes):
        loss, gradient = map(float, printed.split())
        assert loss < 1e-5
        assert gradient < 1e-5


def test_the_shipped_fsdp_settings_are_accelerates(tmp_path: Path) -> None:
    """accelerate's own reader takes the file; a misspelt key would be refused."""
    from accelerate.commands.config.config_args import load_config_from_file

    file = Path(__file__).parents[3] / "examples" / "fsdp.yaml"
    found = load_config_from_file(str(file))
    assert found.fsdp_config["fsdp_version"] == 2
    broken = tmp_path / "broken.yaml"
    broken.write_text(file.read_text().replace("mixed_precision", "mixed_precisoin"))
    with pytest.raises(ValueError, match="unknown keys"):
        load_config_from_file(str(broken))
