"""What a problem is, in words for people."""

from __future__ import annotations

import re
from collections.abc import Mapping

from spr.dialects.brackets import NUMBER
from spr.types import GroundedText, Problem

WORDS: Mapping[str, str] = {
    "truncated": "the text breaks off inside a box, a tag or a JSON object",
    "wrong_arity": "a box with other than four numbers",
    "out_of_range": "a number outside the notation's range",
    "reversed": "corners in the wrong order",
    "not_a_number": "something else where a number belongs",
    "nested_tag": "a tag or a list inside another",
    "tag_mismatch": "a tag, a bracket or a comma that is missing or too much",
    "tags_stripped": "special tokens removed by the decoder (skip_special_tokens), read all the same",
    "absent_marker": "said to be absent",
    "non_box_payload": "a point, a shape or a notation that is not this dialect's: not read",
    "foreign_key": "a box under another key than this dialect's: read",
    "draft_box": "a box in a thought or a tool call: no part of the answer",
    "phrase_guessed": "the phrase is the text before the box",
    "frame_error": "an image size that this model cannot be shown",
}
_KEY = re.compile(r"\W{0,3}([A-Za-z_][\w\\]{0,30})\W{0,3}\s*[:=]")
# in what is said about all answers: no trouble of the notation
_NO_TROUBLE = ("phrase_guessed", "absent_marker")


def counted(problems: Mapping[str, int], n: int) -> list[str]:
    """Lines like "12 of 300: fractions where whole units are meant", the most frequent first. `problems`: in
    how many of n answers each stands, as `told` writes it.
    """
    ordered = sorted(problems.items(), key=lambda item: (-item[1], item[0]))
    lines = []
    for problem, answers in ordered:
        kind, _, words = problem.partition(": ")
        if kind in WORDS and kind not in _NO_TROUBLE:
            lines.append(f"{answers} of {n}: {words or WORDS[kind]}")
    return lines


def told(g: GroundedText, problem: Problem) -> str:
    """The kind of a problem, with words where the kind alone does not say what it is."""
    words = explain(g, problem)
    return problem.kind if words == WORDS[problem.kind] else f"{problem.kind}: {words}"


def explain(g: GroundedText, problem: Problem) -> str:
    """A problem of a text in a few words; for what was not read, what it is."""
    said = g.text[slice(*problem.span)]
    key = _KEY.match(said)
    numbers = NUMBER.findall(said)
    if problem.kind == "foreign_key" and key:
        return "boxes under the names of things: read"
    if problem.kind != "non_box_payload":
        return WORDS[problem.kind]
    if len(numbers) in (2, 4) and "." in said and not said.strip("0123456789-., \t\n"):
        return "fractions where whole units are meant"
    if said.startswith("<"):
        return "tags or tokens of another notation: not read"
    if key:
        return f"a place under the key {key.group(1)!r}, which is not this dialect's: not read"
    return "a point: not read" if len(numbers) == 2 else WORDS["non_box_payload"]
