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
from spr.doctor.readings import Finding, first_mention
from spr.report.pictures import Outline, overlay

if TYPE_CHECKING:
    from PIL import Image

COLOURS = {"fine": "green", "look": "yellow", "wrong": "red"}
PICTURES = 8
STYLE = """body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; \
padding: 0 1rem; color: #222; background: #fff }
td, th { padding: .3rem .6rem; text-align: left; vertical-align: top; border-bottom: 1px solid #ddd }
.fine { color: #176b2c } .look { color: #8a5a00 } .wrong { color: #b3261e; font-weight: 600 }
.o { fill: none } .o.truth { stroke: #176b2c } .o.base { stroke: #b3261e } \
.l.truth { fill: #176b2c } .l.base { fill: #b3261e }
figure { display: inline-block; width: 28rem; max-width: 100%; margin: 0 1rem 1rem 0; vertical-align: top }
svg.shot { width: 100% } pre { white-space: pre-wrap; background: #f5f5f5; padding: .6rem } \
figcaption code { overflow-wrap: anywhere }"""


def print_table(title: str, findings: Sequence[Finding], console: Console) -> None:
    """The table on the terminal."""
    table = Table("check", "found", "", title=title, title_justify="left")
    for f in findings:
        table.add_row(f.check, escape(f.found), f"[{COLOURS[f.verdict]}]{f.verdict}[/]")
    console.print(table)


def page(title: str, body: Markup) -> str:
    """A self-contained HTML page."""
    head = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" '
        'content="width=device-width">'
    )
    return str(
        Markup(
            head + "<title>{0}</title><style>{1}</style></head><body><h1>{0}</h1>{2}</body></html>"
        ).format(title, Markup(STYLE), body)
    )


def doctor_page(
    title: str,
    findings: Sequence[Finding],
    samples: Sequence[Sample],
    dialect: Dialect,
    load: Callable[[str], Image.Image],
) -> str:
    """The findings, and some questions with the true box (green) and the box as the assumed dialect reads it
    (red).
    """
    rows = Markup("").join(
        Markup('<tr><th>{}</th><td>{}</td><td class="{}">{}</td></tr>').format(
            f.check, f.found, f.verdict, f.verdict
        )
        for f in findings
    )
    figures = []
    for s in samples[:PICTURES]:
        mention = first_mention(dialect, s.answer, s.item.frame)
        outlines = [Outline(s.item.truth, "truth", s.item.category)]
        if mention is not None:
            outlines.append(Outline(mention.boxes[0], "base", "answer"))
        shot = overlay(load(s.item.image), outlines, s.prompt)
        figures.append(
            Markup("<figure>{}<figcaption>{}<br><code>{}</code></figcaption></figure>").format(
                shot, s.prompt, s.answer or "(no answer)"
            )
        )
    legend = Markup("<p>Green: the true box. Red: the answer, as {} reads it.</p>").format(dialect.name)
    return page(title, Markup("<table>{}</table>{}{}").format(rows, legend, Markup("").join(figures)))
