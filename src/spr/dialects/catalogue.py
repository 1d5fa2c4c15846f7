"""Dialects by name."""

from __future__ import annotations

from typing import Any, Literal

from spr.dialects.base import Dialect
from spr.dialects.families import FAMILIES, OPTIONS, VARIANTS
from spr.errors import DialectError, unknown_name


def known_names(writes: Literal["boxes", "points"] | None = None) -> tuple[str, ...]:
    """All families, then the named variants where officials disagree; or those of them that write boxes, or
    points.
    """
    both = {**FAMILIES, **VARIANTS}
    return tuple(name for name in both if writes is None or writes in both[name]()[2].writes)


def get_dialect(name: str, *, encode: str = "nearest", **options: Any) -> Dialect:
    """The dialect of that name. `encode="official"` writes with the published formula. Options of a family
    are keywords.

    Raises DialectError (a ValueError) for an unknown name or option, listing the known ones.
    """
    build = FAMILIES.get(name) or VARIANTS.get(name)
    if build is None:
        raise DialectError(unknown_name("dialect", str(name), known_names()))
    if encode not in ("nearest", "official"):
        raise DialectError(f"encode: found {encode!r}, expected 'nearest' or 'official'")
    accepted = OPTIONS.get(name, ())
    for option, value in options.items():
        if option not in accepted:
            raise DialectError(f"{name}: " + unknown_name("option", option, (*accepted, "encode")))
        if not isinstance(value, int) or value < 1:
            raise DialectError(f"{name}.{option}: found {value!r}, expected a positive whole number")
    grammar, codec, contract, prompts = build(**options)
    return Dialect(name, grammar, codec, contract, prompts, encode == "official", dict(options))
