"""Every page has a policy that lets its own style and script run, and nothing else; no page needs more."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from markupsafe import Markup

import spr
from spr.report.ablation import ablation_page
from spr.report.page import plain_page, render
from tests.support.pages import refused

HOSTILE = "</style></script><script>alert(1)</script><img src=x onerror=y()>\"'><b style='x'>{{7*7}}"
TEMPLATES = sorted(Path(spr.__file__).parent.rglob("*.j2"))


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.name)
def test_no_template_has_an_inline_style_or_handler(path: Path) -> None:
    """The policy would refuse it, and the page would look broken without a word."""
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"<[^>]*\s(style|on[a-z]+)\s*=", text)
    assert "unsafe-inline" not in text


def test_every_page_stands_on_the_one_layout() -> None:
    """Else it would have no policy."""
    pages = [p for p in TEMPLATES if "<html" in p.read_text(encoding="utf-8")]
    assert [p.name for p in pages] == ["page.html.j2"]
    for path in (p for p in Path(spr.__file__).parent.rglob("*.py")):
        assert "<html" not in path.read_text(encoding="utf-8"), path


def test_text_from_outside_stays_text() -> None:
    """In a title, a note, a body; what models and data sets say is in test_gallery."""
    for page in (
        plain_page(HOSTILE, Markup("<p>{}</p>").format(HOSTILE)),
        ablation_page(HOSTILE, {}, HOSTILE),
    ):
        assert refused(page) == []
        assert "{{7*7}}" in page
        assert "<script>alert" not in page


def test_another_style_or_script_is_refused() -> None:
    """The check that the other tests use would notice one."""
    page = plain_page("x", Markup("<p>x</p>"))
    assert refused(page) == []
    for more in (
        "<script>alert(1)</script>",
        "<style>p{}</style>",
        '<p style="color:red">',
        '<p onclick="x()">',
        '<img src="http://x/y.png">',
        '<form action="http://x">',
    ):
        assert refused(page.replace("<p>x</p>", more)) != []
    assert refused(page.replace("sha256-", "sha256-x")) != []
    assert refused(re.sub("<meta http-equiv[^>]*>", "", page)) != []


def test_a_script_is_named_byte_for_byte(tmp_path: Path) -> None:
    (tmp_path / "a.html.j2").write_text('{% extends "page.html.j2" %}{% block content %}{% endblock %}')
    page = render(tmp_path / "a.html.j2", "x", "if (1 < 2 && 3 > 2) document.title = 'é';\n")
    assert refused(page) == []
    assert "1 < 2 && 3 > 2" in page
