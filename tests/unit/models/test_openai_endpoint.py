"""The endpoint against a real server that fails in every way: nothing is lost, nothing is asked twice, one
bad query harms no other.
"""

from __future__ import annotations

import asyncio
import gzip
import itertools
import json
import logging
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from email.utils import formatdate
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spr.errors import ConfigError, UnfinishedError
from spr.models.fields import ENGINE, LOST
from spr.models.journal import Journal
from spr.models.openai_endpoint import EndpointDescriber, seed_of
from spr.models.pictures import crop
from spr.models.replies import MAX_BYTES, THINKING
from spr.models.server import Patience, wait_asked_for
from spr.ports import Describer
from spr.types import Answer, Query, Sampling
from tests.unit.models.conftest import load_noise
from tests.unit.models.fault_server import FAULTS, Script, serve

# pauses are short; an answer may still take its time where a machine is busy, or it would be asked for twice
QUICK = Patience(timeout=20.0, connect=20.0, tries=4, pause=0.01, longest=0.1)
IMPATIENT = replace(QUICK, timeout=1.5)  # where a server is slow on purpose
DRAWN = Sampling(n=3, temperature=1.0, top_p=0.9, max_new_tokens=7, seed=5)
GREEDY = Sampling(n=1, temperature=0)


def query(
    prompt: str, image: str = "1@40x30", crop_to: tuple[float, float, float, float] | None = None
) -> Query:
    return Query(f"id {prompt}", image, 40, 30, prompt, crop_to)


def endpoint(
    url: str | Sequence[str], concurrency: int = 4, patience: Patience = QUICK, key: str = "", **more: Any
) -> EndpointDescriber:
    return EndpointDescriber(
        url, "m", load_image=load_noise, api_key_env=key, concurrency=concurrency, patience=patience, **more
    )


def journalled(url: str, folder: Path, **more: Any) -> EndpointDescriber:
    return endpoint(url, journal=Journal(folder), **more)


def unanswered(reason: str) -> Answer:
    return Answer("", failed=f"endpoint: {reason}", again=True)


def test_it_is_a_describer() -> None:
    assert isinstance(endpoint("http://127.0.0.1:1/v1"), Describer)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_asked_again_and_only_that(fault: str) -> None:
    """Two faults in a row for one prompt, none for its neighbours: each sample is delivered exactly once."""
    script = Script(faults={"b": (fault, fault)})
    with serve(script) as url:
        patience = IMPATIENT if fault == "slow" else QUICK
        found = endpoint(url, patience=patience).answer([query(p) for p in "abc"], DRAWN)
    assert found == [[Answer(f"{p} #{k}") for k in range(3)] for p in "abc"]
    assert dict(script.seen) == {"a": 1, "b": 3, "c": 1}
    assert dict(script.delivered) == {"a": 3, "b": 3, "c": 3}


def test_everything_at_once_under_load() -> None:
    """60 prompts, each with its own row of up to three faults: no answer is lost, none is swapped, none is
    asked for after it has come.
    """
    rows = [
        faults
        for length in range(4)
        for faults in itertools.islice(itertools.product(FAULTS[:-1], repeat=length), 0, 400, 7)
    ][:60]
    prompts = {f"p{i}": faults for i, faults in enumerate(rows)}
    script = Script(faults=prompts, at_most=2)
    with serve(script) as url:
        found = endpoint(url, concurrency=8).answer([query(p) for p in prompts], DRAWN)
    assert found == [[Answer(f"{p} #{k}") for k in range(3)] for p in prompts]
    assert all(script.delivered[p] == 3 for p in prompts)
    # two choices, then the missing one
    assert all(script.seen[p] == len(faults) + 2 for p, faults in prompts.items())
    assert 1 < script.most_at_once <= 8


def test_a_server_that_ignores_n_is_asked_for_the_missing_samples() -> None:
    """transformers serve gives one choice whatever n says; each request must bring its own seed, or all
    samples would be equal.
    """
    script = Script(at_most=1)
    with serve(script) as url:
        found = endpoint(url).answer([query("a")], DRAWN)
    assert found == [[Answer(f"a #{k}") for k in range(3)]]
    assert [r.get("n", 1) for r in script.requests] == [3, 2, 1]
    assert [r["seed"] for r in script.requests] == [seed_of(5, "id a", k) for k in range(3)]
    assert len({seed_of(5, "id a", k) for k in range(3)}) == 3


@pytest.mark.parametrize(
    ("server", "sampling", "fields"),
    [
        ("vllm", DRAWN, ENGINE),
        ("sglang", DRAWN, ENGINE),
        ("other", DRAWN, {}),
        # transformers serve draws only when its own settings say so, and refuses fields that it does not know
        (
            "transformers",
            DRAWN,
            {
                "generation_config": '{"do_sample": true, "temperature": 1.0, "top_p": 0.9, '
                '"max_new_tokens": 7}'
            },
        ),
        ("transformers", GREEDY, {"generation_config": '{"do_sample": false, "max_new_tokens": 512}'}),
    ],
)
def test_each_server_is_asked_in_its_own_way(server: str, sampling: Sampling, fields: dict[str, Any]) -> None:
    script = Script()
    with serve(script) as url:
        EndpointDescriber(url, "m", load_noise, server=server).answer([query("a")], sampling)
    usual = {"model", "messages", "max_tokens", "temperature", "top_p", "seed", "n"}
    assert {name: value for name, value in script.requests[0].items() if name not in usual} == fields


def test_nothing_in_the_journal_is_asked_for_again(tmp_path: Path) -> None:
    """Three samples, at most two per request. At first "b" never comes and the third sample of "c" neither;
    later only these are asked for.
    """
    script = Script(faults={"b": ("500",) * 4, "c": ("ok", *("500",) * 4)}, at_most=2)
    with serve(script) as url:
        first = journalled(url, tmp_path).answer([query(p) for p in "abc"], DRAWN)
        asked = dict(script.seen)
        second = journalled(url, tmp_path).answer([query(p) for p in "abc"], DRAWN)
        again = journalled(url, tmp_path).answer([query("a")], replace(DRAWN, seed=6))
    assert [[not a.again for a in answers] for answers in first] == [
        [True] * 3,
        [False] * 3,
        [True, True, False],
    ]
    assert second == [[Answer(f"{p} #{k}") for k in range(3)] for p in "abc"]
    assert {p: script.seen[p] - asked[p] for p in "bc"} == {"b": 2, "c": 1}
    assert dict(script.delivered) == {"a": 6, "b": 3, "c": 3}
    assert again == [[Answer(f"a #{k}") for k in range(3, 6)]]  # another seed is another question


CHILD = """
import sys
from PIL import Image
from spr.models.journal import Journal
from spr.models.journal import Journal
from spr.models.openai_endpoint import EndpointDescriber
from spr.types import Query, Sampling

queries = [Query(f"id p{i}", "x", 8, 8, f"p{i}") for i in range(60)]
describer = EndpointDescriber(sys.argv[1], "m", lambda path: Image.new("RGB", (8, 8)), concurrency=4,
                              journal=Journal(sys.argv[2]))
answers = describer.answer(queries, Sampling(n=2, temperature=1.0))
print(sum(a.failed is None for found in answers for a in found))
"""


def test_a_killed_run_asks_for_nothing_that_stands_in_its_journal(tmp_path: Path) -> None:
    script = Script()
    with serve(script) as url:
        command = [sys.executable, "-c", CHILD, url, str(tmp_path)]
        child = subprocess.Popen(command)
        deadline = time.monotonic() + 60
        while len(script.delivered) < 20 and time.monotonic() < deadline:
            time.sleep(0.002)
        child.kill()
        child.wait()
        kept = {
            json.loads(line.split(" ", 1)[1])[1][0][0].split(" ")[0]
            for path in tmp_path.glob("*.jsonl")
            for line in path.read_text().splitlines()
        }
        before = dict(script.seen)
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "120"
    assert len(kept) >= 10
    assert {p: script.seen[p] for p in kept} == {p: before[p] for p in kept}
    # asked for twice: at most what was on its way, one per connection
    assert sum(script.seen.values()) <= 60 + 4


ODD = "a\u2028b\u2029c\x85d\x0be\x1cf\rg\nh \U0001f600 \x00"


def test_a_journal_holds_every_text(tmp_path: Path) -> None:
    """U+2028, U+2029 and U+0085 end a line for `splitlines`; the next start died of it."""
    answers = [Answer(ODD), Answer("cut", stopped=False, cause="why"), Answer("", failed="filtered: x")]
    Journal(tmp_path).add("k", answers)
    assert Journal(tmp_path).answers("k") == answers


@settings(deadline=None, derandomize=True, max_examples=80)
@given(st.data())
def test_a_journal_loses_only_what_is_damaged(data: st.DataObject) -> None:
    """Cut anywhere, or with any byte changed: the other lines are read, a damaged one never."""
    with tempfile.TemporaryDirectory() as folder:
        texts = data.draw(st.lists(st.text(max_size=6), min_size=1, max_size=4))
        for i, text in enumerate(texts):
            Journal(folder).add(f"k{i}", [Answer(text)])
        whole = b"".join(p.read_bytes() for p in sorted(Path(folder).glob("*.jsonl")))
        for path in Path(folder).glob("*.jsonl"):
            path.unlink()
        at = data.draw(st.integers(0, len(whole) - 1))
        cut = data.draw(st.booleans())
        other = bytes([whole[at] ^ data.draw(st.integers(1, 255))])
        (Path(folder) / "1-1.jsonl").write_bytes(whole[:at] if cut else whole[:at] + other + whole[at + 1 :])
        found = [Journal(folder).answers(f"k{i}") for i in range(len(texts))]
    lines = whole.split(b"\n")[:-1]
    ends = list(itertools.accumulate(len(line) + 1 for line in lines))
    # a changed line end joins two lines
    hit = next(i for i, end in enumerate(ends) if at < end)
    harmed = set(range(hit, len(texts))) if cut else {hit, hit + 1 if at == ends[hit] - 1 else hit}
    for i, text in enumerate(texts):
        assert found[i] in ([[]] if i in harmed else [[Answer(text)]])


def test_half_a_letter_from_a_server_is_no_letter(tmp_path: Path) -> None:
    """A lone surrogate cannot be written to any file; it ended the run. Tokenizers write U+FFFD for it."""
    raw = b'{"choices": [{"message": {"content": "a \\ud83d b"}, "finish_reason": "stop"}]}'
    with serve(Script(raw=raw)) as url:
        assert journalled(url, tmp_path).answer([query("a")], GREEDY) == [[Answer("a \ufffd b")]]
    assert len(list(tmp_path.glob("*.jsonl"))) == 1


def test_what_cannot_be_had_is_asked_again_by_the_next_run(tmp_path: Path) -> None:
    """Neither a row nor a drop: a shard with it is not finished. What came before a failure is kept."""
    faults = {"b": ("500",) * 5, "c": ("slow",) * 3, "d": ("ok", *("500",) * 5)}
    script = Script(faults=faults, at_most=2)
    with serve(script) as url:
        found = journalled(url, tmp_path, patience=replace(IMPATIENT, tries=2)).answer(
            [query(p) for p in "abcd"], DRAWN
        )
        assert found[0] == [Answer(f"a #{k}") for k in range(3)]
        assert found[1] == [unanswered("status 500 (2 tries)")] * 3
        assert found[2] == [unanswered("timeout (2 tries)")] * 3
        assert found[3] == [Answer("d #0"), Answer("d #1"), unanswered("status 500 (2 tries)")]
        assert script.seen["b"] == 2
        script.faults, before = {}, dict(script.seen)
        again = journalled(url, tmp_path).answer([query(p) for p in "abcd"], DRAWN)
    assert again == [[Answer(f"{p} #{k}") for k in range(3)] for p in "abcd"]
    assert {p: script.seen[p] - before[p] for p in "abcd"} == {"a": 0, "b": 2, "c": 2, "d": 1}


def test_a_named_option_drops_what_cannot_be_had() -> None:
    with serve(Script(faults={"a": ("500",) * 9})) as url:
        found = endpoint(url, drop_unanswered=True).answer([query("a")], GREEDY)
    assert found == [[Answer("", failed="unanswered: status 500 (4 tries)")]]


@pytest.mark.parametrize("dies_after", [0, 7])
def test_a_dead_server_ends_the_run_and_the_same_command_goes_on(tmp_path: Path, dies_after: int) -> None:
    """It "finished" a stage with no row and exit code 0. After 2 x concurrency queries without an answer the
    run ends; a restart, at another port too, asks only what is missing.
    """
    prompts = [f"p{i}" for i in range(30)]
    script = Script(dies_after=dies_after) if dies_after else Script(status=503)
    began = time.monotonic()
    with serve(script) as url, pytest.raises(UnfinishedError) as caught:
        journalled(url, tmp_path).answer([query(p) for p in prompts], GREEDY)
    assert time.monotonic() - began < 20
    assert "server unreachable" in str(caught.value)
    assert "(8 queries in a row)" in str(caught.value)
    assert "the same command goes on" in str(caught.value)
    assert "\n" not in str(caught.value)
    came = dict(script.delivered)
    # another script with the same counts: a thread of the dead server may still have a question in its hands
    with serve(replace(script, status=0, dies_after=0)) as url:
        found = journalled(url, tmp_path).answer([query(p) for p in prompts], GREEDY)
    assert found == [[Answer(f"{p} #0")] for p in prompts]
    assert all(script.delivered[p] == 1 for p in prompts)
    assert len(came) == dies_after


def test_how_many_failures_end_a_run_can_be_said() -> None:
    with serve(Script(status=500)) as url:
        with pytest.raises(UnfinishedError, match=r"\(3 queries in a row\)"):
            endpoint(url, give_up_after=3).answer([query(f"p{i}") for i in range(30)], GREEDY)
        quick = replace(QUICK, tries=1)
        never = endpoint(url, give_up_after=0, patience=quick)
        assert (
            never.answer([query(f"p{i}") for i in range(30)], GREEDY)
            == [[unanswered("status 500 (1 tries)")]] * 30
        )


def test_a_server_that_refuses_everything_ends_the_run() -> None:
    """10,000 images were sent to a server that takes one picture per prompt."""
    said = '{"error": "At most 1 image(s) may be provided in one prompt."}'
    script = Script(status=400, body=said)
    with serve(script) as url, pytest.raises(UnfinishedError, match="refused all of the first 8 queries"):
        endpoint(url).answer([query(f"p{i}") for i in range(100)], GREEDY)
    assert len(script.requests) < 20


def test_one_query_that_is_refused_among_others_ends_nothing() -> None:
    refuse = {"b": (400, "too large")}
    script = Script(refuse=lambda body: refuse.get(body["messages"][0]["content"][-1]["text"]))
    with serve(script) as url:
        found = endpoint(url, give_up_after=1, concurrency=1).answer([query(p) for p in "abab"], GREEDY)
    assert [a[0].failed for a in found] == [None, "refused: status 400: too large"] * 2


@pytest.mark.parametrize("retry_after", [None, "0.05", "date"])
def test_a_rate_limit_loses_nothing_and_costs_no_tries(retry_after: str | None) -> None:
    """44 of 120 answers failed where 8 requests a second were allowed: waits had no jitter, were not shared,
    and counted as tries. Both forms of Retry-After.
    """
    if retry_after == "date":
        retry_after = formatdate(time.time() - 1, usegmt=True)  # a clock that is behind: at once
    script = Script(rate=60, retry_after=retry_after)
    prompts = [f"p{i}" for i in range(100)]
    patience = replace(QUICK, tries=2, pause=0.05)
    with serve(script) as url:
        found = endpoint(url, concurrency=16, patience=patience).answer([query(p) for p in prompts], GREEDY)
    assert found == [[Answer(f"{p} #0")] for p in prompts]
    # waits are shared: not all of 16 run into the limit each time
    assert len(script.requests) < 400


def test_both_forms_of_retry_after() -> None:
    assert wait_asked_for({}) is None
    assert wait_asked_for({"retry-after": "7"}) == 7
    later = formatdate(time.time() + 30, usegmt=True)
    assert wait_asked_for({"retry-after": later}) == pytest.approx(30, abs=2)
    assert wait_asked_for({"retry-after": formatdate(0)}) == 0
    assert wait_asked_for({"retry-after": "soon"}) is None
    assert wait_asked_for({"retry-after": "inf"}) is None


def test_a_limit_that_never_ends_is_a_failure() -> None:
    patience = replace(QUICK, tries=1, limited=0.2)
    with serve(Script(status=429)) as url, pytest.raises(UnfinishedError, match="status 429"):
        endpoint(url, patience=patience, give_up_after=1).answer([query("a")], GREEDY)


# --- servers that take other fields ---------------------------------------------------------------

NEW_OPENAI = {
    "max_tokens": "Unsupported parameter: 'max_tokens' is not supported with this model. Use "
    "'max_completion_tokens' instead.",
    "temperature": "Unsupported value: 'temperature' does not support 0.7 with this model. Only the default "
    "(1) value is supported.",
    "top_p": "Unsupported parameter: 'top_p' is not supported with this model.",
}
KNOWN = {"model", "messages", "max_tokens", "temperature", "top_p", "n", "seed"}


def llama_cpp(body: dict[str, Any]) -> tuple[int, str] | None:
    if body.get("n", 1) > 1:
        return 500, '{"error": {"code": 500, "message": "Only one completion choice is allowed"}}'
    return None


def new_openai(body: dict[str, Any]) -> tuple[int, str] | None:
    name = next((name for name in NEW_OPENAI if name in body), None)
    return (400, json.dumps({"error": {"message": NEW_OPENAI[name], "param": name}})) if name else None


def strict_gateway(body: dict[str, Any]) -> tuple[int, str] | None:
    """Pydantic's words, one field at a time."""
    name = next((n for n in body if n not in KNOWN - {"seed", "n"}), None)
    detail = [{"type": "extra_forbidden", "loc": ["body", name], "msg": "Extra inputs are not permitted"}]
    return (422, json.dumps({"detail": detail})) if name else None


def silent_gateway(body: dict[str, Any]) -> tuple[int, str] | None:
    """Says nothing of what it does not take."""
    odd = set(body) - {"model", "messages", "max_tokens", "temperature"}
    return (400, '{"error": "invalid request"}') if odd else None


@pytest.mark.parametrize(
    ("speaks", "at_most", "left_out"),
    [
        pytest.param(Script().refuse, 100, [], id="vllm"),
        pytest.param(Script().refuse, 1, [], id="ollama"),
        pytest.param(llama_cpp, 1, ["n"], id="llama.cpp"),
        pytest.param(new_openai, 100, ["max_tokens", "temperature", "top_p"], id="newer-openai"),
        pytest.param(strict_gateway, 100, ["seed", "n", *ENGINE], id="strict"),
        pytest.param(silent_gateway, 100, ["n", "seed", "top_p", *ENGINE], id="silent"),
    ],
)
def test_fields_that_a_server_refuses_are_left_out_and_reported(
    speaks: Callable[[dict[str, Any]], tuple[int, str] | None],
    at_most: int,
    left_out: list[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Every answer comes, none twice; one question per field that is named, for all queries together."""
    script = Script(refuse=speaks, at_most=at_most)
    prompts = [f"p{i}" for i in range(12)]
    with serve(script) as url, caplog.at_level(logging.WARNING):
        found = endpoint(url).answer([query(p) for p in prompts], DRAWN)
    assert found == [[Answer(f"{p} #{k}") for k in range(3)] for p in prompts]
    assert all(script.delivered[p] == 3 for p in prompts)
    refused = [r for r in script.requests if speaks(r) is not None]
    # those that were on their way before the first refusal came back, and one per field and step
    assert len(refused) <= 4 + len(left_out) + 2
    said = " ".join(caplog.messages)
    assert {name for name in LOST if f"{name}: " in said} == set(left_out)
    assert not (set(script.requests[-1]) & set(left_out))


def test_a_value_that_a_server_refuses_is_no_reason_to_leave_the_field_out() -> None:
    """vLLM speaks of max_tokens when the prompt is too long; the limit must not vanish."""
    said = "'max_tokens' is too large: 512. This model's maximum context length is 400 tokens"
    script = Script(status=400, body=said)
    with serve(script) as url:
        found = endpoint(url).answer([query("a")], GREEDY)
    assert found[0][0].failed == f"refused: status 400: {said}"
    assert len(script.requests) == 1


def test_own_fields_and_template_variables_go_along() -> None:
    script = Script()
    more = {"extra_body": {"top_k": 20, "min_p": 0.1}, "chat_template_kwargs": {"enable_thinking": False}}
    with serve(script) as url:
        endpoint(url, **more).answer([query("a")], GREEDY)
    sent = script.requests[0]
    assert (sent["top_k"], sent["min_p"]) == (20, 0.1)
    assert sent["chat_template_kwargs"] == {"enable_thinking": False}


# --- replies of other forms -----------------------------------------------------------------------

PARTS = [
    {"type": "thinking", "thinking": "hm"},
    {"type": "text", "text": "a "},
    {"type": "text", "text": "b"},
]
THOUGHT = {"content": None, "reasoning_content": "first the cat"}


@pytest.mark.parametrize(
    ("choice", "usage", "expected"),
    [
        ({"message": {"content": PARTS}, "finish_reason": "stop"}, None, Answer("a b")),
        ({"message": {"content": "a"}}, None, Answer("a")),
        ({"message": {"content": "a"}, "finish_reason": None}, {"completion_tokens": 5}, Answer("a")),
        (
            {"message": {"content": "a"}, "finish_reason": None},
            {"completion_tokens": 512},
            Answer("a", stopped=False),
        ),
        (
            {"message": THOUGHT, "finish_reason": "length"},
            None,
            Answer("<think>first the cat", stopped=False, cause=THINKING),
        ),
        ({"message": {**THOUGHT, "content": "a"}, "finish_reason": "stop"}, None, Answer("a")),
        ({"message": THOUGHT, "finish_reason": "stop"}, None, Answer("")),
        ({"message": {"content": None, "tool_calls": []}, "finish_reason": "tool_calls"}, None, Answer("")),
        (
            {"message": {"content": "a"}, "finish_reason": "content_filter"},
            None,
            Answer("", failed="filtered: the server's content filter took the answer"),
        ),
    ],
)
def test_replies_of_other_forms_are_read_at_once(
    choice: dict[str, Any], usage: dict[str, int] | None, expected: Answer
) -> None:
    """They were asked for six times each, and given up."""
    script = Script(choice=lambda text: choice, usage=usage)
    with serve(script) as url:
        assert endpoint(url).answer([query("a")], GREEDY) == [[expected]]
    assert len(script.requests) == 1


@pytest.mark.parametrize(
    ("raw", "headers", "reason"),
    [
        (b"[" * 200_000, {}, "nested too deeply"),
        (gzip.compress(b" " * (MAX_BYTES + 1)), {"Content-Encoding": "gzip"}, "more than 16 MiB"),
        (b'{"error": {"code": 400, "message": "no such picture"}}', {}, "no such picture"),
    ],
)
def test_replies_without_bound_are_refused(raw: bytes, headers: dict[str, str], reason: str) -> None:
    script = Script(raw=raw, headers=headers)
    with serve(script) as url:
        failed = endpoint(url).answer([query("a")], GREEDY)[0][0].failed
    assert failed is not None
    assert failed.startswith("refused: ")
    assert reason in failed
    assert len(script.requests) == 1


def test_a_server_that_sends_us_elsewhere_is_a_mistake_of_the_address() -> None:
    script = Script(status=307, headers={"Location": "https://there/v1"})
    with serve(script) as url, pytest.raises(ConfigError, match="sends us to https://there/v1"):
        endpoint(url).answer([query("a")], GREEDY)


def test_it_answers_inside_a_running_loop_too() -> None:
    """A notebook has one."""

    async def inside(url: str) -> list[list[Answer]]:
        return endpoint(url).answer([query("a")], GREEDY)

    with serve(Script()) as url:
        assert asyncio.run(inside(url)) == [[Answer("a #0")]]


def test_the_server_gets_the_exact_pixels() -> None:
    """Lossless and unresized: the frame of the boxes is the stored image. A crop goes along as the second
    image.
    """
    script = Script()
    box = (3.2, 4.0, 20.9, 22.0)
    with serve(script) as url:
        endpoint(url).answer([query("a", "3@40x30", box)], GREEDY)
    sent, part = script.images["a"]
    assert np.array_equal(np.asarray(sent), np.asarray(load_noise("3@40x30")))
    assert np.array_equal(np.asarray(part), np.asarray(crop(load_noise("3@40x30"), box)))
    assert part.size == (18, 18)
    assert {k: script.requests[0][k] for k in ("model", "temperature", "top_p", "max_tokens")} == {
        **{"model": "m", "temperature": 0, "top_p": 1.0},
        "max_tokens": 512,
    }


def test_greedy_samples_are_asked_for_once() -> None:
    script = Script()
    with serve(script) as url:
        assert endpoint(url).answer([query("a")], replace(GREEDY, n=3)) == [[Answer("a #0")] * 3]
    assert len(script.requests) == 1


def test_an_answer_cut_by_the_token_limit_says_so() -> None:
    with serve(Script(finish="length")) as url:
        assert endpoint(url).answer([query("a")], GREEDY) == [[Answer("a #0", stopped=False)]]


def test_a_missing_image_fails_its_own_query_only() -> None:
    script = Script()
    with serve(script) as url:
        found = endpoint(url).answer([query("a"), query("b", "missing")], DRAWN)
    assert found[0][0] == Answer("a #0")
    assert all(a.failed is not None and a.failed.startswith("image: ") for a in found[1])
    assert script.seen["b"] == 0


def test_a_refused_request_is_that_querys_failure() -> None:
    script = Script(status=400, body='{"error": "maximum context length is 4096 tokens"}')
    with serve(script) as url:
        found = endpoint(url).answer([query("a")], DRAWN)
    assert [a.failed for a in found[0]] == [
        'refused: status 400: {"error": "maximum context length is 4096 tokens"}'
    ] * 3
    assert len(script.requests) == 1


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (401, "model.url: the server refuses the key in SPR_TEST_KEY (status 401)"),
        (404, "model.served_name: the server at .* knows no model 'm' \\(status 404\\)"),
    ],
)
def test_mistakes_of_the_configuration_stop_the_run(
    monkeypatch: pytest.MonkeyPatch, status: int, message: str
) -> None:
    monkeypatch.setenv("SPR_TEST_KEY", "sk-secret")
    with serve(Script(status=status, body="key sk-secret")) as url, pytest.raises(ConfigError) as caught:
        endpoint(url, key="SPR_TEST_KEY").answer([query(p) for p in "abcdef"], GREEDY)
    assert re.fullmatch(message if "\\" in message else re.escape(message), str(caught.value))


def test_the_key_is_sent_and_shown_nowhere(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("SPR_TEST_KEY", "sk-secret")
    script = Script(faults={"a": ("500",)})
    with serve(script) as url, caplog.at_level(logging.DEBUG):
        describer = endpoint(url, key="SPR_TEST_KEY")
        answers = describer.answer([query("a")], GREEDY)
        script.status, script.body = 400, "bad key sk-secret"
        refused = describer.answer([query("b")], GREEDY)[0][0].failed
    assert script.authorization == {"Bearer sk-secret"}
    assert refused == "refused: status 400: bad key [key]"
    everything = f"{describer.__dict__} {answers} {caplog.text}"
    assert "sk-secret" not in everything


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"url": "localhost:8000/v1"}, "model.url: found 'localhost:8000/v1', expected http://"),
        (
            {"key": "SPR_NO_SUCH_KEY"},
            "model.api_key_env: the environment variable SPR_NO_SUCH_KEY is not set",
        ),
        ({"concurrency": 0}, "model.concurrency: found 0, expected at least 1"),
        ({"key": "SPR_BAD_KEY"}, "model.api_key_env: the environment variable SPR_BAD_KEY holds a blank"),
    ],
)
def test_wrong_settings_are_one_line(
    arguments: dict[str, object], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPR_BAD_KEY", "sk-secret\n")
    with pytest.raises(ConfigError) as caught:
        endpoint(**{"url": "http://127.0.0.1:1/v1", **arguments})  # type: ignore[arg-type]
    assert str(caught.value).startswith(message)


def test_nobody_listens() -> None:
    answer = endpoint("http://127.0.0.1:9/v1", patience=replace(QUICK, tries=2)).answer([query("a")], GREEDY)[
        0
    ][0]
    assert answer == unanswered("connection: ConnectError (2 tries)")
