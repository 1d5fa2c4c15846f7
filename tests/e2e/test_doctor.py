"""`spr run` looks before it describes: what is wrong stops it, with the line that mends it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from spr.scenes.files import SplitFiles
from spr.store.run import Run
from tests.e2e.tools import config_of, line_of, spr

WRONG = ("--set", "model.dialect={base: florence2, order: yxyx}")


def test_a_wrong_contract_stops_a_run_before_it_describes(
    world: dict[str, SplitFiles], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 3 and one line, with the advice. `doctor: warn` tells and goes on. (That a right
    configuration gets through is what the demo's test sees.)
    """
    path = config_of(world, tmp_path / "run")
    words = ("run", str(path), "--until", "describe", "--set", "doctor=stop")
    line = line_of(capsys, 3, *words, *WRONG)
    assert "set dialect: florence2" in line
    assert "Nothing was described" in line
    assert not Run(str(tmp_path / "run")).exists("candidates")
    other = ("--set", f"run={tmp_path / 'warned'}", "--set", "describe.templates=[plain]")
    spr("run", str(path), "--until", "describe", *WRONG, "--set", "doctor=warn", *other)
    told = re.findall("doctor: wrong: contract", capsys.readouterr().err)
    assert len(told) == 1
    assert Run(str(tmp_path / "warned")).exists("candidates")
