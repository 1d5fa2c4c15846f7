"""The describer on a random checkpoint of the embedded architecture: equal to transformers where it can be
compared, and a pure function of the group.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from spr.errors import ConfigError
from spr.models.hf_mllm import HFDescriber
from spr.models.memory import in_halves
from spr.ports import Describer
from spr.types import Checkpoint, Query, Sampling
from tests.unit.models.conftest import load_noise, noise

QUESTIONS = (
    "Where is the dog?",
    "Where is the leftmost cat next to the tree?",
    "What is the location of the owl in the image?",
)
GREEDY = Sampling(n=1, temperature=0, max_new_tokens=12)
DRAWN = Sampling(n=3, temperature=1.0, top_p=0.95, max_new_tokens=12, seed=4)


def queries(group: str = "g", image: str = "1") -> list[Query]:
    return [Query(f"q{i}", image, 224, 224, q, None, group) for i, q in enumerate(QUESTIONS)]


@pytest.fixture(scope="module")
def describer(checkpoints: Callable[[str], str]) -> HFDescriber:
    return HFDescriber(checkpoints("mllm"), load_image=load_noise)


def test_it_is_a_describer(describer: HFDescriber) -> None:
    assert isinstance(describer, Describer)


@pytest.mark.parametrize("group", ["", "g"], ids=["alone", "one batch with a shared prefix"])
def test_greedy_answers_are_those_of_transformers(describer: HFDescriber, group: str) -> None:
    """generate() on each prompt alone, the official way from processor to tokens, is the reference."""
    for query, answers in zip(queries(group), describer.answer(queries(group), GREEDY), strict=True):
        inputs = describer.processor(
            text=[describer.prompt(query)], images=[noise(1)], return_tensors="pt", add_special_tokens=False
        )
        out = describer.model.generate(**inputs, do_sample=False, max_new_tokens=12)
        ids = [t for t in out[0, inputs["input_ids"].shape[1] :].tolist() if t not in describer.stops]
        assert answers[0].text == describer.processor.tokenizer.decode(ids, skip_special_tokens=False).strip()


def test_the_tokens_of_a_prompt_are_those_of_the_processor(describer: HFDescriber) -> None:
    """From the second question on a picture's image tokens are put in without the processor; it must make no
    difference.
    """
    for query in [*queries(), Query("c", "1", 224, 224, "Where is the dog?", (10.0, 10.0, 90.0, 80.0))]:
        ids = describer.processor(
            text=[describer.prompt(query)], images=list(describer.images(query)), add_special_tokens=False
        )["input_ids"]
        assert list(describer.row(query).ids) == ids[0]
    assert describer.row(queries()[1]).picture is describer.row(queries()[0]).picture


def test_answers_depend_on_the_group_alone(describer: HFDescriber) -> None:
    """Any order of items, any company, any number of calls: the same bytes. This is what makes shards and
    workers interchangeable.
    """
    mixed = [*queries("a", "1"), *queries("b", "2"), Query("alone", "3@200x150", 200, 150, QUESTIONS[0])]
    mixed = [
        Query(f"{q.group}/{q.item_id}", q.image, q.width, q.height, q.prompt, q.crop, q.group) for q in mixed
    ]
    together = dict(zip([q.item_id for q in mixed], describer.answer(mixed, DRAWN), strict=True))
    shuffled = [mixed[i] for i in (6, 3, 0, 4, 1, 5, 2)]
    for q, answers in zip(shuffled, describer.answer(shuffled, DRAWN), strict=True):
        assert answers == together[q.item_id]
    for part in (mixed[3:6], mixed[:3], mixed[6:]):
        torch.manual_seed(99)
        assert describer.answer(part, DRAWN) == [together[q.item_id] for q in part]


def test_samples_differ_and_the_seed_changes_them(describer: HFDescriber) -> None:
    first = describer.answer(queries()[:1], DRAWN)[0]
    assert len({a.text for a in first}) == 3
    other = describer.answer(queries()[:1], Sampling(3, 1.0, 0.95, 12, seed=5))[0]
    assert {a.text for a in other}.isdisjoint(a.text for a in first)
    again = describer.answer(queries()[:1], Sampling(2, 1.0, 0.95, 12, seed=4))[0]
    assert again == first[:2]  # another count of samples does not change the ones that were there


def test_greedy_samples_are_all_equal(describer: HFDescriber) -> None:
    answers = describer.answer(queries()[:1], Sampling(n=2, temperature=0, max_new_tokens=5))[0]
    assert answers[0] == answers[1]
    assert not answers[0].stopped  # five tokens of a random model: cut


def test_throughput_gives_the_same_greedy_answers(
    checkpoints: Callable[[str], str], describer: HFDescriber
) -> None:
    fast = HFDescriber(checkpoints("mllm"), load_image=load_noise, batching="throughput")
    mixed = [*queries("a", "1"), *queries("b", "2")]
    assert fast.answer(mixed, GREEDY) == describer.answer(mixed, GREEDY)


def test_a_missing_image_fails_its_own_queries_only(describer: HFDescriber) -> None:
    found = describer.answer(
        [queries()[0], Query("m", "missing", 9, 9, "Where is the dog?", None, "g")], DRAWN
    )
    assert found[0][0].failed is None
    assert [a.failed is not None and a.failed.startswith("image: ") for a in found[1]] == [True] * 3


def test_a_prompt_that_does_not_fit_is_a_failed_answer_never_a_cut_one(describer: HFDescriber) -> None:
    found = describer.answer([Query("long", "1", 224, 224, "dog " * 2100)], GREEDY)[0][0]
    assert found.failed is not None
    assert found.failed.startswith("prompt_too_long: found 21")
    assert "2048" in found.failed


def test_the_room_that_is_left_bounds_the_answer(describer: HFDescriber) -> None:
    query = Query("tight", "1", 224, 224, " ".join(["dog"] * 1960))
    length = len(describer.row(query).ids)
    answer = describer.answer([query], Sampling(n=1, temperature=0, max_new_tokens=512))[0][0]
    assert not answer.stopped
    assert len(describer.processor.tokenizer(answer.text)["input_ids"]) <= 2048 - length + 1


def test_batches_are_halved_until_they_fit(caplog: pytest.LogCaptureFixture) -> None:
    """Memory for three items at most: 8 does not fit, 4 does not, 2 does; nothing is lost or done out of
    order.
    """
    tried: list[int] = []

    def work(batch: Sequence[int]) -> list[int]:
        tried.append(len(batch))
        if len(batch) > 3:
            raise torch.OutOfMemoryError
        return [10 * i for i in batch]

    with caplog.at_level(logging.WARNING):
        found, size = in_halves(work, range(9), 8)
    assert found == [10 * i for i in range(9)]
    assert (tried, size) == ([8, 4, 2, 2, 2, 2, 1], 2)
    assert caplog.messages == [
        "a batch did not fit into memory: going on with batches of 4",
        "a batch did not fit into memory: going on with batches of 2",
    ]


def test_what_does_not_fit_alone_is_one_items_failure() -> None:
    """It left the loop as an exception: a traceback, again at each resume."""

    def work(batch: Sequence[int]) -> list[str]:
        if 5 in batch:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: not enough memory")
        return [str(i) for i in batch]

    def other(batch: Sequence[int]) -> list[str]:
        raise RuntimeError("another")

    found, size = in_halves(work, range(8), 4, lambda item, e: "does not fit")
    assert found == ["0", "1", "2", "3", "4", "does not fit", "6", "7"]
    assert size == 1
    with pytest.raises(MemoryError):
        in_halves(work, range(8), 4)
    with pytest.raises(RuntimeError, match="another"):
        in_halves(other, [1], 1)


def test_a_prompt_that_needs_too_much_memory_is_dropped_alone(
    checkpoints: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The batch is halved until the one is found; the others have their answers."""
    describer = HFDescriber(checkpoints("mllm"), load_image=load_noise)
    asked = [*queries(), Query("big", "1", 224, 224, "Where is " + "the dog and " * 40, None, "g")]
    alone = [describer.answer([q], GREEDY)[0] for q in asked[:3]]
    answer = describer._decoder.answer

    def small(rows: Sequence[Any], *rest: Any) -> Any:
        if any(row.item_id == "big" for row in rows):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")
        return answer(rows, *rest)

    monkeypatch.setattr(describer._decoder, "answer", small)
    found = describer.answer(asked, GREEDY)
    assert found[:3] == alone
    assert found[3][0].failed is not None
    assert found[3][0].failed.startswith("out_of_memory: the prompt does not fit alone (CUDA out of memory")
    assert not found[3][0].again


def test_a_long_prompt_does_not_shorten_its_neighbours(
    checkpoints: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each answer has the room that its own prompt leaves; what cuts it is said with the right number."""
    describer = HFDescriber(checkpoints("mllm"), load_image=load_noise, batching="throughput")
    monkeypatch.setattr(describer, "stops", frozenset())
    monkeypatch.setattr(describer._decoder, "stops", frozenset())
    short, long = queries()[0], Query("long", "1", 224, 224, "dog " * 60)
    room = 5
    describer.context = len(describer.row(long).ids) + room
    greedy = Sampling(n=1, temperature=0, max_new_tokens=20)
    alone = [describer.answer([q], greedy)[0] for q in (short, long)]
    assert describer.answer([short, long], greedy) == alone
    assert alone[0][0].cause is None
    assert alone[1][0].cause == f"the context of {describer.context} tokens leaves room for {room}"


@pytest.mark.parametrize("at", [0, 3])
def test_logits_that_are_no_numbers_are_a_failed_answer(
    checkpoints: Callable[[str], str], monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """float16 overflows in some models: what was chosen from NaN was kept as if the model had said it."""
    describer = HFDescriber(checkpoints("mllm"), load_image=load_noise)
    steps = iter(range(1000))
    forward = describer.model.forward

    def broken(*args: Any, **kwargs: Any) -> Any:
        out = forward(*args, **kwargs)
        if next(steps) >= at and out.logits.shape[0] > 1:
            out.logits[1] = torch.nan
        return out

    monkeypatch.setattr(describer.model, "forward", broken)
    monkeypatch.setattr(describer._decoder, "stops", frozenset())
    found = describer.answer(queries(), Sampling(n=1, temperature=0, max_new_tokens=6))
    assert [a[0].failed is None for a in found] == [True, False, True]
    assert found[1][0].failed is not None
    assert found[1][0].failed.startswith("not_a_number: ")


def test_variables_of_the_chat_template_reach_the_prompt(checkpoints: Callable[[str], str]) -> None:
    """enable_thinking: false could not be said in process."""
    describer = HFDescriber(
        Checkpoint(checkpoints("mllm"), chat_template_kwargs={"enable_thinking": False}), load_noise
    )
    describer.processor.chat_template = "{{ messages[0].content[-1].text }} {{ enable_thinking }}"
    assert describer.prompt(queries()[0]).endswith("False")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batching": "fast"}, "model.batching: unknown batching 'fast'"),
        ({"adapter": "/nowhere"}, "/nowhere: found no PEFT adapter"),
    ],
)
def test_mistakes_are_one_line(
    checkpoints: Callable[[str], str], options: dict[str, str], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        HFDescriber(checkpoints("mllm"), load_image=load_noise, **options)  # type: ignore[arg-type]
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_an_unknown_dtype_is_one_line(checkpoints: Callable[[str], str]) -> None:
    with pytest.raises(ConfigError, match=r"^model\.dtype: unknown dtype 'fp32'"):
        HFDescriber(Checkpoint(checkpoints("mllm"), dtype="fp32"), load_image=load_noise)


def test_a_folder_that_is_no_checkpoint_is_one_line(tmp_path: object) -> None:
    with pytest.raises(ConfigError, match="cannot load as a checkpoint") as caught:
        HFDescriber(str(tmp_path), load_image=load_noise)
    assert "\n" not in str(caught.value)
