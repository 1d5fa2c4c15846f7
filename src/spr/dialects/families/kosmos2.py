"""Kosmos-2: two cells of a grid."""

from __future__ import annotations

from spr.dialects.codec import PatchCodec
from spr.dialects.family import Family, family
from spr.dialects.payloads import PATCH_BOX, AngleReader, write_patches
from spr.dialects.tags import TagGrammar


def build() -> Family:
    """Grammar, codec, contract, prompts."""
    grammar = TagGrammar(
        ("<object>", "</object>"),
        AngleReader("<patch_index_", ">", arity=2, digits="[0-9]{4}"),
        write_patches,
        PATCH_BOX,
        ref=("<phrase>", "</phrase>"),
        pad=" ",
        extra=("<grounding>", "</delimiter_of_multi_objects/>"),
        forbidden=("<",),
        bare=PATCH_BOX,
        digits=4,
    )
    return family(
        grammar,
        PatchCodec(),
        "transformers processing_kosmos2.py",
        encode="cells floor(x / W * 32), ceil(x / W * 32) - 1",
        decode="cell centres; outer edges of two cells in one row or column",
        phrase="<phrase> before",
        several="delimiter inside <object>",
        grounded_caption="<grounding> Describe this image in detail:",
        rec="<grounding><phrase> {expression}</phrase>",
        phrase_grounding="<grounding><phrase> {phrases}</phrase>",
        region_caption="<grounding><phrase> It</phrase>{region} is",
    )
