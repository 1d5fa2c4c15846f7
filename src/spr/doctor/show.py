"""Findings as a table for the terminal, and as a page with pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from markupsafe import Markup
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from spr.dialects import Dialect
from spr.doctor.examine import Sample
from spr.doctor.readings import boxes_for
from spr.doctor.verdict import Finding
from spr.errors import DataError
from spr.report.page import plain_page
from spr.report.pictures import Outline, overlay

if TYPE_CHECKING:
    from PIL import Image

COLOURS = {"fine": "green", "look": "yellow", "wrong": "red"}
PICTURES = 8
ANSWER = "m0"  # the colour of the answer's box: red


def print_table(title: str, findings: Sequence[Finding], console: Console) -> None:
    """The table on the terminal."""
    table = Table("check", "found", "", title=title, title_justify="left")
    for f in findings:
        table.add_row(f.check, escape(f.found), f"[{COLOURS[f.verdict]}]{f.verdict}[/]")
    console.print(table)


def doctor_page(
    title: str,
    findings: Sequence[Finding],
    samples: Sequence[Sample],
    dialect: Dialect,
    load: Callable[[str], Image.Image],
) -> str:
    """The findings, and of some images the first question with the true boxes and the boxes as the assumed
    dialect reads them.
    """
    rows = Markup("").join(
        Markup('<tr><td>{}</td><td class="words">{}</td><td class="{}">{}</td></tr>').format(
            f.check, f.found, f.verdict, f.verdict
        )
        for f in findings
    )
    figures = []
    of_each_image = {s.item.image: s for s in reversed(samples)}
    for s in list(of_each_image.values())[::-1][:PICTURES]:
        outlines = [Outline(box, "truth", s.item.category) for box in s.item.truths]
        found = boxes_for(dialect.parse(s.answer, s.item.frame), s.item)
        outlines += [Outline(box, ANSWER, "answer") for box in found]
        try:
            shot = overlay(load(s.item.image), outlines, s.prompt)
        except (OSError, DataError):  # the answer says so
            shot = Markup("")
        figures.append(
            Markup('<figure class="card">{}<figcaption>{}<pre>{}</pre></figcaption></figure>').format(
                shot, s.prompt, s.answer or s.failed or "(no answer)"
            )
        )
    legend = Markup('<p class="note">Dotted gold: the true boxes. Red: the answer, as {} reads it.</p>')
    body = '<div class="scroll"><table>{}</table></div><h2>Answers</h2>{}<div class="gallery">{}</div>'
    return plain_page(title, Markup(body).format(rows, legend.format(dialect.name), Markup("").join(figures)))
