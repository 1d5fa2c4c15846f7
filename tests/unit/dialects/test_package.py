"""The command line, the golden file, and what an import costs."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from spr.cli.dialects import coloured, dialects, markdown_table
from spr.dialects import Dialect, Frame, frame_for, get_dialect, known_names, smart_resize
from spr.errors import DataError, DialectError, UserError

GOLDEN = Path(__file__).parents[2] / "golden" / "dialects.json"
DOCS = Path(__file__).parents[3] / "docs" / "dialects.md"


@pytest.mark.parametrize(
    ("config", "size"),
    [
        ({}, (1316, 728)),  # class defaults
        # what transformers 5 saves
        (
            {"size": {"shortest_edge": 3136, "longest_edge": 12_845_056}, "patch_size": 14, "merge_size": 2},
            (1932, 1092),
        ),
        ({"shortest_edge": 3136, "longest_edge": 12_845_056}, (1932, 1092)),  # `size` alone
        ({"min_pixels": 3136, "max_pixels": 12_845_056}, (1932, 1092)),  # older files
        ({"size": {"longest_edge": 12_845_056}, "max_pixels": 100}, (1932, 1092)),  # `size` wins
        ({"patch_size": 16, "merge_size": 2, "size": {"longest_edge": 16_777_216}}, (1920, 1088)),  # Qwen3-VL
    ],
)
def test_frame_for_reads_processor_configurations(config: dict[str, object], size: tuple[int, int]) -> None:
    assert frame_for(config, Frame(1920, 1080)) == Frame(*size)


@pytest.mark.parametrize(
    ("original", "default", "released"),
    [
        ((640, 428), (644, 420), (644, 420)),
        ((640, 480), (644, 476), (644, 476)),
        ((368, 434), (364, 448), (364, 448)),
        ((1920, 1080), (1316, 728), (1932, 1092)),
        ((1080, 1920), (728, 1316), (1092, 1932)),
        ((4000, 3000), (1148, 840), (4004, 2996)),
        ((30, 20), (84, 56), (84, 56)),  # below the smallest area: scaled up
        ((14, 14), (56, 56), (56, 56)),
        ((70, 42), (56, 56), (56, 56)),  # 2.5 and 1.5 patches: half to even
    ],
)
def test_the_resized_frame_of_qwen(
    original: tuple[int, int], default: tuple[int, int], released: tuple[int, int]
) -> None:
    """Worked out from the published formula, for the class default and for the released budget of pixels."""
    assert get_dialect("qwen2_5_vl").model_size(Frame(*original)) == default
    assert get_dialect("qwen2_5_vl", max_pixels=12_845_056).model_size(Frame(*original)) == released


def test_only_pixels_of_the_resized_image_need_its_size() -> None:
    assert get_dialect("qwen2_5_vl").frame_for({}, Frame(1920, 1080)) == (1316, 728)
    with pytest.raises(
        DialectError,
        match="qwen3_vl: found coordinates of the original image, expected a family that writes pixels of "
        "the resized",
    ):
        get_dialect("qwen3_vl").frame_for({}, Frame(1920, 1080))


def test_an_image_without_pixels_has_no_resized_size() -> None:
    with pytest.raises(ValueError, match="at least 1 pixel"):
        smart_resize(Frame(0, 5))


@pytest.mark.parametrize(
    "row",
    [json.loads(line) for line in (GOLDEN.parent / "notations.jsonl").read_text().splitlines()],
    ids=lambda row: row["id"],
)
def test_published_notations(row: dict[str, Any]) -> None:
    """Texts in the form that each family publishes, with pixels worked out from its formulas by hand (`src`,
    `note`), not by this code.
    """
    options = {"max_pixels": 1003520} if row["dialect"] == "qwen2_5_vl" else {}
    d, frame = get_dialect(row["dialect"], **options), Frame(row["w"], row["h"])
    g = d.parse(row["raw"], frame)
    assert d.render(g, frame) == row["raw"]
    assert [m.phrase for m in g.mentions] == [e["phrase"] for e in row["expect"]]
    for mention, expected in zip(g.mentions, row["expect"], strict=True):
        assert np.array(mention.boxes).reshape(-1, 4) == pytest.approx(
            np.array(expected["px"]).reshape(-1, 4), abs=1e-3
        )


def test_golden_rows() -> None:
    """Texts with all that is read in them, as data: a change of any of it must be seen in a review. `python
    -m tests.golden.make` writes it.
    """
    rows = json.loads(GOLDEN.read_text(encoding="utf-8"))
    assert len(rows) >= 40
    for row in rows:
        d, frame = get_dialect(row["dialect"], **row["options"]), Frame(*row["size"])
        g = d.parse(row["text"], frame)
        assert [
            {"phrase": m.phrase, "boxes": [list(b) for b in m.boxes], "span": list(m.span)}
            | ({"points": [list(p) for p in m.points]} if m.points else {})
            for m in g.mentions
        ] == row["mentions"]
        assert [[p.kind, *p.span] for p in g.problems] == row["problems"]
        assert g.plain == row["plain"]
        if row["edit"] is not None:
            m, b, box = row["edit"]
            assert d.replace_boxes(g, {(m, b): tuple(box) if box else None}, frame).text == row["result"]


def _shown(name: str | None, parse: Path | None = None, size: str | None = None) -> str:
    console = Console(width=200, record=True, file=io.StringIO())
    dialects(name, parse, size, console)
    return console.export_text()


def test_the_table_lists_every_dialect() -> None:
    shown = _shown(None)
    assert all(name in shown for name in known_names())
    assert "unverified" in shown
    assert "[a,b,c,d;e,f,g,h]" in shown  # brackets are not taken for the table's own markup


def test_one_dialect_shows_contract_and_prompts() -> None:
    shown = _shown("ferret")
    assert "1000 per side" in shown
    assert "What is the location of {expression} in the image?" in shown


def test_a_file_is_read_with_its_problems(tmp_path: Path) -> None:
    path = tmp_path / "answer.txt"
    path.write_text("a dog [1, 2, 3, 4], gone, a cat [9, 8, 7, 1001] [5, 6", encoding="utf-8")
    shown = _shown("ferret", path, "1000x1000")
    assert "a dog" in shown
    assert "(1.0, 2.0, 3.0, 4.0)" in shown
    assert all(kind in shown for kind in ("out_of_range", "reversed", "truncated"))
    path.write_text("<ref>a</ref><box>none</box>", encoding="utf-8")
    assert "said to be absent" in _shown("locate_anything", path, "10x10")


def test_colours_mark_mentions_and_problems() -> None:
    """Each mention has its colour, problems are red, and control characters of an answer never reach the
    terminal.
    """
    g = get_dialect("ferret").parse("\x1b[2J\r a dog [1, 2, 3, 4], a cat [9, 8, 7, 1001]", Frame(1000, 1000))
    text = coloured(g)
    assert text.plain == "�[2J� a dog [1, 2, 3, 4], a cat [9, 8, 7, 1001]"
    styles = {(span.start, span.end): str(span.style) for span in text.spans}
    assert [styles[m.span] for m in g.mentions] == ["green", "cyan"]
    assert {styles[p.span] for p in g.problems if p.kind in ("reversed", "out_of_range")} == {
        "bold red underline"
    }


def test_mistakes_on_the_command_line_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--size: found 640, expected WIDTHxHEIGHT"):
        _shown("ferret", GOLDEN, "640")
    with pytest.raises(UserError, match="--size: found nothing"):
        _shown("ferret", GOLDEN)
    with pytest.raises(DataError, match="cannot be read"):
        _shown("ferret", tmp_path / "none.txt", "1x1")


def test_importing_dialects_is_cheap() -> None:
    """The package alone is worth installing: nothing but the standard library."""
    script = (
        "import sys, spr.dialects; sys.exit(', '.join(m for m in ('torch', 'transformers', 'PIL', "
        "'rich', 'pydantic', 'numpy') if m in sys.modules) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_page_has_every_contract() -> None:
    """The table of docs/dialects.md is what `spr.cli.dialects.markdown_table` prints from the contracts."""
    assert markdown_table() in DOCS.read_text(encoding="utf-8")


def test_the_examples_of_the_page_run() -> None:
    """The first example as a user would paste it; the second as a new family, which then reads and writes."""
    use, add = re.findall(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    scope: dict[str, Any] = {}
    exec(use, scope)
    assert scope["g"].mentions[0].boxes[0] == pytest.approx((63.6, 48.4, 320.0, 240.0), abs=0.05)
    scope = {}
    exec(add, scope)
    d = Dialect("mymodel", *scope["build"]())
    assert d.parse("<ref>a</ref><box>[[0, 128, 256, 511]]</box>", Frame(512, 512)).mentions[0].boxes == (
        (0.0, 128.0, 256.0, 511.0),
    )
    assert "512 per side, 0 to 511" in str(d)
