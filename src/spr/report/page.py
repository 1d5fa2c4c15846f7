"""Every HTML page of spr: one layout, one style sheet, and a policy that lets nothing else run.

In: a template that extends `page.html.j2`, and values. Out: a self-contained page. Pictures are data URIs,
style and script stand in the page, and its content security policy names both by their digests: text from a
model, a data set or a file name cannot become a style or a script. What is not markup is escaped (Jinja2
autoescape).
"""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

STYLE = Markup(Path(__file__).with_name("style.css").read_text(encoding="utf-8"))


def render(template: Path, title: str, script: str = "", **values: object) -> str:
    """The page. No template may have an attribute `style` or `on…`: the policy refuses them."""
    environment = Environment(
        loader=FileSystemLoader([template.parent, Path(__file__).parent]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template.name).render(
        title=title, style=STYLE, script=Markup(script), policy=_policy(STYLE, script), **values
    )


def plain_page(title: str, body: Markup) -> str:
    """A page of a title and this markup."""
    return render(Path(__file__).with_name("plain.html.j2"), title, body=body)


def _policy(style: str, script: str) -> str:
    """Nothing from outside; this style sheet and this script, byte for byte."""
    rules = {
        **dict.fromkeys(("default-src", "base-uri", "form-action"), "'none'"),
        "img-src": "data:",
        "style-src": _digest(style),
        "script-src": _digest(script),
    }
    return "; ".join(f"{name} {value}" for name, value in rules.items())


def _digest(text: str) -> str:
    if not text:
        return "'none'"
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
