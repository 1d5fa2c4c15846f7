"""Servers that die, refuse or say nothing, in front of the whole command line: nothing is lost, nothing is
asked twice, nothing is silent.
"""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import pytest

from spr.models.server import Patience
from spr.scenes.files import SplitFiles
from spr.store.run import Run
from spr.types import Description, Prediction
from tests.e2e.tools import changed, code_of, config_of, files_of, line_of, spr
from tests.unit.models.fault_server import Script, serve

ANSWER = "a cat<loc_100><loc_100><loc_400><loc_500>"


def script(**more: object) -> Script:
    """A server whose samples of a prompt differ."""
    return Script(reply=lambda prompt, k: f"{ANSWER} and {k} more", **more)  # type: ignore[arg-type]


def at(url: str, *more: str) -> list[str]:
    """The options of a command that asks a server."""
    return changed(
        "model.kind=endpoint", f"model.url={url}", "model.served_name=m", "model.concurrency=4", *more
    )


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses of a hundredth of a second: what is tested is what happens after them."""
    monkeypatch.setattr("spr.models.openai_endpoint.PATIENCE", Patience(pause=0.01))


@pytest.mark.parametrize("after", [0, 9])
def test_a_server_that_dies_leaves_nothing_unfinished_behind(
    world: dict[str, SplitFiles], tmp_path: Path, capsys: pytest.CaptureFixture[str], after: int
) -> None:
    """It ended with "0 rows, 40 dropped" and exit code 0, and the next run asked nothing. Now: exit code 1,
    one line; once the server is back, at another port, the same command asks exactly what is missing.
    """
    path, whole = config_of(world, tmp_path / "run"), config_of(world, tmp_path / "whole")
    steady = script()
    with serve(steady) as url:
        spr("run", str(whole), "--until", "describe", *at(url))
    dying = script(dies_after=after) if after else script(status=503)
    with serve(dying) as url:
        line = line_of(capsys, 1, "run", str(path), "--until", "score", *at(url))
    # few queries are left after the ninth: the end of the stage comes before the limit of failures
    assert ("14 of 32 unanswered" if after else "server unreachable") in line
    assert f"the same command {'asks them again' if after else 'goes on'}" in line
    run = Run(str(tmp_path / "run"))
    assert run.summary("candidates") is None
    assert not run.exists("scores")
    dying.dies_after = dying.status = 0
    with serve(dying) as url:
        spr("run", str(path), "--until", "describe", *at(url))
    assert dying.delivered == steady.delivered  # each sample once
    parts = {
        name: {k: v for k, v in files_of(tmp_path / name).items() if k.startswith("candidates/part")}
        for name in ("run", "whole")
    }
    assert parts["run"] == parts["whole"] != {}
    assert not run.exists("journal")


def test_an_evaluation_is_asked_to_its_end(
    world: dict[str, SplitFiles],
    finished: tuple[Run, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Failed answers became wrong rows of finished shards: a model looked bad because its server was down."""
    path = config_of(world, tmp_path / "run")
    dying = Script(reply=lambda prompt, k: ANSWER, dies_after=5)
    only = ["--models", "base"]
    with serve(dying) as url:
        line = line_of(capsys, 1, "evaluate", str(path), *only, *at(url))
        assert "unanswered" in line
        assert not (tmp_path / "run" / "evaluation" / "test" / "base" / "predictions.parquet").exists()
        dying.dies_after = 0
        spr("evaluate", str(path), *only, *at(url))
    rows = Run(str(tmp_path / "run")).read_stage(Prediction, "evaluation", "test", "base")
    assert [r.answer for r in rows] == [ANSWER] * len(rows)
    assert dying.delivered == Counter(r.question for r in rows)


@pytest.mark.parametrize("answers", ["", "refused"])
def test_a_stage_with_nothing_left_fails_and_says_why(
    world: dict[str, SplitFiles], tmp_path: Path, capsys: pytest.CaptureFixture[str], answers: str
) -> None:
    """`describe`, `score` and `evaluate` went on with nothing, exit code 0, no reason shown."""
    path = config_of(world, tmp_path / "run")
    refuse = (400, "no pictures here") if answers else None
    silent = Script(reply=lambda prompt, k: "", refuse=lambda body: refuse)
    with serve(silent) as url:
        more = at(url, "model.give_up_after=0")
        for _ in range(2):  # a finished stage says it again
            line = line_of(capsys, 2, "run", str(path), "--until", "score", *more)
            reason = "refused" if answers else "empty_answer"
            assert f"no description is left ({reason}: " in line
            assert "--overwrite describe" in line
        if answers:
            line = line_of(capsys, 2, "evaluate", str(path), "--models", "base", *more)
            assert "no answer is left" in line


def test_a_stage_with_nothing_scored_fails_and_says_why(
    finished: tuple[Run, Path], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    shutil.copytree(finished[0].root, tmp_path / "run")
    more = ["--set", f"run={tmp_path / 'run'}", "--set", "semantic=null", "--overwrite", "score"]
    line = line_of(capsys, 2, "score", str(finished[1]), *more)
    assert "no scored description is left (no_semantic_score: " in line


def test_an_answer_that_does_not_come_is_dropped_where_that_is_said(
    world: dict[str, SplitFiles], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One prompt never gets an answer. The stage ends unfinished; with the option it goes on, and counts."""
    path = config_of(world, tmp_path / "run")
    asked = script()
    with serve(asked) as url:
        spr("run", str(path), "--until", "describe", *at(url))
        bad = next(iter(asked.seen))
        spr("regions", str(path), "--overwrite", "regions")
        sick = script(faults={bad: ("500",) * 99})
    with serve(sick) as url:
        line = line_of(capsys, 1, "run", str(path), "--until", "describe", *at(url))
        assert "unanswered (endpoint (status 500 (6 tries)): 2)" in line
        spr("run", str(path), "--until", "describe", *at(url, "model.unanswered=drop"))
    assert "describe: dropped: unanswered: 2" in capsys.readouterr().err
    summary = Run(str(tmp_path / "run")).summary("candidates")
    assert summary is not None
    assert summary.dropped == {"unanswered": 2}
    assert all(n == 2 for prompt, n in sick.delivered.items() if prompt != bad)


def test_a_run_at_a_url_keeps_its_answers_too(
    world: dict[str, SplitFiles], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run folder in an object store takes no appended lines: the journal stands in this machine's cache."""
    monkeypatch.setenv("SPR_CACHE", str(tmp_path / "cache"))
    path = config_of(world, tmp_path / "run")
    place = ["--set", f"run=memory://{tmp_path.name}"]
    dying = script(dies_after=9)
    with serve(dying) as url:
        assert code_of("run", str(path), "--until", "describe", *place, *at(url)) == 1
        dying.dies_after = 0
        spr("run", str(path), "--until", "describe", *place, *at(url))
    assert set(dying.delivered.values()) == {2}
    assert len(Run(f"memory://{tmp_path.name}").read_stage(Description, "candidates")) > 0
    assert not list((tmp_path / "cache" / "journal").rglob("*.jsonl"))


def test_an_examination_of_a_server_that_is_down_says_nothing_of_the_model(
    world: dict[str, SplitFiles], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The doctor read failed answers as empty ones: "0 of 20 have a readable box"."""
    path = config_of(world, tmp_path / "run")
    with serve(Script(status=503)) as url:
        line = line_of(capsys, 1, "doctor", str(path), *at(url))
    assert "server unreachable" in line or "unanswered" in line
