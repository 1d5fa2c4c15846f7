"""The streamed reader gives what the standard library gives, wherever its pieces are cut, and says where a
file breaks.
"""

from __future__ import annotations

import io
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spr.data.json_stream import JsonBrokenError, JsonStream

ANY = msgspec.json.Decoder(list[dict[str, Any]])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats() | st.text('ab}{][,:"\\\n é😀', max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab", max_size=2), inner, max_size=3),
    max_leaves=6,
)
OBJECTS = st.lists(st.dictionaries(st.text("xyz}", max_size=2), VALUES, max_size=3), max_size=6)


def read(text: str, piece: int, keys: tuple[str, ...] = ("images", "annotations")) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {key: [] for key in keys}
    for batch in JsonStream(io.BytesIO(text.encode()), dict.fromkeys(keys, ANY), piece).batches():
        found[batch.key] += batch.elements
    return found


@given(OBJECTS, OBJECTS, VALUES, st.integers(1, 80), st.sampled_from([None, 1]), st.booleans())
def test_any_cut_gives_the_same_elements(
    images: Any, annotations: Any, other: Any, piece: int, indent: int | None, ascii_only: bool
) -> None:
    """Braces, brackets, quotes and commas in strings and in nested values look like ends of elements and are
    not.
    """
    text = json.dumps(
        {"info": other, "images": images, "annotations": annotations, "more": [other, other]},
        indent=indent,
        ensure_ascii=ascii_only,
    )
    found = read(text, piece)
    assert json.dumps(found) == json.dumps({"images": images, "annotations": annotations})


@given(OBJECTS, st.integers(1, 80))
def test_an_array_at_the_top(elements: Any, piece: int) -> None:
    assert json.dumps(read(json.dumps(elements), piece, ("",))) == json.dumps({"": elements})


def test_a_typed_piece_never_swallows_the_next_array() -> None:
    """`{"a": 1}], "images": [{"b": 2}` ends at a brace, too; taken between brackets it must not pass."""
    text = '{"annotations": [{"a": 1}], "images": [{"b": 2}, {"b": 3}], "annotations": [{"a": 4}]}'
    assert read(text, 1000) == {"annotations": [{"a": 1}, {"a": 4}], "images": [{"b": 2}, {"b": 3}]}


TEXT = '{"images": [{"a": "é"}], "annotations": [{"b": [1, 2]}, {"b": [3, 4]}], "categories": []}'
BREAKS = [
    # text, byte offset, elements of "annotations" before it, what is said
    (TEXT[: TEXT.index("4]}")], len(TEXT[: TEXT.index("4]}")].encode()), 1, "the file ends"),
    (TEXT[:3], 3, 0, "the file ends"),
    (TEXT[: TEXT.index("é") + 1], len(TEXT[: TEXT.index("é") + 1].encode()), 0, "the file ends"),
    ("", 0, 0, "the file ends"),
    (TEXT.replace("3, 4", "3; 4"), TEXT.encode().index(b"3, 4") + 1, 1, "expecting ',' delimiter"),
    (TEXT.replace("]}], ", "]}]; "), TEXT.encode().index(b"]}], ") + 3, 2, "found ';', expected ',' or '}'"),
    (TEXT + "x", len(TEXT.encode()), 2, "text after the end of the JSON value"),
    (TEXT.replace("{", "[", 1), 9, 0, "expected ',' or ']'"),
]


@pytest.mark.parametrize(("text", "offset", "before", "said"), BREAKS, ids=range(len(BREAKS)))
@pytest.mark.parametrize("piece", [7, 1000])
def test_the_place_of_a_break(text: str, offset: int, before: int, said: str, piece: int) -> None:
    """The byte, not the character; every whole element before it is given first."""
    found: list[Any] = []

    def collect() -> None:
        for batch in JsonStream(io.BytesIO(text.encode()), {"annotations": ANY, "": ANY}, piece).batches():
            found.extend(batch.elements if batch.key == "annotations" else [])

    with pytest.raises(JsonBrokenError) as e:
        collect()
    assert (e.value.offset, len(found)) == (offset, before)
    assert said in str(e.value)


def test_bytes_that_are_not_utf8() -> None:
    data = TEXT.encode().replace("é".encode(), b"\xe9")
    with pytest.raises(JsonBrokenError, match="not UTF-8") as e:
        list(JsonStream(io.BytesIO(data), {"images": ANY}).batches())
    assert e.value.offset == data.index(b"\xe9")


class CountingFile(io.RawIOBase):
    """An endless-looking file that remembers how much was asked for."""

    def __init__(self, data: bytes) -> None:
        self._data, self.given = data, 0

    def read(self, size: int = -1) -> bytes:
        part = self._data[self.given : self.given + size]
        self.given += len(part)
        return part


def test_an_early_error_does_not_read_the_whole_file() -> None:
    """A syntax error at the start of many gigabytes is found at once, and in little memory."""
    file = CountingFile(b'{"annotations": [{"a": 1}, {"a" 2}' + b', {"a": 1}' * 100_000)
    with pytest.raises(JsonBrokenError):
        list(JsonStream(file, {"annotations": ANY}, 1000).batches())  # type: ignore[arg-type]
    assert file.given < 50_000
