"""What a family is made of, and how its file puts it together.

Facts are from the families' official code, model cards and maintainers' answers; what no primary source says
is marked unverified. An `official` encoder is the published formula, x on an image of side `side`; it stands
beside its text in the contract.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from spr.dialects.base import Grammar
from spr.dialects.codec import Codec
from spr.dialects.contract import Contract, Prompt
from spr.dialects.payloads import BARE_BRACKET, BRACKET_BOX, read_brackets, write_lists
from spr.dialects.tags import TagGrammar

Family: TypeAlias = tuple[Grammar, Codec, Contract, Mapping[str, Prompt]]
Given: TypeAlias = str | tuple[str, str]  # a prompt of the contract's source, or (prompt, source)

NOT_PUBLISHED = "not published"


def family(
    grammar: Grammar,
    codec: Codec,
    source: str,
    *,
    decode: str,
    phrase: str,
    several: str,
    encode: str = NOT_PUBLISHED,
    frame: str = "",
    verified: bool = True,
    writes: tuple[str, ...] = ("boxes",),
    **prompts: Given,
) -> Family:
    """The contract takes its numbers from the codec. `prompts`: the forms of question that the family
    publishes; one that it does not is absent.
    """
    contract = Contract(
        codec.order if "boxes" in writes else codec.order[:2],
        codec.divisor,
        codec.maximum,
        codec.offset,
        frame or codec.frame,
        encode,
        decode,
        phrase,
        several,
        source,
        verified,
        writes,
    )
    forms = {
        name: Prompt(given, source) if isinstance(given, str) else Prompt(*given)
        for name, given in prompts.items()
    }
    return grammar, codec, contract, forms


def tagged_lists(ref: tuple[str, str], box: tuple[str, str]) -> TagGrammar:
    """A phrase in one pair of tags, then all its boxes as `[[..], [..]]` in another: InternVL's form."""
    return TagGrammar(box, read_brackets, write_lists, BRACKET_BOX, ref=ref, bare=BARE_BRACKET)
