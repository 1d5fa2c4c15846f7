"""Seed1.5-VL and Doubao: `<bbox>x1 y1 x2 y2</bbox>` and `<point>x y</point>`, in words or in JSON."""

from __future__ import annotations

from spr.dialects.codec import LinearCodec
from spr.dialects.family import Family, family
from spr.dialects.json_objects import JsonGrammar
from spr.dialects.mixed import MixedGrammar
from spr.dialects.payloads import BLANK_BBOX, read_blanks, write_blanks
from spr.dialects.tags import TagGrammar


def grammar(calls: bool = False) -> MixedGrammar:
    """Both tags, alone or as values of JSON; `calls`: actions too."""
    tags = TagGrammar(
        ("<bbox>", "</bbox>"),
        read_blanks,
        write_blanks,
        BLANK_BBOX,
        point=("<point>", "</point>"),
        guess=True,
        several="repeat",
        glue=" ",
        forbidden=("{", "='"),  # what begins an object, or an argument
        extra=("<|box_start|>", "<|box_end|>") if calls else (),  # in actions
    )
    return MixedGrammar(tags, JsonGrammar("bbox", "point"), tags_in_json=True, calls=calls)


def build() -> Family:
    """Grammar, codec, contract, prompts."""
    return family(
        grammar(),
        LinearCodec(1000, 999),
        "BytePlus ModelArk 2582775 (form, range); ui-tars action_parser.py (divisor)",
        decode="v / 1000 * W",
        phrase="before, guessed; JSON label",
        several="repeated <bbox>",
        writes=("boxes", "points"),
    )
