"""What end-to-end tests share: a configuration of a small run, and the command line as a function."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pytest
import yaml

from spr.cli import run_cli
from spr.scenes.files import SplitFiles
from spr.scenes.language import PROMPTS, WHERE
from spr.store.run import Run

STEPS = ("regions", "candidates", "scores", "pairs")


def config_of(world: dict[str, SplitFiles], run: Path) -> Path:
    pair, test = world["pair"], world["test"]
    config = {
        "run": str(run),
        "seed": 3,
        "data": {"format": "coco", "annotations": str(pair.coco), "images": str(pair.images)},
        "model": {"folder": "embedded:mllm", "dialect": "florence2"},
        "semantic": {"folder": "embedded:clip"},
        "detector": {"folder": "embedded:owl"},
        "prompts": {name: asdict(template) for name, template in PROMPTS.items()},
        "describe": {"templates": ["plain", "crop_objects"], "samples": 2, "max_new_tokens": 96},
        "pair": {"min_margin": 0.001},
        "train": {"learning_rate": 1e-4, "batch": 4, "epochs": 2, "save_steps": 2},
        "adapters": {"spr_paper": {}, "spr": {"sft_weight": 1.0, "rejected_coordinates": "none"}},
        "evaluate": {
            "bootstrap": 100,
            "benchmarks": [
                {
                    "name": "test",
                    "protocol": "rec",
                    "format": "mdetr",
                    "path": str(test.expressions),
                    "images": str(test.images),
                    "prompt": WHERE,
                    "max_new_tokens": 8,
                }
            ],
        },
        "runtime": {"workers": 1, "threads": 1, "shard_size": 4},
        "doctor": "off",  # it has tests of its own
    }
    path = run.parent / f"{run.name}.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def code_of(*arguments: str) -> int:
    """The exit code of a command, in this process."""
    try:
        run_cli(list(arguments))
    except SystemExit as e:
        return int(e.code or 0)


def spr(*arguments: str) -> None:
    """A command that succeeds."""
    assert code_of(*arguments) == 0


def line_of(capsys: pytest.CaptureFixture[str], code: int, *arguments: str) -> str:
    """The one line that a command ends with, and the code that it ends with."""
    capsys.readouterr()
    assert code_of(*arguments) == code
    said = capsys.readouterr().err
    lines = [line for line in said.splitlines() if line.startswith("spr:")]
    assert len(lines) == 1, said
    assert "Traceback" not in said
    return lines[0]


def changed(*changes: str) -> list[str]:
    """The options of a command that change its configuration."""
    return [word for change in changes for word in ("--set", change)]


def shards_of(run: Run, folders: Sequence[str] = STEPS) -> dict[str, bytes]:
    """The bytes of all shards of some stages."""
    root = Path(run.root)
    return {
        str(p.relative_to(root)): p.read_bytes()
        for f in folders
        for p in sorted((root / f).rglob("part-*.parquet"))
    }


def differences(run: Path, whole: Path) -> list[str]:
    """The files of two runs that are not equal, or are in one of them only."""
    ours, theirs = files_of(run), files_of(whole)
    return sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))


def files_of(root: Path) -> dict[str, bytes]:
    """The bytes of all files of a run that two equal runs have in common: times apart, and config.yaml, which
    names the folder.
    """
    apart = ("_times.json", "times.jsonl", "config.yaml")
    return {
        str(p.relative_to(root)): p.read_bytes()
        for p in sorted(root.rglob("*"))
        if p.is_file() and p.name not in apart
    }
