"""Trainings that are killed, and trainings in two processes: both end where one undisturbed process does."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from spr.training.loop import Steps
from tests.contract.checkpoints import build

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


def losses(out: Path, file: str = "history.jsonl") -> list[float]:
    return [json.loads(line)["loss"] for line in (out / file).read_text().splitlines()]


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


FSDP = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "false",
}
DEEPSPEED = {"ACCELERATE_USE_DEEPSPEED": "true", "DS_ACCELERATOR": "cpu"}
LAYERS = {
    "llava_phi": "PhiDecoderLayer,CLIPEncoderLayer",
    "qwen2_5_vl": "Qwen2_5_VLDecoderLayer,Qwen2_5_VLVisionBlock",
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "model", "dtype", "close", "parts"),
    [
        ("ddp", "llava_phi", "float64", 1e-8, ("language",)),
        ("fsdp", "llava_phi", "float64", 1e-8, ("language",)),
        ("ddp", "llava_phi", "float64", 1e-8, ("language", "tower")),
        ("ddp", "qwen2_5_vl", "float64", 1e-5, ("language",)),  # whose norms work in float32
        ("fsdp", "qwen2_5_vl", "float64", 1e-5, ("language",)),
        ("zero2", "llava_phi", "float32", 1e-5, ("language",)),  # DeepSpeed knows no float64
        ("zero3", "llava_phi", "float32", 1e-5, ("language",)),
    ],
)
def test_two_processes_are_one(
    kind: str, model: str, dtype: str, close: float, parts: tuple[str, ...], tmp_path: Path
) -> None:
    """gloo on the CPU: copies of the model (DDP), accelerate's FSDP 2, DeepSpeed where it is installed.

    14 pairs, 2 of them held out, in steps of 11: the second step of an epoch has one pair, which leaves a
    process without any. The small token budget makes the processes need different numbers of forward passes.
    The reference pass is rank 0's, so that rank 1 has no image features. Both processes are killed in the
    fourth step; nothing has features then. A sharded forward waits for all processes: with one pass, or one
    image, more on one of them it would wait for ever.
    """
    changes: dict[str, Any] = {"dtype": dtype, "epochs": 3, "batch": 11, "tokens": 400, "save_steps": 1}
    changes |= {"held_out": 0.05, "lora_parts": parts}  # the first of seven images
    folder, environment = str(build(model, tmp_path)), dict[str, str]()
    finish(launch(folder, tmp_path / "one", changes))
    if kind == "fsdp":
        environment = {**FSDP, "FSDP_TRANSFORMER_CLS_TO_WRAP": LAYERS[model]}
    elif kind != "ddp":
        pytest.importorskip("deepspeed")
        stage = {"zero_optimization": {"stage": int(kind[-1])}, "gradient_clipping": 1.0}
        stage |= {"train_micro_batch_size_per_gpu": 1, "gradient_accumulation_steps": 1}
        environment, changes["trainer"] = DEEPSPEED, {"deepspeed": stage}
    two = tmp_path / "two"
    killed = [launch(folder, two, changes, **environment, **e, DIES_IN="4") for e in world()]
    for process in killed:
        process.communicate(timeout=240)
    assert [process.returncode for process in killed] == [-signal.SIGKILL] * 2
    assert len(losses(two)) == 3
    finish(*[launch(folder, two, changes, **environment, **e) for e in world()])
    for file in ("history.jsonl", "held_out.jsonl"):
        assert losses(two, file) == pytest.approx(losses(tmp_path / "one", file), abs=close)
    a, b = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("one", "two"))
    assert a.keys() == b.keys()
    assert max(float((a[key] - b[key]).abs().max()) for key in a) < close


@given(
    st.lists(st.integers(1, 6), min_size=1, max_size=8),
    st.integers(1, 8),
)
def test_processes_part_few_images(pairs_of_images: list[int], processes: int) -> None:
    """Each pair is one process's, and the pairs of an image stay together but where one process's share
    ends: dealt out one by one, 4 pairs of each of 8 images were encoded 32 times by 4 processes.
    """
    images = [image for image, count in enumerate(pairs_of_images) for _ in range(count)]
    shares = [next(iter(Steps([range(len(images))], rank, processes))) for rank in range(processes)]
    counted = [[i for i, total in share if total] for share in shares]
    assert [i for share in counted for i in share] == list(range(len(images)))
    assert all(shares)
    encodes = sum(len({images[i] for i in share}) for share in counted)
    assert encodes <= len(pairs_of_images) + processes - 1


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
