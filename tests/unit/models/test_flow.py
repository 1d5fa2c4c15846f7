"""`throughput`: a stream of prompts through one batch gives each the answer that it has alone, whoever comes
and goes beside it and whatever happens to memory.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from PIL import Image

from spr.models import flow
from spr.models.decode import Batch, Decoder, Task
from spr.models.flow import PATIENCE, Flow, parts_of
from spr.models.hf_mllm import HFDescriber
from spr.models.inputs import Picture, Row
from spr.types import Answer, Query, Sampling
from tests.unit.models.conftest import load_noise

DRAWN = Sampling(n=2, temperature=1.0, top_p=0.95, max_new_tokens=10, seed=4)
GREEDY = Sampling(n=1, temperature=0, max_new_tokens=10)
TEXTS = ("Where is the dog?", "Where is the leftmost cat next to the tree?", "the owl", "the dog and the cat")


def asked(images: int) -> list[Query]:
    """Four prompts about each image."""
    return [
        Query(f"{k}/{i}", f"{k}@{200 + 10 * k}x150", 200 + 10 * k, 150, text)
        for k in range(images)
        for i, text in enumerate(TEXTS)
    ]


@pytest.fixture(scope="module")
def alone(checkpoints: Callable[[str], str]) -> HFDescriber:
    return HFDescriber(checkpoints("mllm"), load_image=load_noise)


@pytest.fixture
def fast(checkpoints: Callable[[str], str]) -> HFDescriber:
    return HFDescriber(checkpoints("mllm"), load_image=load_noise, batching="throughput")


def stream(describer: HFDescriber) -> Flow:
    assert describer._flow is not None
    return describer._flow


def often_ending(describer: HFDescriber) -> frozenset[int]:
    """A third of all tokens ends an answer, so that rows come and go all the time."""
    stops = frozenset(range(0, len(describer.processor.tokenizer), 3))
    describer.stops = describer._decoder.stops = stops
    return stops


@pytest.mark.parametrize("look", [1, 4])
def test_answers_are_those_of_each_prompt_alone(
    fast: HFDescriber, alone: HFDescriber, monkeypatch: pytest.MonkeyPatch, look: int
) -> None:
    """Also where the device is looked at every few steps, as on an accelerator: what was chosen after an end
    is never part of an answer. At least 99 % of drawn texts are equal (rounding); here all are.
    """
    queries = asked(6)
    monkeypatch.setattr(alone, "stops", often_ending(fast))
    monkeypatch.setattr(alone._decoder, "stops", fast.stops)
    decoder = stream(fast).decoder
    decoder.look = look
    stream(fast).most = 5
    joins: list[int] = []
    join = decoder.join

    def joined(batches: Sequence[Batch]) -> Batch:
        joins.append(len(batches))
        return join(batches)

    monkeypatch.setattr(decoder, "join", joined)
    for sampling in (DRAWN, GREEDY):
        found = fast.answer(queries, sampling)
        assert found == [alone.answer([query], sampling)[0] for query in queries]
        if sampling == DRAWN:  # they end at different times
            assert len({len(a.text) for answers in found for a in answers}) > 5
    assert joins.count(2) > 2  # new rows beside those that went on


def test_each_image_is_decoded_once_each_picture_preprocessed_and_encoded_once(
    checkpoints: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """4 images with a region each, 4 prompts, two of which bring a crop: it was 12 decodes, 20 preprocessings
    and 8 encodes.
    """
    counts: Counter[str] = Counter()

    def load(path: str) -> Image.Image:
        counts["decoded"] += 1
        return load_noise(path)

    regions = [(f"{k}@224x224", (10.0 + k, 20.0, 120.0, 150.0)) for k in range(4)]
    queries = [
        Query(f"{image}/{i}", image, 224, 224, text, box if i >= 2 else None, image)
        for image, box in regions
        for i, text in enumerate(TEXTS)
    ]
    for batching in ("per_item", "throughput"):
        counts.clear()
        describer = HFDescriber(checkpoints("mllm"), load_image=load, batching=batching)
        kind = type(describer.processor.image_processor)

        def preprocessed(*args: Any, _call: Any = kind.__call__, **kwargs: Any) -> Any:
            counts["preprocessed"] += 1
            return _call(*args, **kwargs)

        def encoded(_call: Any = describer.encoder._encode_images, **tensors: Any) -> Any:
            counts["pictures encoded"] += len(tensors["pixel_values"])
            return _call(**tensors)

        with monkeypatch.context() as patch:
            patch.setattr(kind, "__call__", preprocessed)
            patch.setattr(describer.encoder, "_encode_images", encoded)
            describer.answer(queries, GREEDY)
        # the picture of a prompt with a crop is two
        assert counts == {"decoded": 4, "preprocessed": 8, "pictures encoded": 4 + 2 * 4}, batching


def test_where_memory_does_not_suffice_fewer_go_on_and_then_more_again(
    fast: HFDescriber, alone: HFDescriber, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """For a while nothing but four prompts fits: nothing is lost, and afterwards the batch grows again. It
    stayed small for the rest of the run.
    """
    decoder, queries = stream(fast).decoder, asked(5)
    tight, sizes = True, []
    step = decoder.step

    def small(batch: Batch, sampling: Sampling) -> Any:
        sizes.append(len(batch))
        if tight and len(batch) > 4 * DRAWN.n:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")
        return step(batch, sampling)

    monkeypatch.setattr(decoder, "step", small)
    stream(fast)._token_bytes = 1.0  # known: the first prompts need not go alone
    with caplog.at_level(logging.WARNING):
        found = fast.answer(queries, DRAWN)
    assert found == [alone.answer([query], DRAWN)[0] for query in queries]
    said = {re.sub(r"\d+", "N", message) for message in caplog.messages}
    assert said == {"a batch did not fit into memory: going on with N prompts at once"}
    assert stream(fast).most <= 2 * 4
    tight, before = False, stream(fast).most
    sizes.clear()
    stream(fast)._patience = 1  # in vain before: it waits long
    for _ in range(3):
        fast.answer(queries, GREEDY)
    assert max(sizes) > 4
    assert stream(fast).most > before


def test_a_batch_that_grows_in_vain_waits_longer() -> None:
    stream = Flow(None)  # type: ignore[arg-type]
    waits = []
    for _ in range(3):
        stream._let_in_fewer(2)
        waits.append(0)
        while stream.most == 2:
            stream._went_well()
            waits[-1] += 1
    assert waits == [2 * PATIENCE, 4 * PATIENCE, 8 * PATIENCE]


def test_a_prompt_that_does_not_fit_alone_is_one_failed_answer(
    fast: HFDescriber, alone: HFDescriber, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder, queries = stream(fast).decoder, asked(3)
    prefill = decoder.prefill

    def small(tasks: Sequence[Task], sampling: Sampling) -> Batch:
        if any(task.row.item_id == "1/2" for task in tasks):
            raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: not enough memory")
        return prefill(tasks, sampling)

    monkeypatch.setattr(decoder, "prefill", small)
    found = dict(zip([q.item_id for q in queries], fast.answer(queries, GREEDY), strict=True))
    failed = found.pop("1/2")[0]
    assert failed.failed is not None
    assert failed.failed.startswith("out_of_memory: the prompt does not fit alone ([enforce fail")
    assert not failed.again
    assert found == {q.item_id: alone.answer([q], GREEDY)[0] for q in queries if q.item_id != "1/2"}


def test_free_memory_says_how_many_prompts_run_at_once(
    fast: HFDescriber, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first picture's prompts say what a token takes; then as many go in as have room for their longest
    answers.
    """
    describer, sizes, held = fast, [], [0]
    step, queries = stream(fast).decoder.step, asked(6)

    def watched(batch: Batch, sampling: Sampling) -> dict[tuple[int, int], Any]:
        sizes.append(len(batch))
        found = step(batch, sampling)
        held[0] = batch.tokens if batch.going_on else 0
        return found

    monkeypatch.setattr(stream(fast).decoder, "step", watched)
    fast.answer(queries[:4], DRAWN)
    token = stream(fast)._token_bytes
    text = describer.model.config.text_config
    width = text.hidden_size // text.num_attention_heads * text.num_key_value_heads
    assert token == 4 * 2 * text.num_hidden_layers * width
    assert sizes[0] == 4 * DRAWN.n
    rows = [describer.row(q) for q in queries]
    image = rows[0].picture.tokens  # type: ignore[union-attr]
    # the picture's tokens are kept once for the answers to its four prompts
    own = max(len(row.ids) for row in rows) - image + DRAWN.max_new_tokens
    total = 7 * (DRAWN.n * own + image / 4) * token / flow.SHARE

    def free(device: torch.device) -> int:
        return int(total - held[0] * token) + 1

    sizes.clear()
    monkeypatch.setattr(flow, "available_bytes", free)
    found = fast.answer(queries, DRAWN)
    assert not [a for answers in found for a in answers if a.failed]
    # a picture of which some prompts have gone is shared by fewer
    assert 6 * DRAWN.n <= max(sizes) <= 7 * DRAWN.n


def test_pictures_of_about_the_same_length_are_read_together() -> None:
    def task(name: int, tokens: int, picture: Picture) -> Task:
        return Task(name, Row(str(name), (1,) * tokens, {}, torch.zeros(1, tokens), picture), 8)

    lengths = [100, 1500, 110, 120, 900, 130]
    pictures = [Picture({}) for _ in lengths]
    tasks = [task(10 * p + k, n - k, pictures[p]) for p, n in enumerate(lengths) for k in (0, 1)]
    parts = parts_of(tasks)
    assert sorted(t.name for part in parts for t in part) == sorted(t.name for t in tasks)
    assert [sorted({t.name // 10 for t in part}) for part in parts] == [[0, 2, 3], [5], [4], [1]]
    many = [task(i, 3000, Picture({})) for i in range(5)]
    assert [len(part) for part in parts_of(many)] == [2, 2, 1]  # at most READ tokens


def test_a_picture_that_cannot_be_read_fails_its_own_prompts(fast: HFDescriber, alone: HFDescriber) -> None:
    missing = [Query(f"m{i}", "missing", 9, 9, text) for i, text in enumerate(TEXTS)]
    queries = [*asked(2), *missing]
    found = fast.answer(queries, GREEDY)
    assert found[:8] == [alone.answer([query], GREEDY)[0] for query in queries[:8]]
    assert all(a.failed is not None and a.failed.startswith("image: ") for [a] in found[8:])


def test_no_question_is_no_answer(fast: HFDescriber) -> None:
    nothing: list[list[Answer]] = []
    assert fast.answer([], GREEDY) == nothing
    assert isinstance(stream(fast).decoder, Decoder)
