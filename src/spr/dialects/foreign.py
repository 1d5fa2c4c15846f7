"""What stands in a text of other notations: tags of another family, points, quads, clicks, location tokens,
JSON where tags belong. Found before a grammar reads, so that their numbers are never taken for boxes. Each is
reported, and its words stay in the plain text.
"""

from __future__ import annotations

import functools
import re
from bisect import bisect_right
from collections.abc import Iterator, Set

from spr.dialects.brackets import NUMBER, N, is_note
from spr.dialects.json_objects import JSON_MARK, WHERE, JsonGrammar
from spr.dialects.layout import Layout, blanked, merged
from spr.types import Span

# opening and closing tags around coordinates, or around the words for them
_TAG = re.compile(
    r"<(?P<xclose>/?)(?P<x>[0-9]{0,2}[A-Za-z_][\w-]{0,30}+)(?:\s[^<>]*)?>"
    r"|<\|(?P<pclose>/?)(?P<p>det|box|quad|point|poly)\|>"
    r"|<\|(?P<s>box|quad|point|poly)_(?:start|(?P<sclose>end))\|>"
    r"|<\|(?:begin|(?P<gclose>end))_of_(?P<g>box)\|>"
)
_PLACE = re.compile(rf"{WHERE.pattern}|object\Z|click|tap\Z", re.IGNORECASE)  # names of such tags
# tags around words only
_NAME = re.compile(
    r"</?(?:ref|p|phrase|grounding)>|<\|object_ref_(?:start|end)\|>|<\|/?(?:ref|grounding)\|>|<delim>|"
    r"</delimiter_of_multi_objects/>|</?collection(?:\s[^<>]*)?>|<hint>[^<]*</hint>"
)
# location tokens in a row, by their beginning
_TOKENS = {
    "<loc": re.compile(r"(?:<(?:loc|seg)[0-9]{1,12}>[ \t]*+)++"),
    "<loc_": re.compile(r"(?:<loc_[0-9]{1,12}>[ \t]*+)++"),
    "<patch_index_": re.compile(r"(?:<patch_index_[0-9]{1,12}>[ \t]*+)++"),
    "<bin_": re.compile(r"(?:<b_st>)?(?:<bin_[0-9]{1,12}>[ \t]*+)++(?:<b_ed>)?"),
    "<0>": re.compile(r"\{?(?:<[0-9]{1,12}>[ \t]*+){2,}+\}?"),
}
_CALLS = re.compile(r"[a-z_]\([^)\n]{0,80}[0-9]")  # there may be one
_LEAD = re.compile(r"<[|/｜]*[A-Za-z_]* ?")
CALL_MARK = "()"  # among a grammar's marks: it reads actions
CALL = re.compile(
    r"\b(?:pyautogui\.)?(?:[a-z]{1,12}_)?(?:click|tap|drag|press|hover|scroll|swipe|double|single|moveTo)"
    r"[A-Za-z_]{0,12}\((?=[^\n]{0,80}[0-9])(?:[^()\n]|\([^()\n]*\))*\)"
)
_WORDS = re.compile(r"\s(?:alt|mention|label)=(?:\"([^\"]*)\"|'([^']*)')")
_COORDINATES = re.compile(
    r"(?:[\s0-9.,;:()\[\]{}|/\-]|<(?:loc_?|patch_index_|seg|bin_)?[0-9]++(?:>|(?![A-Za-z_-])))*+"
)
_PAIR = re.compile(rf"\s*{N}\s*[,;\s]\s*{N}")
# boxes without any tag, where the grammar has not read them
_SHAPE = re.compile(
    rf"\[\s*{N}(?:\s*,\s*{N}){{3}}\s*\]|\(\s*{N}\s*,\s*{N}\s*\)\s*,?\s*\(\s*{N}\s*,\s*{N}\s*\)"
    rf"|[\[(]\s*{N}\s*,\s*{N}\s*[\])]"
)
_JSON = JsonGrammar("")


@functools.lru_cache
def _leads(marks: frozenset[str]) -> frozenset[str]:
    """How the tags of a notation begin."""
    return frozenset(lead for mark in marks for lead in _LEAD.findall(mark))


def has_other_tags(text: str, marks: frozenset[str]) -> bool:
    """Whether tags stand in a text that are not of its notation."""
    return "<" in text and not _leads(marks).issuperset(_LEAD.findall(text))


def without_foreign(text: str, marks: frozenset[str], layout: Layout) -> str:
    """The text with line ends for all that is not of its notation (whose own tags and signs are `marks`);
    what that was goes to `layout`.
    """
    layout.steps += 2 * len(text)
    if has_other_tags(text, marks) or _CALLS.search(text):
        text = _without_tags(text, marks, layout)
    if "{" in text and JSON_MARK not in marks:
        inner, roots = _JSON.objects(text)
        layout.problems += inner.problems
        layout.replaced += inner.replaced
        layout.steps += inner.steps
        text = blanked(text, roots)
    return text


def _without_tags(text: str, marks: frozenset[str], layout: Layout) -> str:
    for find in (_calls, _elements, _tokens):
        found = sorted(find(text, marks))
        for span, words in found:
            if NUMBER.search(text, *span):
                layout.problem("non_box_payload", *span)
            layout.replaced.append((span, f" {words} "))
            layout.steps += 3 * (span[1] - span[0])
        text = blanked(text, [span for span, _ in found])
    names = [m.span() for m in _NAME.finditer(text) if m.group().split()[0].rstrip(">") + ">" not in marks]
    layout.markup += names
    return blanked(text, names)


def report_shapes(text: str, marks: frozenset[str], layout: Layout) -> None:
    """Boxes and points in brackets that nobody has read: not of this notation."""
    if "(" not in text and ("[" not in text or "[" in marks):
        return
    shapes = list(_SHAPE.finditer(text))
    layout.steps += len(text)
    read = merged([*layout.markup, *(span for span, _ in layout.replaced)]) if shapes else []
    starts = [start for start, _ in read]
    for shape in shapes:
        k = bisect_right(starts, shape.start()) - 1
        if k >= 0 and shape.start() < read[k][1]:
            continue
        numbers = [m.span() for m in NUMBER.finditer(text, *shape.span())]
        if not is_note(text, numbers):
            layout.problem("non_box_payload", *shape.span())
            layout.markup.append(shape.span())


def _calls(text: str, marks: Set[str]) -> Iterator[tuple[Span, str]]:
    if CALL_MARK not in marks:
        yield from ((call.span(), "") for call in CALL.finditer(text))


def _elements(text: str, marks: Set[str]) -> Iterator[tuple[Span, str]]:
    """Tags with what they hold, and the words of it. One that is not closed holds the numbers behind it."""
    opened: re.Match[str] | None = None
    for tag in _TAG.finditer(text):
        closing = any(tag.group(sign) for sign in ("xclose", "pclose", "sclose", "gclose"))
        of_opened = opened is not None and _opening(opened) == _opening(tag)
        ends = closing and of_opened
        if (_mark(tag) in marks and not ends) or not (of_opened or _is_place(text, tag)):
            continue
        if ends and opened is not None:
            yield _element(text, opened, *tag.span())
            opened = None
            continue
        if opened is not None:
            yield _element(text, opened, tag.start())
        opened = None if closing else tag
        if closing:
            yield tag.span(), ""
    if opened is not None:
        yield _element(text, opened, len(text))


def _is_place(text: str, tag: re.Match[str]) -> bool:
    """Whether a tag says where something is: by its name, or by the numbers right behind it."""
    name = tag.group("x")
    if name is None or _PLACE.search(name):
        return True
    return _PAIR.match(text, tag.end()) is not None


def _mark(tag: re.Match[str]) -> str:
    """How the tag stands among the marks of its notation: with attributes it is another one."""
    if not tag.group("x"):
        return _opening(tag)
    return tag.group() if tag.group().isprintable() and " " not in tag.group() else f"<{tag.group('x')} …>"


def _opening(tag: re.Match[str]) -> str:
    if tag.group("x"):
        return f"<{tag.group('x')}>"
    if tag.group("p"):
        return f"<|{tag.group('p')}|>"
    return f"<|{tag.group('s')}_start|>" if tag.group("s") else "<|begin_of_box|>"


def _element(text: str, opened: re.Match[str], stop: int, end: int | None = None) -> tuple[Span, str]:
    """What an element spans, and the words of it. The next tag begins at `stop`; where it closes this one, it
    ends at `end`. One that is not closed ends with its numbers.
    """
    coordinates = _COORDINATES.match(text, opened.end(), stop)
    after = coordinates.end() if coordinates else opened.end()
    named = _WORDS.search(opened.group())
    inner = text[opened.end() : stop].strip() if end is not None and after < stop else ""
    words = inner or (named.group(1) or named.group(2) or "" if named else "")
    return (opened.start(), after if end is None else end), words


def _tokens(text: str, marks: Set[str]) -> Iterator[tuple[Span, str]]:
    for mark, run in _TOKENS.items():
        if mark not in marks and (mark == "<0>" or mark in text):
            yield from ((m.span(), "") for m in run.finditer(text))
