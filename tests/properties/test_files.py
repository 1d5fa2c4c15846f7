"""Whatever a file says, a reader answers with rows, reasons, or one line: never with a traceback, never by
ending the process. `make fuzz-files` has 10,000 of these cases; the suite has enough to notice a reader that
forgot.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmarks.fuzz_files import Form, cases, lay_out, outcome
from benchmarks.fuzz_files import forms as all_forms

PARTS = 8
SIZE = 100  # cases of a part


@pytest.fixture(scope="module")
def forms(tmp_path_factory: pytest.TempPathFactory) -> tuple[Form, ...]:
    return tuple(all_forms(tmp_path_factory.mktemp("corpus") / "corpus"))


def test_every_form_is_read_as_it_is_published(forms: tuple[Form, ...], tmp_path: Path) -> None:
    """Otherwise a change of its files would try nothing."""
    for form in forms:
        lay_out(form.files, tmp_path / form.name)
        form.read(tmp_path / form.name)


@pytest.mark.parametrize("part", range(PARTS))
def test_changed_files_are_rows_reasons_or_one_line(
    forms: tuple[Form, ...], tmp_path: Path, part: int
) -> None:
    done, failures = cases(forms, part, 0, SIZE, tmp_path / "work")
    assert failures == []
    assert done.total() == SIZE


def test_the_search_would_find_a_traceback(tmp_path: Path) -> None:
    """A reader with a fault, one whose file cannot be opened, and one that ends well."""

    def fails(folder: Path) -> None:
        raise KeyError("x")

    def refuses(folder: Path) -> None:
        raise PermissionError(13, "Permission denied", "x")

    said = outcome(Form("x", {"a": b""}, fails), {"a": b""}, tmp_path)
    assert said is not None
    assert "KeyError" in said
    assert outcome(Form("x", {"a": b""}, refuses), {"a": b""}, tmp_path) is None
    assert outcome(Form("x", {"a": b""}, lambda folder: None), {"a": b""}, tmp_path) is None
