"""Answers that users of vision-language models reported, and what must be read in them: one row each in
tests/golden/answers.jsonl, the reason beside it.

A row expects: `mentions` ([phrase, boxes] in pixels; the phrase "*" = any words) · `problem_any` (one of
these kinds; "*" = any that makes an answer without boxes `unparsed`) · `no_problem` · `plain_has`,
`plain_has_not` · `remove_first` (without the first box the others are left; `json`: what was JSON still is) ·
`refine` (the same with pairing's refinement) · `convert_to` (refused, or read back alike) · `either` (one of
these).
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from spr.dialects import FAMILIES, Dialect, Frame, convert, get_dialect
from spr.errors import DialectError
from spr.pairing import refine
from spr.types import Box, GroundedText
from tests.support.answers import is_json

GOLDEN = Path(__file__).parents[2] / "golden"


def lines(*name: str) -> list[dict[str, Any]]:
    """The rows of a golden file."""
    return [json.loads(line) for line in GOLDEN.joinpath(*name).read_text("utf-8").splitlines()]


ROWS = lines("answers.jsonl")
QUIET = {"phrase_guessed", "tags_stripped", "absent_marker", "draft_box"}
Said = list[tuple[str | None, list[Box]]]


def said(g: GroundedText) -> Said:
    """Phrases with their boxes."""
    return [(m.phrase and " ".join(m.phrase.split()), list(m.boxes)) for m in g.mentions]


def same(found: Said, expected: Any, tolerance: float = 1.0) -> bool:
    """Whether the same things are said, boxes to a pixel."""
    return len(found) == len(expected) and all(
        (phrase == wanted or (wanted == "*" and phrase is not None))
        and [pytest.approx(tuple(box), abs=tolerance) for box in places] == boxes
        for (phrase, boxes), (wanted, places) in zip(found, expected, strict=True)
    )


def holds(expect: dict[str, Any], g: GroundedText, d: Dialect) -> bool:
    """Whether everything that a row expects is so."""
    kinds = {p.kind for p in g.problems}
    wanted = set(expect.get("problem_any", kinds))
    return (
        same(said(g), expect.get("mentions", said(g)))
        and (not expect.get("problem_any") or bool(kinds & wanted) or ("*" in wanted and bool(kinds - QUIET)))
        and not (expect.get("no_problem") and kinds)
        and all(words in g.plain for words in expect.get("plain_has", ()))
        and not any(words in g.plain for words in expect.get("plain_has_not", ()))
        and removes(expect, g, d)
        and converts(expect, g, d)
        and (not expect.get("either") or any(holds(e, g, d) for e in expect["either"]))
    )


def removes(expect: dict[str, Any], g: GroundedText, d: Dialect) -> bool:
    """Whether the other boxes are left without the first one, in JSON where it was JSON."""
    slots = [(m, b) for m, mention in enumerate(g.mentions) for b in range(len(mention.boxes))]
    rule = expect.get("remove_first")
    if rule is None or not slots:
        return True
    left = [
        (phrase, [box for b, box in enumerate(boxes) if (m, b) != slots[0]])
        for m, (phrase, boxes) in enumerate(said(g))
    ]
    left = [(phrase, boxes) for phrase, boxes in left if boxes]
    texts = [d.replace_boxes(g, {slots[0]: None}, g.frame)]
    if expect.get("refine") and len(slots) > 1:
        others = [g.mentions[m].boxes[b] for m, b in slots[1:]]
        texts += [refine(g, others, d, g.frame, 0.5, how) for how in ("unbox", "drop_clause")]
    return all(
        same([(p, boxes) for p, boxes in said(new) if boxes], left)
        and len(left) == rule.get("mentions", len(left))
        and (not rule.get("json") or (is_json(g.text) and is_json(new.text)))
        for new in texts
    )


def converts(expect: dict[str, Any], g: GroundedText, d: Dialect) -> bool:
    """Whether another notation says the same, or the conversion is refused."""
    rule = expect.get("convert_to")
    if rule is None:
        return True
    target = get_dialect(rule["dialect"])
    try:
        again = target.parse(convert(g, g.frame, d, target), g.frame)
    except DialectError:
        return rule.get("error") is not False
    return not rule.get("error") and same(said(again), said(g), max(g.frame) / 500 + 1)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["id"])
def test_reported_answers(row: dict[str, Any]) -> None:
    d, frame = get_dialect(row["dialect"]), Frame(row["w"], row["h"])
    g = d.parse(row["text"], frame)
    assert d.render(g, frame) == row["text"]
    assert holds(row["expect"], g, d), (row["why"], said(g), g.problems, g.plain)


# what tests/golden/make_damaged.py wrote for each dialect
DAMAGED = {path.stem: lines("damaged", path.name) for path in sorted((GOLDEN / "damaged").glob("*.jsonl"))}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_answers(name: str) -> None:
    """Three hundred answers of each family, one thing wrong with each: what is read follows from what
    happened, and nothing of the notation is left in the plain text.
    """
    d, frame = get_dialect(name), Frame(1000, 1000)
    for row in DAMAGED[name]:
        text = row["text"]
        g, layout = d.parse(text, frame), d.layout(text)
        found = [
            (
                m.phrase and " ".join(m.phrase.split()),
                [[text[slice(*n)] for n in ns] for ns in (*(box.numbers for box in m.boxes), *m.points)],
            )
            for m in layout.mentions
        ]
        says = [(f if p == "*" else p, boxes) for (p, boxes), (f, _) in zip(row["says"], found, strict=True)]
        assert found == says, row
        kinds = {p.kind for p in g.problems}
        assert all(kinds & set(either.split("|")) for either in row["problems"]), (row, kinds)
        assert not re.search(r"[0-9]{3}|[0-9]\.[0-9]|[<>{}`]|\[\[|null", g.plain), (row, g.plain)


def test_each_family_has_damaged_answers() -> None:
    assert set(DAMAGED) == set(FAMILIES)
    assert all(len(rows) == 300 for rows in DAMAGED.values())


TEXTS = dict.fromkeys(
    [
        (row["dialect"], row["text"], tuple(row["size"]))
        for row in json.loads((GOLDEN / "dialects.json").read_text("utf-8"))
    ]
    + [(row["dialect"], row["text"], (row["w"], row["h"])) for row in ROWS]
    + [(name, row["text"], (1000, 1000)) for name, rows in DAMAGED.items() for row in rows]
)


@pytest.mark.parametrize("name", sorted({name for name, _, _ in TEXTS}))
def test_every_edit_of_every_golden_text_is_exact(name: str) -> None:
    """Each box replaced and removed, and all removed: other boxes stay as they are, none appears, JSON stays
    JSON, and what refinement writes reads back as exactly the refined boxes under their phrases.
    """
    d = get_dialect(name)
    writes_json = name in ("qwen2_5_vl", "qwen3_vl", "gemini")
    for text, size in ((text, size) for n, text, size in TEXTS if n == name):
        frame = Frame(*size)
        g = d.parse(text, frame)
        assert d.render(g, frame) == text
        slots = [(m, b) for m, mention in enumerate(g.mentions) for b in range(len(mention.boxes))]
        new = (frame.width * 0.25, frame.height * 0.25, frame.width * 0.5, frame.height * 0.75)
        for slot in slots:
            others = [g.mentions[m].boxes[b] for m, b in slots if (m, b) != slot]
            changed = d.replace_boxes(g, {slot: new}, frame)
            assert [(m.phrase, len(m.boxes)) for m in changed.mentions] == [
                (m.phrase, len(m.boxes)) for m in g.mentions
            ]
            removed = d.replace_boxes(g, {slot: None}, frame)
            assert [box for m in removed.mentions for box in m.boxes] == others, (text, removed.text)
            assert not (writes_json and is_json(text)) or is_json(removed.text), (text, removed.text)
            for how in ("unbox", "drop_clause"):
                refined = refine(g, others, d, frame, 0.9999, how)
                left = [box for m in refined.mentions for box in m.boxes]
                assert set(left) <= set(others), (text, refined.text)
                assert not (writes_json and is_json(text)) or is_json(refined.text), (text, refined.text)
        gone = d.replace_boxes(g, dict.fromkeys(slots), frame)
        assert not any(m.boxes for m in gone.mentions), (text, gone.text)
