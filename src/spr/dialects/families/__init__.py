"""The model families, a file each: `build(**options)` gives a `Family`; `VARIANTS` and `OPTIONS` where there
are any. A new file is a new dialect.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from pkgutil import iter_modules

from spr.dialects.family import Family

_MODULES = {
    name: import_module(f"{__name__}.{name}")
    for name in sorted(module.name for module in iter_modules(__path__))
}
FAMILIES: Mapping[str, Callable[..., Family]] = {name: module.build for name, module in _MODULES.items()}
VARIANTS: Mapping[str, Callable[..., Family]] = {
    f"{name}:{variant}": build
    for name, module in _MODULES.items()
    for variant, build in getattr(module, "VARIANTS", {}).items()
}
# keywords of `build`
OPTIONS: Mapping[str, tuple[str, ...]] = {
    name: getattr(module, "OPTIONS", ()) for name, module in _MODULES.items()
}
