"""One front door: every way a command can end is one line and its exit code; what cannot work is said before
anything is touched.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from spr import __version__
from spr.cli.main import _signals, verdict
from spr.doctor.verdict import Finding
from spr.errors import (
    BusyError,
    ConfigError,
    DamagedRunError,
    ModelError,
    SprError,
    UnfinishedError,
    UserError,
)
from spr.models.openai_endpoint import Patience
from spr.scenes.embedded import checkpoint_folder
from spr.scenes.files import SplitFiles
from spr.store.folders import STAGES
from spr.store.run import Run
from tests.e2e.tools import changed, code_of, config_of, files_of, line_of, shards_of, spr
from tests.unit.models.fault_server import Script, serve


def command(*words: str, **environment: str) -> list[Any]:
    """`spr` in a process of its own: its words, and what it is started with."""
    return [[sys.executable, "-m", "spr", *words], {**os.environ, **environment}]


def ended(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    words_, env = command(*words, **environment)
    return subprocess.run(words_, env=env, capture_output=True, text=True, check=False)


# --- errors and exit codes ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        *((kind("a: b"), 2, "a: b") for kind in (UserError, ConfigError, DamagedRunError)),
        *((kind("a: b"), 1, "a: b") for kind in (SprError, BusyError, UnfinishedError, ModelError)),
        (
            FileNotFoundError(2, "No such file or directory", "a/b.json"),
            1,
            "a/b.json: No such file or directory",
        ),
        (OSError(28, "No space left on device", "a"), 1, "a: No space left on device; once there is room, "),
        (RuntimeError("I/O error: No space left on device (os error 28)"), 1, "once there is room, the same"),
        (OSError(27, "File too large"), 1, "File too large; once there is room"),
        (MemoryError(), 1, "out of memory; the same command goes on"),
        (ModuleNotFoundError("No module named 'trl'", name="trl"), 2, 'pip install "spr-vlm[train]"'),
        (ModuleNotFoundError("No module named 'PIL'", name="PIL.Image"), 2, 'pip install "spr-vlm[data]"'),
        (ImportError("Install s3fs to access S3"), 2, "Install s3fs to access S3"),
        (KeyError("x"), 1, "KeyError: 'x'; a fault of spr itself, --debug shows where"),
        (RecursionError("maximum recursion"), 1, "RecursionError: maximum recursion; a fault"),
        (ValueError("several\nlines\x1b[2J"), 1, "ValueError: several lines\\x1b[2J"),
        (ValueError(), 1, "ValueError: ValueError"),
    ],
)
def test_every_error_has_a_line_and_a_code(error: Exception, code: int, said: str) -> None:
    found, line = verdict(error)
    assert found == code
    assert said in line
    assert line.isprintable()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nope"], "No such command 'nope'. (spr --help)"),
        (["run"], "Missing argument 'CONFIG'. (spr run --help)"),
        (["run", "PATH", "--bogus"], "No such option: --bogus"),
        (["run", "PATH", "--until", "bogus"], "unknown stage 'bogus'"),
        (["run", "PATH", "--overwrite", "bogus"], "unknown stage 'bogus'"),
        (["ablate", "PATH", "--vary", "a=1", "--overwrite", "bogus"], "a: unknown key"),
        (["run", "nowhere.yaml"], "nowhere.yaml: no such file"),
        (["evaluate"], "neither CONFIG nor --predictions"),
        (["report", "PATH"], "found no finished stage"),
        (["regions", "PATH", "--preview", "nodir/x.html"], "--preview nodir/x.html: expected a file"),
        (["describe", "PATH", "--preview", "."], "--preview .: expected a file"),
        (["export", "PATH", "--format", "trl", "--out", "PATH"], "found a file, expected a new"),
        (["train", "PATH", "--merge", "FULL"], "found files, expected a new or an empty folder"),
        (["run", "PATH", "--set", "run=PATH"], "found a file, expected a folder"),
        (["run", "PATH", "--set", "run=PATH/inside"], "found a file, expected a folder"),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(
    world: dict[str, SplitFiles],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    said: str,
) -> None:
    path = config_of(world, tmp_path / "run")
    (tmp_path / "full" / "spr").mkdir(parents=True)
    (tmp_path / "full" / "spr" / "x").touch()
    words = [w.replace("PATH", str(path)).replace("FULL", str(tmp_path / "full")) for w in words]
    assert said in line_of(capsys, 2, *words)
    assert not (tmp_path / "run").exists()


def test_an_unknown_error_is_one_line_and_debug_shows_the_trace(
    world: dict[str, SplitFiles],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = config_of(world, tmp_path / "run")

    def fail(*rest: object) -> None:
        raise KeyError("of the inside")

    monkeypatch.setattr("spr.run.pairs.build_index", fail)
    assert "KeyError: 'of the inside'; a fault of spr itself" in line_of(capsys, 1, "index", str(path))
    assert code_of("index", str(path), "--debug") == 1
    assert "Traceback" in capsys.readouterr().err
    assert code_of("--debug", "index", str(path)) == 1
    assert "in fail" in capsys.readouterr().err


def test_a_message_with_signs_of_another_language(tmp_path: Path) -> None:
    """LC_ALL=C ended in a UnicodeEncodeError, and `:x:` became an emoji."""
    found = ended("run", str(tmp_path / ":x: ü\udcff.yaml"), LC_ALL="C", PYTHONUTF8="0")
    assert found.returncode == 2
    assert ":x: " in found.stderr
    assert len(found.stderr.splitlines()) == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device that is always full")
def test_a_full_disk_under_the_output_is_one_line() -> None:
    words, env = command("dialects")
    with open("/dev/full", "w") as full:
        found = subprocess.run(words, env=env, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert found.returncode == 1
    assert found.stderr == "spr: No space left on device; once there is room, the same command goes on\n"


def test_an_examination_that_found_something_wrong_ends_with_3(
    world: dict[str, SplitFiles], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The doctor said "wrong" and ended with 0, so that no script could ask it."""
    path = config_of(world, tmp_path / "run")
    for verdicts, code in ((["fine", "look"], 0), (["fine", "wrong", "look"], 3)):
        findings = [Finding("a", "b", v) for v in verdicts]  # type: ignore[arg-type]
        monkeypatch.setattr("spr.commands.doctor.doctor_config", lambda *rest, f=findings: f)
        assert code_of("doctor", str(path)) == code
    monkeypatch.undo()
    assert code_of("index", str(path), "--check") == 0
    images = Path(yaml.safe_load(path.read_text())["data"]["images"])
    shutil.copytree(images, tmp_path / "images")
    next(iter(sorted((tmp_path / "images").iterdir()))).write_bytes(b"no picture")
    assert code_of("index", str(path), "--check", "--set", f"data.images={tmp_path / 'images'}") == 3


# --- small commands -------------------------------------------------------------------------------


def test_version_configuration_and_completion(world: dict[str, SplitFiles], tmp_path: Path) -> None:
    path = config_of(world, tmp_path / "run")
    assert ended("--version").stdout == f"spr {__version__}\n"
    shown = yaml.safe_load(ended("config", str(path), "--set", "pairing.lambda=0.5").stdout)
    assert shown["pair"]["lam"] == 0.5
    assert shown["model"]["device"] == "auto"
    assert shown["model"]["folder"] == str(checkpoint_folder("mllm"))
    assert shown["run"] == str(tmp_path / "run")
    assert not (tmp_path / "run").exists()
    words = f"spr run {path} --until "
    asked = ended(_SPR_COMPLETE="complete_bash", COMP_WORDS=words, COMP_CWORD="4")
    assert asked.stdout.split() == list(STAGES)
    assert ended("--help").returncode == ended().returncode == 0


# --- stopped --------------------------------------------------------------------------------------


def heard() -> None:
    """A child of a shell that runs in the background is born deaf to Ctrl-C, and so are the tests there."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_what_is_ignored_from_the_start_stays_ignored() -> None:
    """`nohup spr run …` lives on when its terminal is closed."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with _signals([]):
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.fixture(scope="module")
def in_ones(world: dict[str, SplitFiles], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that nobody stopped, in shards of one item."""
    path = config_of(world, tmp_path_factory.mktemp("ones") / "whole")
    spr("run", str(path), "--until", "describe", "--set", "runtime.shard_size=1")
    return Run(str(path.with_suffix("")))


@pytest.mark.parametrize(("number", "workers"), [(signal.SIGINT, 1), (signal.SIGTERM, 2)])
def test_a_stop_says_how_to_go_on(
    world: dict[str, SplitFiles],
    in_ones: Run,
    tmp_path: Path,
    number: signal.Signals,
    workers: int,
) -> None:
    """Ctrl-C said nothing (typer takes it), and a scheduler's signal killed without a word. What two workers
    had begun, one ends: the files are those of one.
    """
    path = config_of(world, tmp_path / "run")
    more = ["--until", "describe", "--set", f"runtime.workers={workers}", "--set", "runtime.shard_size=1"]
    words, env = command("run", str(path), *more)
    process = subprocess.Popen(words, env=env, stderr=subprocess.PIPE, text=True, preexec_fn=heard)
    end = time.monotonic() + 60
    while not list((tmp_path / "run").glob("candidates/part-*")) and time.monotonic() < end:
        time.sleep(0.05)
    process.send_signal(number)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 128 + number
    assert said.splitlines()[-1] == f"spr: stopped by {number.name}; the same command goes on"
    assert "Traceback" not in said
    spr("run", str(path), "--until", "describe", "--set", "runtime.shard_size=1")
    assert shards_of(Run(str(tmp_path / "run"))) == shards_of(in_ones) != {}


# --- before the first stage -----------------------------------------------------------------------


def folder_of(tmp_path: Path, kind: str, change: Callable[[Path], object]) -> str:
    """A copy of an embedded checkpoint with something wrong in it."""
    shutil.copytree(checkpoint_folder(kind), tmp_path / kind)
    change(tmp_path / kind)
    return str(tmp_path / kind)


def without(*names: str) -> Callable[[Path], None]:
    return lambda folder: [(folder / name).unlink(missing_ok=True) for name in names] and None


def rewritten(name: str, text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(text)


INDEX = '{"weight_map": {"a": "model-00002-of-00002.safetensors"}}'
WRONG: dict[str, tuple[list[str], str]] = {
    "no such device": (["model.device=cuda:7"], "model.device: found 'cuda:7', expected auto"),
    "of the scorer": (["semantic.device=tpu"], "semantic.device: found 'tpu'"),
    "of the detector": (["detector.device=xpu:3"], "detector.device: found 'xpu:3'"),
    "no checkpoint": (["model.folder=."], "cannot load as a checkpoint"),
    "another kind": (
        ["model.folder=embedded:clip"],
        "found a 'clip' model, expected one that takes an image",
    ),
    "a scorer that is none": (["semantic.folder=embedded:mllm"], "semantic.folder: found a"),
    "a detector that is none": (["detector.folder=embedded:clip"], "detector.folder: found a 'clip' model"),
    "no weights": (["model.folder=NO_WEIGHTS"], "found no weights"),
    "half a download": (["model.folder=HALF"], "found no model-00002-of-00002.safetensors"),
    "no tokenizer": (["model.folder=NO_TOKENIZER"], "cannot load as a checkpoint"),
    "no JSON": (["semantic.folder=NO_JSON"], "NO_JSON"),
    "no adapter": (["model.adapter=."], "found no adapter_config.json"),
    "no annotations": (["data.annotations=nowhere.json"], "nowhere.json: no such file"),
    "no images": (["data.images=nowhere"], "nowhere"),
    "no benchmark": (["evaluate.benchmarks.0.path=nowhere.json"], "nowhere.json: no such file"),
    "no protocol": (["evaluate.benchmarks.0.protocol=rek"], "unknown protocol 'rek' (did you mean 'rec'?)"),
    "no field of a prompt": (["evaluate.benchmarks.0.prompt={what}"], "what"),
    "no setting of a trainer": (["train.trainer={learning_speed: 1}"], "unknown setting 'learning_speed'"),
    "no such devices": (
        ["runtime.devices=[cpu,cuda:5]"],
        "runtime.devices: found 'cuda:5', expected",
    ),
    "spread twice": (
        ["model.device=spread", "runtime.workers=2"],
        "model.device: found spread with runtime.workers: 2, expected 1",
    ),
    "one description": (["describe.templates=[plain]", "describe.samples=1"], "expected at least 2 descri"),
    "points in the place of boxes": (
        ["model.dialect=molmo"],
        "model.dialect: found molmo, which writes points only, expected one with boxes",
    ),
    "an adapter at a server": (
        ["model.kind=endpoint", "model.url=http://127.0.0.1:9/v1", "model.server=other"],
        "model.server: found 'other' with an adapter, which it cannot load",
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("started", [False, True], ids=["new", "overwrite"])
def test_what_cannot_work_is_said_before_anything_is_touched(
    world: dict[str, SplitFiles],
    finished: tuple[Run, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    wrong: str,
    started: bool,
) -> None:
    """It was said after hours of the stages before, and after --overwrite had removed them."""
    path = config_of(world, tmp_path / "run")
    changes, said = WRONG[wrong]
    broken = {
        "NO_WEIGHTS": ("mllm", without("model.safetensors")),
        "HALF": ("mllm", rewritten("model.safetensors.index.json", INDEX)),
        "NO_TOKENIZER": ("mllm", without("tokenizer.json", "tokenizer_config.json")),
        "NO_JSON": ("clip", rewritten("config.json", "{")),
    }
    for name, (kind, change) in broken.items():
        if any(name in text for text in changes):
            folder = folder_of(tmp_path, kind, change)
            changes, said = [text.replace(name, folder) for text in changes], said.replace(name, folder)
    words = changed(*changes)
    before = {}
    if started:
        shutil.copytree(finished[0].root, tmp_path / "run")
        words += ["--overwrite", "index"]
        before = files_of(tmp_path / "run")
    assert said in line_of(capsys, 2, "run", str(path), *words)
    assert files_of(tmp_path / "run") == before if started else not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "code", "said"),
    [
        (["runtime.executor=ray"], 1, "spr: RAY_ADDRESS: no Ray cluster answers at 127.0.0.1:9"),
        (["runtime.executor=dask"], 2, "spr: runtime.executor: found 'dask', expected"),
        (
            ["runtime.workers=2", "run=memory://x"],
            2,
            "spr: run: found memory://x, which no other",
        ),
    ],
)
def test_a_crew_that_cannot_work_is_said_before_anything_is_touched(
    world: dict[str, SplitFiles],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    changes: list[str],
    code: int,
    said: str,
) -> None:
    """Ray itself would wait for minutes for a cluster that is not there."""
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    words = changed(*changes)
    assert line_of(capsys, code, "run", str(config_of(world, tmp_path / "run")), *words).startswith(said)
    assert not (tmp_path / "run").exists()


def test_a_crew_without_its_package_is_said_first(
    world: dict[str, SplitFiles],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    line = line_of(capsys, 2, "run", str(config_of(world, tmp_path / "run")), "--executor", "ray")
    assert 'needs an optional dependency: pip install "spr-vlm[ray]"' in line
    assert not (tmp_path / "run").exists()


def test_a_finished_run_needs_nothing_any_more(
    world: dict[str, SplitFiles], finished: tuple[Run, Path], tmp_path: Path
) -> None:
    """What is not going to be used is not looked at: a run from a GPU is read on a laptop."""
    path = config_of(world, tmp_path / "run")
    shutil.copytree(finished[0].root, tmp_path / "run")
    devices = ("model.device=cuda:7", "semantic.device=cuda", "detector.device=cuda")
    spr("run", str(path), *changed(*devices))


@pytest.mark.parametrize("extra", ["trl", "duckdb", "transformers", "jinja2"])
def test_a_missing_extra_is_said_first(
    world: dict[str, SplitFiles],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    extra: str,
) -> None:
    monkeypatch.setattr("spr.run.preflight.find_spec", lambda name: None if name == extra else object())
    line = line_of(capsys, 2, "run", str(config_of(world, tmp_path / "run")))
    assert f"({extra}) needs an optional dependency: pip install" in line
    assert not (tmp_path / "run").exists()


def at(url: str, *more: str) -> list[str]:
    changes = changed("model.kind=endpoint", f"model.url={url}", "model.served_name=m", *more)
    return ["--until", "describe", *changes]


@pytest.mark.parametrize(
    ("server", "code", "said"),
    [
        (Script(status=401), 2, "the server refuses a request without key"),
        (Script(status=404), 2, "knows no model 'm'"),
        (Script(status=307, headers={"Location": "http://x"}), 2, "sends us to http://x"),
        (
            Script(refuse=lambda body: (400, "this model takes no image")),
            1,
            "refuses a question with a picture",
        ),
        (Script(status=503), 1, "server unreachable: status 503"),
        (Script(raw=b"<html>"), 1, "server unreachable: garbage"),
    ],
)
def test_a_server_is_asked_before_anything_is_made(
    world: dict[str, SplitFiles],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    server: Script,
    code: int,
    said: str,
) -> None:
    monkeypatch.setattr("spr.models.openai_endpoint.PATIENCE", Patience(pause=0.01))
    path = config_of(world, tmp_path / "run")
    with serve(server) as url:
        assert said in line_of(capsys, code, "run", str(path), *at(url))
    assert server.requests == []
    assert not (tmp_path / "run").exists()


def test_a_finished_stage_asks_its_server_nothing(world: dict[str, SplitFiles], tmp_path: Path) -> None:
    path = config_of(world, tmp_path / "run")
    server = Script(reply=lambda prompt, k: f"a cat<loc_{k}><loc_2><loc_700><loc_800>.")
    with serve(server) as url:
        for _ in range(2):
            spr("run", str(path), *at(url))
    assert server.checks == 1


def test_an_ablation_checks_all_its_variants_first(
    world: dict[str, SplitFiles], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = config_of(world, tmp_path / "run")
    line = line_of(capsys, 2, "ablate", str(path), "--vary", "semantic.folder=embedded:clip,embedded:mllm")
    assert "semantic.folder: found a" in line
    assert not (tmp_path / "run").exists()
