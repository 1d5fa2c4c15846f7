"""What all readers share: where the file is, and strict access to its values.

Every error names file, place, what was found and what was expected. Nothing is repaired or skipped.
"""

from __future__ import annotations

import json
import math
import os.path
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spr.data.images import safe_path
from spr.data.spool import four_numbers
from spr.errors import ConfigError, DataError, ImageError, is_text, shown, unknown_name
from spr.types import Box

Entry = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Source:
    """One file (or folder) of a benchmark. `split` is the name that its items carry unless the file names one
    itself.
    """

    path: str
    images: str = ""
    split: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    protocol: str = ""  # the protocol that will ask; some forms carry more than one kind of question
    check_images: bool = True
    # opens an image whose size the file does not give
    size_of: Callable[[str], tuple[int, int]] | None = None
    # what a user should know about the file; ends up in metrics.json
    notes: list[str] = field(default_factory=list)

    def file(self) -> str:
        """The path, which must be a file. Raises DataError."""
        if not Path(self.path).is_file():
            raise DataError(f"{self.path}: no such file, expected a benchmark file")
        return self.path

    def option(self, name: str, default: str, known: Sequence[str]) -> str:
        """An option of the form. Raises ConfigError for a value that is not known."""
        value = str(self.options.get(name, default))
        if value not in known:
            raise ConfigError(f"reader.{name}: " + unknown_name("value", value, known))
        return value

    def check_options(self, known: Sequence[str]) -> None:
        """Raises ConfigError for an option that the form does not have."""
        for name in self.options:
            if name not in known:
                raise ConfigError(
                    f"reader.{name}: "
                    + (unknown_name("option", name, known) if known else "this form has no options")
                )

    def image(self, name: str, where: str) -> str:
        """Path or URL of an image. Raises DataError for a name outside `images`, and for a local file that is
        not there.
        """
        plain = inside(name, where)
        path = f"{self.images.rstrip('/')}/{plain}" if self.images else plain
        if self.check_images and "://" not in path and "::" not in path and not os.path.exists(path):
            raise DataError(
                f"{where}: found no image {path}, expected it under `images` ({self.images or 'not set'})"
            )
        return path

    def size(self, image: str, where: str) -> tuple[int, int]:
        """(width, height) of an image whose size the file does not give."""
        if self.size_of is None:
            raise DataError(
                f"{where}: found no width and height, expected them in the file (there is no image store "
                "to ask)"
            )
        try:
            return self.size_of(image)
        except ImageError as e:
            raise DataError(f"{where}: {e}") from None

    def frame(self, entry: Entry, image: str, where: str) -> tuple[int, int]:
        """(width, height) as the entry says, or of the image when it says nothing."""
        if entry.get("width") is None and entry.get("height") is None:
            return self.size(image, where)
        return take_size(entry, where)


def wrong(where: str, found: str, expected: str) -> DataError:
    """`where: found …, expected …`."""
    return DataError(f"{where}: found {found}, expected {expected}")


def inside(name: str, where: str) -> str:
    """The plain form of an image's name. It obeys the rules of the data (`spr.data.images.safe_path`): a
    benchmark from elsewhere must not open any other file, or a URL ("::" would chain one). Raises DataError.
    """
    plain = safe_path(name)
    if plain is None or "::" in name:
        raise wrong(where, f"the image name {shown(name)}", 'a path inside `images`: relative, no ".."')
    return plain


def read_text(path: str | Path) -> str:
    """The text of a file. Raises DataError when it cannot be read, or is not UTF-8."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as e:
        raise DataError(f"{path}: not UTF-8 (byte {e.start})") from None
    except (OSError, ValueError) as e:
        raise DataError(f"{path}: cannot be read ({e})") from None


def parse_json(text: str, where: str, whole: bool = False) -> Any:
    """The value of a JSON text: of one line, or of a `whole` file. Raises DataError."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as e:
        if whole:
            raise DataError(f"{where}:{e.lineno}:{e.colno}: not valid JSON ({e.msg})") from None
        raise DataError(f"{where}: not valid JSON ({e.msg} at column {e.colno})") from None
    except RecursionError:
        raise DataError(f"{where}: not valid JSON (nested too deeply)") from None
    except ValueError as e:  # a number of more than 4,300 digits
        raise DataError(f"{where}: not valid JSON ({e})") from None


def load_json(path: str) -> Any:
    """The JSON of a file. Raises DataError with line and column."""
    return parse_json(read_text(path), path, whole=True)


def check_keys(entry: object, known: Collection[str], where: str) -> Entry:
    """An object whose keys are all known. Raises DataError."""
    if not isinstance(entry, Mapping):
        raise wrong(where, shown(entry), "an object")
    for key in entry:
        if key not in known:
            raise DataError(f"{where}: " + unknown_name("column", str(key), known))
    return entry


def records(path: str, known: Collection[str]) -> Iterator[tuple[str, Entry]]:
    """(where, object) of a JSON list."""
    value = load_json(path)
    if not isinstance(value, list):
        raise wrong(path, type(value).__name__, "a JSON list")
    for number, entry in enumerate(value):
        where = f"{path}[{number}]"
        yield where, check_keys(entry, known, where)


def lines(path: str, known: Collection[str]) -> Iterator[tuple[str, Entry]]:
    """(where, object) of a JSON-lines file; blank lines are not rows."""
    with Path(path).open("rb") as f:
        for number, line in enumerate(f, start=1):
            if not line.strip():
                continue
            where = f"{path}:{number}"
            try:
                text = line.decode("utf-8")
            except UnicodeDecodeError as e:
                raise DataError(f"{where}: not UTF-8 (byte {e.start} of the line)") from None
            yield where, check_keys(parse_json(text, where), known, where)


def take(entry: Entry, key: str, where: str) -> Any:
    """A value that must be there."""
    if not isinstance(entry, Mapping):
        raise wrong(where, shown(entry), "an object")
    if key not in entry:
        raise wrong(where, f"keys {sorted(map(str, entry))}", f"{key!r} among them")
    return entry[key]


def take_text(entry: Entry, key: str, where: str) -> str:
    """A string that is not empty."""
    value = take(entry, key, where)
    if not isinstance(value, str) or not value.strip() or not is_text(value):
        raise wrong(f"{where}.{key}", shown(value), "a text")
    return value


def take_id(entry: Entry, key: str, where: str) -> int | str:
    """An id: a whole number or a text."""
    value = take(entry, key, where)
    return take_text(entry, key, where) if isinstance(value, str) else take_int(entry, key, where)


def take_whole(entry: Entry, key: str, where: str) -> int:
    """A whole number, also as text ("500"): some published files have sizes so."""
    value = take(entry, key, where)
    return (
        int(value)
        if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 19
        else take_int(entry, key, where)
    )


def take_int(entry: Entry, key: str, where: str) -> int:
    """A whole number of 64 bits."""
    value = take(entry, key, where)
    if isinstance(value, bool) or not isinstance(value, int) or not -(2**63) <= value < 2**63:
        raise wrong(f"{where}.{key}", shown(value), "a whole number")
    return value


def take_size(entry: Entry, where: str) -> tuple[int, int]:
    """(width, height) in pixels."""
    return checked_size(take_int(entry, "width", where), take_int(entry, "height", where), where)


def checked_size(width: int, height: int, where: str) -> tuple[int, int]:
    """(width, height), both of them pixels that a picture may have."""
    if not (1 <= width < 2**31 and 1 <= height < 2**31):
        raise wrong(where, f"a size of {width}x{height}", "a positive width and height")
    return width, height


def take_list(entry: Entry, key: str, where: str) -> list[tuple[str, Any]]:
    """(where, value) of a list."""
    value = take(entry, key, where)
    if not isinstance(value, list):
        raise wrong(f"{where}.{key}", shown(value), "a list")
    return [(f"{where}.{key}[{k}]", v) for k, v in enumerate(value)]


def to_box(value: object, where: str) -> Box:
    """Four finite numbers [x1, y1, x2, y2] with x1 <= x2 and y1 <= y2: a reversed truth is an error of the
    file.
    """
    x1, y1, x2, y2 = four(value, where)
    if x1 > x2 or y1 > y2:
        raise wrong(where, shown(value), "[x1, y1, x2, y2] with x1 <= x2 and y1 <= y2")
    return (x1, y1, x2, y2)


def four(value: object, where: str) -> tuple[float, float, float, float]:
    """Four finite numbers."""
    numbers = four_numbers(value)
    if numbers is None:
        raise wrong(where, shown(value), "four numbers")
    a, b, c, d = numbers
    return (a, b, c, d)


def take_box(entry: object, key: str, where: str) -> Box:
    """A box [x1, y1, x2, y2]."""
    if not isinstance(entry, Mapping):
        raise wrong(where, shown(entry), "an object")
    return to_box(take(entry, key, where), f"{where}.{key}")


def take_xywh(entry: Entry, key: str, where: str) -> Box:
    """A COCO box [x, y, width, height] as xyxy: x2 = x + width, without "-1". Width and height must not be
    negative.
    """
    x, y, w, h = four(take(entry, key, where), f"{where}.{key}")
    if w < 0 or h < 0 or not math.isfinite(x + w) or not math.isfinite(y + h):
        raise wrong(f"{where}.{key}", shown(entry[key]), "[x, y, width, height] with width and height >= 0")
    return (x, y, x + w, y + h)
