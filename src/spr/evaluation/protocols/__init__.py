"""The protocols by name: a plain mapping."""

from __future__ import annotations

from collections.abc import Mapping

from spr.errors import ConfigError, unknown_name
from spr.evaluation.protocols.absent import ABSENT_REC
from spr.evaluation.protocols.base import Protocol
from spr.evaluation.protocols.many_boxes import MANY_BOXES
from spr.evaluation.protocols.phrase_grounding import PHRASE_GROUNDING
from spr.evaluation.protocols.pope import POPE
from spr.evaluation.protocols.rec import REC
from spr.evaluation.protocols.region_caption import REGION_CAPTION
from spr.evaluation.protocols.region_classification import REGION_CHOICE, REGION_CLASSIFICATION
from spr.evaluation.protocols.region_description import REGION_DESCRIPTION

PROTOCOLS: Mapping[str, Protocol] = {
    p.name: p
    for p in (
        REC,
        ABSENT_REC,
        MANY_BOXES,
        PHRASE_GROUNDING,
        REGION_DESCRIPTION,
        REGION_CAPTION,
        REGION_CLASSIFICATION,
        REGION_CHOICE,
        POPE,
    )
}


def protocol_named(name: str) -> Protocol:
    """The protocol of that name. Raises ConfigError listing the known ones."""
    if name not in PROTOCOLS:
        raise ConfigError(unknown_name("protocol", name, PROTOCOLS))
    return PROTOCOLS[name]
