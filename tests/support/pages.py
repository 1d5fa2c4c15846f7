"""What a browser would refuse of a page."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser

from typing_extensions import override

POLICY = re.compile(
    r"default-src 'none'; base-uri 'none'; form-action 'none'; img-src data:; "
    r"style-src ('sha256-[^']+'); script-src ('none'|'sha256-[^']+')"
)


class _Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.policies: list[str] = []
        self.refused: list[str] = []
        self.held: dict[str, list[str]] = {"style": [], "script": []}
        self._inside = ""
        self.feed(text)
        self.close()

    @override
    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if given.get("http-equiv") == "Content-Security-Policy":
            self.policies.append(given["content"])
        self._inside = tag if tag in self.held else ""
        if self._inside:
            self.held[tag].append("")
        for name, value in given.items():
            outside = name in ("src", "href", "xlink:href", "action") and not value.startswith(("data:", "#"))
            if name == "style" or name.startswith("on") or outside:
                self.refused.append(f"<{tag} {name}={value[:60]!r}>")

    @override
    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    @override
    def handle_data(self, data: str) -> None:
        if self._inside:
            self.held[self._inside][-1] += data


def refused(text: str) -> list[str]:
    """What a page holds that its own content security policy refuses; and what its policy lets through."""
    page = _Page(text)
    found = POLICY.fullmatch(page.policies[0]) if len(page.policies) == 1 else None
    if found is None:
        return [f"policies {page.policies}"]
    for kind, allowed in zip(("style", "script"), found.groups(), strict=True):
        for content in page.held[kind]:
            digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
            if allowed != f"'sha256-{digest}'":
                page.refused.append(f"<{kind}>{content[:60]!r}")
    return page.refused
