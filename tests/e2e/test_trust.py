"""A run is what its configuration, its data and its weights say, or the next command says what changed: one
line, exit code 2, nothing written.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file, save_file

from spr.scenes.embedded import checkpoint_folder
from spr.scenes.files import SplitFiles
from spr.store.lease import sole_writer
from spr.store.run import Run
from tests.e2e.tools import changed, code_of, config_of, files_of, line_of, spr


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file and folder, with what a write would change."""
    return {
        str(p.relative_to(folder)): (p.stat().st_mtime_ns, p.stat().st_size) if p.is_file() else (0, 0)
        for p in folder.rglob("*")
    }


@pytest.fixture
def copy(finished: tuple[Run, Path], tmp_path: Path) -> tuple[Path, tuple[str, ...]]:
    """A copy of the finished run, and the words that make a command work on it."""
    shutil.copytree(finished[0].root, tmp_path / "copy")
    return tmp_path / "copy", (str(finished[1]), "--set", f"run={tmp_path / 'copy'}")


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("file", "damage", "command", "verb"),
    [
        ("index/annotations.parquet", flip, "regions", "index"),
        ("index/_stage.json", flip, "regions", "index"),
        ("regions/part-00000.parquet", flip, "describe", "regions"),
        ("candidates/part-00001.parquet", Path.unlink, "score", "describe"),
        ("candidates/_stage.json", lambda p: p.write_text("{"), "score", "describe"),
        ("scores/part-00001.parquet", lambda p: p.write_bytes(p.read_bytes()[:99]), "pair", "score"),
        (
            "scores/part-00000.parquet",
            lambda p: shutil.copy(p, p.with_name("part-9.parquet")),
            "pair",
            "score",
        ),
        ("pairs/part-00000.parquet", flip, "train", "pair"),
        ("pairs/_stage.json", lambda p: p.write_text(p.read_text().replace("rows", "row")), "train", "pair"),
        ("adapter/spr/adapter_model.safetensors", flip, "evaluate", "train"),
        ("evaluation/test/base/part-00000.parquet", flip, "evaluate", "evaluate"),
        ("scores/part-00000.parquet", flip, "report", "score"),
    ],
)
def test_damage_is_one_line_with_the_way_out(
    copy: tuple[Path, tuple[str, ...]],
    capsys: pytest.CaptureFixture[str],
    file: str,
    damage: Callable[[Path], Any],
    command: str,
    verb: str,
) -> None:
    """Whichever stage reads it, before a model is loaded."""
    run, words = copy
    later = {"regions": ["regions"], "describe": ["candidates"], "score": ["scores"], "pair": ["pairs"]}
    for folder in [*later.get(command, []), *(["adapter"] if command == "train" else [])]:
        shutil.rmtree(run / folder)
    damage(run / file)
    before = snapshot(run)
    line = line_of(capsys, 2, command, *words)
    assert file.split("/")[0] in line
    assert f"--overwrite {verb}" in line
    assert snapshot(run) == before


# --- what is noticed ------------------------------------------------------------------------------


@pytest.fixture
def own(
    world: dict[str, SplitFiles], finished: tuple[Run, Path], tmp_path: Path
) -> tuple[Path, Path, tuple[str, ...]]:
    """The finished run on data and weights of its own: (the folder of these, the run, words of a command)."""
    data = tmp_path / "data"
    shutil.copytree(world["pair"].folder.parent, data / "world")
    shutil.copytree(checkpoint_folder("mllm"), data / "mllm")
    shutil.copytree(finished[0].root, tmp_path / "copy")
    return data, tmp_path / "copy", moved(finished[1], data, tmp_path / "copy")


def moved(config: Path, data: Path, run: Path) -> tuple[str, ...]:
    """The words of a command on the same run, whose data and weights lie elsewhere."""
    settings = yaml.safe_load(config.read_text())
    benchmark = settings["evaluate"]["benchmarks"][0]
    changes = {
        "run": run,
        "data.annotations": data / "world" / "pair" / "instances.json",
        "data.images": data / "world" / "pair" / "images",
        "model.folder": data / "mllm",
        "evaluate.benchmarks.0.path": data / "world" / "test" / Path(benchmark["path"]).name,
        "evaluate.benchmarks.0.images": data / "world" / "test" / "images",
    }
    return (str(config), *changed(*(f"{k}={v}" for k, v in changes.items())))


def test_data_and_weights_may_lie_anywhere(
    own: tuple[Path, Path, tuple[str, ...]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another mount, another working directory, `x/../y`: nothing is made again, nothing refused."""
    data, run, words = own
    before = files_of(run)
    monkeypatch.chdir(tmp_path)
    spr("run", *words)
    spr("run", words[0], *(w.replace("/data/", "/data/world/../") for w in words[1:]))
    assert {k: v for k, v in files_of(run).items() if not k.startswith(("evaluation", "report"))} == {
        k: v for k, v in before.items() if not k.startswith(("evaluation", "report"))
    }
    # the answers stay; their rows name the images where they lie now
    rows = Run(str(run)).read_json("evaluation", "test", "spr", "metrics.json")
    assert rows == json.loads(before["evaluation/test/spr/metrics.json"])
    assert str(data).encode() in (run / "evaluation/test/spr/predictions.parquet").read_bytes()


@pytest.mark.parametrize("command", ["index", "regions", "describe", "score", "pair", "train", "run"])
def test_a_changed_annotation_is_noticed_by_every_command_behind_it(
    own: tuple[Path, Path, tuple[str, ...]], capsys: pytest.CaptureFixture[str], command: str
) -> None:
    data, run, words = own
    file = data / "world" / "pair" / "instances.json"
    text = json.loads(file.read_text())
    text["annotations"] = text["annotations"][:-3]
    file.write_text(json.dumps(text))
    before = snapshot(run)
    line = line_of(capsys, 2, command, *words)
    assert "changed: annotations" in line
    assert "--overwrite index" in line
    assert snapshot(run) == before


@pytest.mark.parametrize(
    ("command", "verb"), [("describe", "describe"), ("score", "describe"), ("evaluate", "describe")]
)
def test_changed_weights_are_noticed_by_every_command_behind_them(
    own: tuple[Path, Path, tuple[str, ...]], capsys: pytest.CaptureFixture[str], command: str, verb: str
) -> None:
    data, run, words = own
    file = data / "mllm" / "model.safetensors"
    weights = load_file(file)
    save_file({name: value * 1.01 for name, value in weights.items()}, file, {"format": "pt"})
    before = snapshot(run)
    line = line_of(capsys, 2, command, *words)
    assert "changed: model)" in line
    assert f"--overwrite {verb}" in line
    assert snapshot(run) == before


@pytest.mark.parametrize(("command", "folder"), [("describe", "candidates"), ("score", "scores")])
def test_a_changed_image_is_noticed_when_it_is_opened(
    own: tuple[Path, Path, tuple[str, ...]], capsys: pytest.CaptureFixture[str], command: str, folder: str
) -> None:
    """Another picture of the same size and name, under the old boxes."""
    data, run, words = own
    shutil.rmtree(run / folder)
    images = data / "world" / "pair" / "images"
    used = Run(str(run)).seen_images("regions")
    names = [seen.image for seen in used]
    shutil.copy(images / names[0], images / names[1])
    line = line_of(capsys, 2, command, *words)
    assert f"{names[1]}: this image was changed" in line
    assert "--overwrite regions" in line


def test_another_setting_of_a_stage_before_is_noticed(
    copy: tuple[Path, tuple[str, ...]], capsys: pytest.CaptureFixture[str]
) -> None:
    """`spr score` with another temperature would score the descriptions of the old one."""
    line = line_of(capsys, 2, "score", *copy[1], "--set", "describe.temperature=0.5")
    assert "changed: describe.temperature)" in line
    assert "--overwrite describe" in line


# --- what is not ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change", ["seed=4", "describe.sampels=3", "model.dialect=florence", "score.annotated=no way"]
)
def test_a_refused_command_writes_nothing(copy: tuple[Path, tuple[str, ...]], change: str) -> None:
    """config.yaml said seed 4, the regions were those of seed 3."""
    run, words = copy
    before = snapshot(run)
    for command in ("regions", "describe", "run"):
        assert code_of(command, *words, "--set", change) == 2
    assert snapshot(run) == before


@pytest.mark.parametrize(
    "change", ["data.annotations=/nowhere.json", "data.images=/nowhere", "data.format=voc"]
)
def test_a_typo_does_not_lock_a_new_folder(world: dict[str, SplitFiles], tmp_path: Path, change: str) -> None:
    config = str(config_of(world, tmp_path / "run"))
    assert code_of("index", config, "--set", change) == 2
    assert not (tmp_path / "run").exists()
    spr("index", config)


def test_who_comes_second_hears_who_works_there(
    copy: tuple[Path, tuple[str, ...]], capsys: pytest.CaptureFixture[str]
) -> None:
    """Readers do not wait: a report may be made while a stage runs."""
    run, words = copy
    shutil.rmtree(run / "scores")
    with sole_writer(Run(str(run)), "scores"):
        line = line_of(capsys, 1, "score", *words)
        assert f"process {os.getpid()} on " in line
        line = line_of(capsys, 1, "run", *words, "--overwrite", "score")
        assert f"process {os.getpid()} on " in line
        spr("report", *words)
        spr("regions", *words)
