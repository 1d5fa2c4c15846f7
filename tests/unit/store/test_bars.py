"""What people see of a long work: bars on a terminal of 80 columns, lines in a log."""

from __future__ import annotations

import io
import logging

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from spr.store import bars
from spr.store.progress import Progress, one_line


def shown(monkeypatch: pytest.MonkeyPatch, terminal: bool, width: int = 80) -> tuple[Progress, io.StringIO]:
    """A progress as it is chosen for such a stderr, and what is written there."""
    out = io.StringIO()
    monkeypatch.setattr(bars, "errors", Console(file=out, force_terminal=terminal, width=width))
    return bars.progress_shown(), out


def test_a_bar_fits_into_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was squeezed to "60/? 0:00:…"."""
    progress, out = shown(monkeypatch, terminal=True)
    progress.start("evaluate: refcocog_umd_validation spr_paper-round-2", 1_234_567, 1000)
    progress.advance(60)
    progress.end("1,234,567 rows, 0 dropped")
    written = out.getvalue()
    assert "1060/1234567" in written
    assert "0:00:00" in written
    assert "…" in written  # of the name, which may be long
    assert "rows, 0 dropped" in written.splitlines()[-1]


def test_a_log_has_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bars, "OFTEN", 0.0)
    progress, out = shown(monkeypatch, terminal=False)
    progress.start("describe", 72, 12)
    progress.advance(30)
    progress.end("144 rows, 0 dropped")
    progress.start("index", 0)
    progress.advance(5)
    progress.end()
    assert out.getvalue().splitlines() == [
        "describe: 60 to do, 12 done before",
        "describe: 42 of 72 (58 %), 0:00:00, about 0:00:00 left",
        "describe: 144 rows, 0 dropped (0:00:00)",
        "index: 5, 0:00:00",
    ]


def test_a_log_is_not_filled(monkeypatch: pytest.MonkeyPatch) -> None:
    progress, out = shown(monkeypatch, terminal=False)
    progress.start("describe", 1000)
    for _ in range(1000):
        progress.advance(1)
    assert len(out.getvalue().splitlines()) == 1


@pytest.mark.parametrize("terminal", [True, False])
def test_a_message_is_as_it_was_said(monkeypatch: pytest.MonkeyPatch, terminal: bool) -> None:
    """`:x:` became an emoji, `[red]` a colour, and an escape in a server's answer was obeyed."""
    progress, out = shown(monkeypatch, terminal)
    progress.tell("root:x:0 [red]a[/red]\x1b[2J\nsecond")
    assert out.getvalue() == "root:x:0 [red]a[/red]\\x1b[2J second\n"


def test_a_module_s_warning_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    _, out = shown(monkeypatch, terminal=False)
    bars.LogLines().emit(logging.LogRecord("spr.x", logging.WARNING, "", 0, "%d left", (3,), None))
    assert out.getvalue() == "warning: 3 left\n"


@settings(deadline=None, derandomize=True)
@given(st.text())
def test_one_line_is_one_line(text: str) -> None:
    line = one_line(text)
    assert line.isprintable()
    assert one_line(line) == line.strip()
