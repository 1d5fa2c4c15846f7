"""MiniCPM-V 2.6 and 4.5."""

from __future__ import annotations

from spr.dialects.codec import LinearCodec
from spr.dialects.family import Family, family
from spr.dialects.payloads import BLANK_BOX, read_blanks, write_blanks
from spr.dialects.tags import TagGrammar


def build() -> Family:
    """Grammar, codec, contract, prompts."""
    grammar = TagGrammar(
        ("<box>", "</box>"), read_blanks, write_blanks, BLANK_BOX, ref=("<ref>", "</ref>"), several="repeat"
    )
    return family(
        grammar,
        LinearCodec(1000, 1000),
        "OpenBMB/MiniCPM-V issue 982",
        decode="v / 1000 * W",
        phrase="<ref> before",
        several="unverified",
    )
