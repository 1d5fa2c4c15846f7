"""What `spr dialects` prints: the table of families, one contract, or what a dialect reads in a file, in
colour.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from spr.dialects import Dialect, Frame, GroundedText, get_dialect, known_names
from spr.dialects.explain import explain
from spr.errors import DataError, UserError
from spr.store.config import parse_yaml

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
COLOURS = ("green", "cyan", "magenta", "yellow", "blue", "bright_green", "bright_cyan", "bright_magenta")


def example(d: Dialect) -> str:
    """A box as the dialect writes it, or a point where it writes no boxes."""
    place = (64.0, 48.0, 320.0, 240.0) if "boxes" in d.contract.writes else (64.0, 48.0)
    return d.box_text(place, Frame(640, 480))


def dialects_table() -> Table:
    """One row per dialect and variant."""
    table = Table(title="How each model family writes boxes", show_lines=False)
    for column in ("name", "order", "scale", "frame", "phrase", "several boxes", "a box"):
        table.add_column(column, overflow="fold")
    for name in known_names():
        d = get_dialect(name)
        c = d.contract
        mark = "" if c.verified else " (unverified)"
        box = example(d)
        # Text: brackets are no markup
        table.add_row(
            *(Text(cell) for cell in (name + mark, c.order, c.scale, c.frame, c.phrase, c.several, box))
        )
    return table


def markdown_table() -> str:
    """The contracts as a Markdown table, for docs/dialects.md: `python -c "from spr.cli.dialects import *;
    print(markdown_table())"`.
    """
    rows = [
        "| name | order | scale | published encoder | published decoder | offset | frame | phrase | "
        "several boxes | a box |",
        "|" + "---|" * 10,
    ]
    for name in known_names():
        d = get_dialect(name)
        c = d.contract
        box = example(d)
        frame = c.frame if c.verified else f"{c.frame} (unverified)"
        cells = [
            f"`{name}`",
            c.order,
            c.scale,
            c.encode,
            c.official_decode,
            f"{c.offset:g}",
            frame,
            c.phrase,
            c.several,
            f"`{box}`",
        ]
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows)


def parse_size(size: str | None) -> Frame:
    """`640x480` -> Frame. Raises UserError."""
    found = re.fullmatch(r"(\d+)x(\d+)", size or "")
    if found is None:
        raise UserError(
            f"--size: found {size or 'nothing'}, expected WIDTHxHEIGHT of the original image, e.g. 640x480"
        )
    return Frame(int(found.group(1)), int(found.group(2)))


def coloured(g: GroundedText) -> Text:
    """The text with each mention in its colour and problems in red. Control characters are shown as U+FFFD: a
    terminal would obey them.
    """
    text = Text(_CONTROL.sub("\N{REPLACEMENT CHARACTER}", g.text))
    for k, mention in enumerate(g.mentions):
        text.stylize(COLOURS[k % len(COLOURS)], *mention.span)
    for problem in g.problems:
        if problem.kind not in ("phrase_guessed", "absent_marker"):
            text.stylize("bold red underline", *problem.span)
    return text


def reading(d: Dialect, g: GroundedText) -> Table:
    """Mentions with their boxes in pixels, then the problems."""
    table = Table(title=Text(str(d)))
    for column in ("mention", "phrase", "boxes (x1, y1, x2, y2) and points (x, y) in pixels of the original"):
        table.add_column(column, overflow="fold")
    for k, mention in enumerate(g.mentions):
        places = (*mention.boxes, *mention.points)
        boxes = (
            "\n".join("(" + ", ".join(f"{v:.1f}" for v in place) + ")" for place in places)
            or "said to be absent"
        )
        table.add_row(Text(str(k), COLOURS[k % len(COLOURS)]), Text(mention.phrase or "-"), boxes)
    for problem in g.problems:
        start, end = problem.span
        table.add_row(Text("!", "red"), problem.kind, Text(f"{start}-{end}: {g.text[start:end][:60]!r}"))
    return table


def problem_counts(g: GroundedText) -> str:
    """How often each problem stands in a text, in words; empty without any."""
    found = Counter(explain(g, problem) for problem in g.problems)
    return "\n".join(f"{n} x {words}" for words, n in found.most_common())


def dialects(name: str | None, parse: Path | None, size: str | None, console: Console | None = None) -> None:
    """Behind `spr dialects [NAME --parse FILE --size WxH]`. A contract of one's own is a name, too: YAML."""
    console = console or Console()
    if name is None:
        console.print(dialects_table())
        return
    given = parse_yaml(name, "NAME") if name.startswith("{") else name
    d = get_dialect(given if isinstance(given, dict) else name)
    if parse is None:
        console.print(Text(str(d)))
        for task, prompt in d.prompts.items():
            console.print(Text(f"  {task}: {prompt.text}   [{prompt.source}]"))
        return
    try:
        text = parse.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise DataError(f"{parse}: cannot be read ({e}), expected a text file") from None
    g = d.parse(text, parse_size(size))
    console.print(coloured(g))
    console.print(reading(d, g))
    if g.problems:
        console.print(Text(problem_counts(g), "red"))
    console.print(Text(f"plain: {g.plain}"))
