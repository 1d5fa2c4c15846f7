"""A contract of one's own keeps every promise of a dialect: total, lossless, exact edits, what is written is
read, tokens come back.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spr.boxes import from_cxcywh_unit, from_xywh
from spr.dialects import Dialect, Frame, convert, get_dialect, known_names
from spr.dialects.codec import ORDERS, LinearCodec
from spr.dialects.configured import FRAMES
from spr.errors import DialectError
from spr.types import Box
from tests.properties.test_dialects import GUESSED, NO_PHRASE, texts

FRAME = Frame(640, 480)
BASES = [n for n in known_names("boxes") if n not in ("kosmos2", "florence2:int")]
JSON = ["qwen3_vl", "qwen2_5_vl", "gemini"]


@st.composite
def contracts(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    """A base and changes that go together, so that few are refused."""
    name = draw(st.sampled_from(BASES) | st.sampled_from(JSON))
    points = "points" in get_dialect(name).contract.writes
    options: dict[str, Any] = {
        "order": draw(st.sampled_from(["xyxy", "yxyx"] if points else sorted(ORDERS))),
        "frame": draw(st.sampled_from(sorted(FRAMES))),
    }
    if options["frame"] == "resized" or draw(st.booleans()):
        options["scale"] = "pixels"
        options |= draw(st.fixed_dictionaries({}, optional={"longest_side": st.integers(200, 2000)}))
    else:
        options["scale"] = draw(st.sampled_from([1, 100, 448, 999, 1000, 1024]))
    if options["frame"] == "resized":
        options |= draw(st.fixed_dictionaries({}, optional={"max_pixels": st.integers(50_000, 2_000_000)}))
    if name in JSON:
        options |= draw(st.fixed_dictionaries({}, optional={"key": st.sampled_from(["bbox", "where"])}))
    return name, options


SIDES = st.integers(30, 3000)
corners = st.tuples(st.floats(0, 500), st.floats(0, 400), st.floats(40, 139), st.floats(40, 79))
boxes = corners.map(lambda v: (v[0], v[1], v[0] + v[2], v[1] + v[3]))


def made(contract: tuple[str, dict[str, Any]]) -> Dialect | None:
    """The dialect, or None where it was refused."""
    name, options = contract
    with contextlib.suppress(DialectError):
        return get_dialect({"base": name, **options})
    return None


@pytest.mark.parametrize("scale", [None, 1, 100, 999, 1000, 1024, "pixels"])
@pytest.mark.parametrize("frame", sorted(FRAMES))
@pytest.mark.parametrize("order", sorted(ORDERS))
def test_json_takes_every_order_frame_and_scale(order: str, frame: str, scale: Any) -> None:
    """What the doctor can name has a remedy; only shares of the resized image are those of the original."""
    options = {"order": order, "frame": frame} | ({} if scale is None else {"scale": scale})
    refused = frame == "resized" and scale not in (None, "pixels")
    assert (made(("qwen3_vl", options)) is None) == refused


@settings(max_examples=300)
@given(contract=contracts(), text=texts, data=st.data())
def test_reading_is_lossless_and_edits_are_exact(
    contract: tuple[str, dict[str, Any]], text: str, data: st.DataObject
) -> None:
    d = made(contract)
    if d is None:
        return
    g = d.parse(text, FRAME)
    assert d.render(g, FRAME) == text
    slots = [(m, b) for m, mention in enumerate(g.mentions) for b in range(len(mention.boxes))]
    if not slots:
        return
    slot = data.draw(st.sampled_from(slots))
    once = d.replace_boxes(g, {slot: data.draw(boxes)}, FRAME)
    assert [(m.phrase, len(m.boxes)) for m in once.mentions] == [(m.phrase, len(m.boxes)) for m in g.mentions]
    assert all(once.mentions[m].boxes[b] == g.mentions[m].boxes[b] for m, b in slots if (m, b) != slot)
    removed = d.replace_boxes(g, {slot: None}, FRAME)
    left = Counter(g.mentions[m].boxes[b] for m, b in slots if (m, b) != slot)
    assert not Counter(box for m in removed.mentions for box in m.boxes) - left


@settings(max_examples=300)
@given(contract=contracts(), box=boxes, other=boxes)
def test_what_is_written_is_read_to_half_a_unit(
    contract: tuple[str, dict[str, Any]], box: Box, other: Box
) -> None:
    """Also after an edit, which is idempotent, and in the family's own notation."""
    d = made(contract)
    if d is None or not isinstance(d.codec, LinearCodec):
        return
    phrase = None if d.name in NO_PHRASE else "a dog"
    g = d.parse(d.compose([(phrase, [box])], FRAME), FRAME)
    x, y = d.codec.axes(FRAME)
    # a number is off by half a step, a corner by its place and its size
    worst = max((units * 10**d.codec.decimals) ** -1 * side for side, units, _, _ in (x, y)) + 1e-6
    edge = max(side / units for side, units, _, _ in (x, y))  # where the maximum is below the side
    assert [m.phrase for m in g.mentions] == [phrase]
    assert np.abs(np.subtract(g.mentions[0].boxes[0], box)).max() <= worst + edge
    if d.name not in GUESSED:
        assert g.problems == ()
    once = d.replace_boxes(g, {(0, 0): other}, FRAME)
    assert d.replace_boxes(once, {(0, 0): other}, FRAME).text == once.text
    own = get_dialect(d.name)
    there = own.parse(convert(once, FRAME, d, own), FRAME)
    assert np.abs(np.subtract(there.mentions[0].boxes[0], once.mentions[0].boxes[0])).max() <= 7 + 2 * edge


@settings(max_examples=300)
@given(
    contract=contracts(),
    values=st.tuples(*[st.integers(0, 95)] * 4),
    size=st.tuples(*[st.integers(30, 3000)] * 2),
)
def test_every_token_comes_back(
    contract: tuple[str, dict[str, Any]], values: tuple[int, ...], size: tuple[int, int]
) -> None:
    """encode(decode(v)) == v: else an untouched box would drift when its neighbour is edited."""
    d, frame = made(contract), Frame(*size)
    if d is None or not isinstance(d.codec, LinearCodec) or max(size) / min(size) > 100:
        return
    step = 10.0**d.codec.decimals
    limit = min(axis[3] for axis in d.codec.axes(frame))
    numbers = [min(v / 100 * limit, limit) for v in values]
    written = tuple(round(v * step) / step for v in numbers)
    box, fits = d.codec.reader(frame)(written)
    assert fits
    assert d.codec.encode(box, frame, d.codec.decimals, False) == written


@given(st.lists(st.floats(0, 1), min_size=4, max_size=4))
def test_orders_mean_what_they_mean_elsewhere(values: list[float]) -> None:
    """Against the conversions of `spr.boxes`, which other files use."""
    frame = Frame(200, 100)

    def read(order: str) -> Box:
        codec = get_dialect("qwen3_vl", order=order, scale=1).codec
        return codec.reader(frame)(values)[0]

    scaled = np.array(values) * [200, 100, 200, 100]
    assert read("xywh") == pytest.approx(tuple(from_xywh([scaled])[0]))
    assert read("cxcywh") == pytest.approx(tuple(from_cxcywh_unit([values], frame)[0]))
    assert read("xyxy") == pytest.approx(tuple(scaled))
    a, b, c, d = values
    assert read("yxyx") == pytest.approx((b * 200, a * 100, d * 200, c * 100))
    assert read("xxyy") == pytest.approx((a * 200, c * 100, b * 200, d * 100))
    assert read("yyxx") == pytest.approx((c * 200, a * 100, d * 200, b * 100))
    assert read("yxhw") == pytest.approx((b * 200, a * 100, (b + d) * 200, (a + c) * 100))
