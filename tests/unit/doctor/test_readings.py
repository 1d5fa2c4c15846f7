"""The readings of answers: many at once as one by one, and as the line of YAML says them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from spr.dialects import Dialect, get_dialect
from spr.dialects.codec import LinearCodec
from spr.doctor.readings import Item, answered, decode, own_reading, readings, written_as
from spr.doctor.verdict import contract
from spr.errors import DialectError
from spr.types import Box, Frame
from tests.support.planted import OPTIONS, Fault, answers, photos, written

RELEASED = {"min_pixels": 3136, "max_pixels": 12845056, "factor": 28}  # of a processor


@settings(deadline=None, derandomize=True, max_examples=60)
@given(
    OPTIONS, st.sampled_from([Frame(640, 480), Frame(480, 640), Frame(1920, 1080), Frame(37, 41)]), st.data()
)
def test_many_answers_are_decoded_as_one_is(
    options: dict[str, Any], frame: Frame, data: st.DataObject
) -> None:
    """`decode` is the codec's reader over arrays, and what `answered` says was written decodes to what was
    read.
    """
    try:
        dialect = get_dialect("qwen3_vl", **options)
    except DialectError:
        assume(False)
    values = data.draw(st.tuples(*[st.floats(0, 2000)] * 4))
    assert isinstance(dialect.codec, LinearCodec)
    one, _ = dialect.codec.reader(frame)(values)
    assert decode(dialect.codec, np.array([values]), [frame])[0] == pytest.approx(one)
    item = Item("a", frame, "cat", ((0.0, 0.0, 9.0, 9.0),))
    a = answered(dialect, [written(dialect, item, (3.0, 4.0, 30.0, 20.0))], [item])
    assert decode(dialect.codec, a.values, a.frames) == pytest.approx(a.boxes)


def as_configured(named: Mapping[str, Any], processor: Mapping[str, Any]) -> Dialect:
    """What `spr.run.wiring.dialect_of` makes of a line, where the checkpoint's processor has these sizes."""
    dialect = get_dialect(named)
    said = any(option in named for option in processor)
    return get_dialect(named, **processor) if dialect.codec.frame == "resized" and not said else dialect


def test_sizes_that_are_not_the_processors_are_said() -> None:
    """The defaults of the class, where the checkpoint's processor has others: the line left them out, and a
    run with that line would have taken the processor's again.
    """
    rng = np.random.default_rng(0)
    items = photos(rng, 12, 6)
    released, served = {"base": "qwen2_5_vl", **RELEASED}, {"base": "qwen2_5_vl"}
    texts = answers(Fault("", released, served), items, 0.0, rng)
    finding = contract(get_dialect(released), RELEASED, texts, items)
    assert finding.verdict == "wrong"
    assert "max_pixels: 1003520" in finding.found
    assert contract(get_dialect(served), RELEASED, texts, items).verdict == "fine"


@pytest.mark.parametrize("processor", [{}, RELEASED], ids=["no processor", "a processor"])
def test_what_is_advised_is_what_was_measured(processor: dict[str, int]) -> None:
    """Every reading's line of YAML, in a configuration, reads the same boxes."""
    rng = np.random.default_rng(0)
    items = photos(rng, 6, 3)
    assumed = get_dialect("qwen2_5_vl", **processor)
    texts = [written(assumed, item, item.truths[0]) for item in items]
    a = answered(assumed, texts, items)
    tried = [own_reading(a, processor), *readings(written_as(assumed, processor, texts, items), processor, a)]
    assert len(tried) > 100
    for reading in tried:
        if reading.dialect is not None:
            dialect = as_configured(reading.dialect, processor)
            boxes = np.array(
                [dialect.parse(t, i.frame).mentions[0].boxes[0] for t, i in zip(texts, items, strict=True)]
            )
            assert a.clipped(boxes) == pytest.approx(reading.boxes), reading.yaml


def test_a_box_counts_for_the_object_that_it_fits_best() -> None:
    """Several objects of a category are one question; the boxes of other things in the answer are none of its
    business; a fifth of nonsense changes nothing.
    """
    rng = np.random.default_rng(1)
    one = photos(rng, 20, 6)
    items = [
        Item(i.image, i.frame, "dog", (i.truths[0], k.truths[0]))
        for i, k in zip(one[::2], one[1::2], strict=True)
    ]
    dialect, other = get_dialect("qwen3_vl"), get_dialect("qwen3_vl", scale=1024)

    def said(writes: Dialect, item: Item, n: int) -> str:
        cat: Box = (0.0, 0.0, item.frame.width / 2, item.frame.height / 3)
        boxes = [cat] if n % 5 == 0 else list(item.truths[::-1])
        return writes.compose([("a cat", [cat]), *(("a dog", [box]) for box in boxes)], item.frame)

    for writes, verdict in ((dialect, "fine"), (other, "wrong")):
        texts = [said(writes, item, n) for n, item in enumerate(items)]
        assert contract(dialect, {}, texts, items).verdict == verdict
    assert answered(dialect, texts[1:2], items[1:2]).counts.tolist() == [2, 2]
