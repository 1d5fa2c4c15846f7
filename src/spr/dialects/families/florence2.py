"""Florence-2; transformers truncates to whole pixels."""

from __future__ import annotations

import functools
import math

from spr.dialects.codec import LinearCodec
from spr.dialects.family import Family, family
from spr.dialects.locations import FlorenceGrammar


def build(integer: bool = False) -> Family:
    """Grammar, codec, contract, prompts."""
    return family(
        FlorenceGrammar(),
        LinearCodec(
            1000, 999, offset=0.5, official=lambda x, side: math.floor(x / (side / 1000)), truncate=integer
        ),
        "transformers processing_florence2.py (adds int)"
        if integer
        else "microsoft/Florence-2 processing_florence2.py",
        encode="floor(x / (W / 1000)), clamped",
        decode="int((v + 0.5) * W / 1000)" if integer else "(v + 0.5) * W / 1000",
        phrase="before, guessed",
        several="4-tuples in a row",
        grounded_caption="<DENSE_REGION_CAPTION>",
        rec="<OPEN_VOCABULARY_DETECTION>{expression}",
        phrase_grounding="<CAPTION_TO_PHRASE_GROUNDING>{phrases}",
        region_caption="<REGION_TO_DESCRIPTION>{region}",
    )


VARIANTS = {"float": build, "int": functools.partial(build, True)}
