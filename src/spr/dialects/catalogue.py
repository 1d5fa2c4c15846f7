"""Dialects by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from spr.dialects.base import Dialect
from spr.dialects.configured import OPTIONS as CONTRACT
from spr.dialects.configured import configured, whole_number
from spr.dialects.families import FAMILIES, OPTIONS, VARIANTS
from spr.errors import DialectError, unknown_name


def known_names(writes: Literal["boxes", "points"] | None = None) -> tuple[str, ...]:
    """All families, then the named variants where officials disagree; or those of them that write boxes, or
    points.
    """
    both = {**FAMILIES, **VARIANTS}
    return tuple(name for name in both if writes is None or writes in both[name]()[2].writes)


def get_dialect(
    name: str | Mapping[str, Any], *, encode: Literal["nearest", "official"] = "nearest", **options: Any
) -> Dialect:
    """The dialect of that name. `encode="official"` writes with the published formula. Options are those of
    the family, and what `spr.dialects.configured` can change; a mapping has the name under `base`, and
    options.

    Raises DialectError (a ValueError) for an unknown name or option, listing the known ones.
    """
    if isinstance(name, Mapping):
        if "base" not in name:
            raise DialectError(
                f"found {', '.join(map(str, name)) or 'nothing'}, expected base, the name of a dialect, too"
            )
        rest = {str(option): value for option, value in name.items() if option != "base"}
        return get_dialect(str(name["base"]), encode=encode, **{**options, **rest})
    build = FAMILIES.get(name) or VARIANTS.get(name)
    if build is None:
        raise DialectError(unknown_name("dialect", str(name), known_names()))
    if encode not in ("nearest", "official"):
        raise DialectError(f"encode: found {encode!r}, expected 'nearest' or 'official'")
    accepted = OPTIONS.get(name, ())
    own = {}
    for option, value in options.items():
        if option not in (*accepted, *CONTRACT):
            raise DialectError(f"{name}: " + unknown_name("option", option, (*CONTRACT, "encode")))
        if option in accepted:
            own[option] = whole_number(name, option, value)
    family = build(**own)
    changes = {option: value for option, value in options.items() if option not in own}
    if changes:
        family = configured(name, family, {**changes, **own})
    return Dialect(name, *family, encode == "official", dict(options))
