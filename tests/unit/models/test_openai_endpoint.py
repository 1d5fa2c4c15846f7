"""The endpoint against a real server that fails in every way: nothing is lost, nothing is asked twice, one
bad query harms no other.
"""

from __future__ import annotations

import itertools
import json
import logging
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spr.errors import ConfigError
from spr.models.journal import Journal
from spr.models.openai_endpoint import EndpointDescriber, Patience, seed_of
from spr.models.pictures import crop
from spr.ports import Describer
from spr.types import Answer, Query, Sampling
from tests.unit.models.conftest import load_noise
from tests.unit.models.fault_server import FAULTS, Script, serve

QUICK = Patience(timeout=0.5, connect=2.0, tries=4, pause=0.01, longest=0.1)
DRAWN = Sampling(n=3, temperature=1.0, top_p=0.9, max_new_tokens=7, seed=5)
GREEDY = Sampling(n=1, temperature=0)


def query(
    prompt: str, image: str = "1@40x30", crop_to: tuple[float, float, float, float] | None = None
) -> Query:
    return Query(f"id {prompt}", image, 40, 30, prompt, crop_to)


def endpoint(url: str, concurrency: int = 4, patience: Patience = QUICK, key: str = "") -> EndpointDescriber:
    return EndpointDescriber(
        url, "m", load_image=load_noise, api_key_env=key, concurrency=concurrency, patience=patience
    )


def journalled(url: str, folder: Path) -> EndpointDescriber:
    return EndpointDescriber(url, "m", load_noise, patience=QUICK, journal=Journal(folder))


def test_it_is_a_describer() -> None:
    assert isinstance(endpoint("http://127.0.0.1:1/v1"), Describer)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_asked_again_and_only_that(fault: str) -> None:
    """Two faults in a row for one prompt, none for its neighbours: each sample is delivered exactly once."""
    script = Script(faults={"b": (fault, fault)})
    with serve(script) as url:
        found = endpoint(url).answer([query(p) for p in "abc"], DRAWN)
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
        ("vllm", DRAWN, {"skip_special_tokens": False}),
        ("sglang", DRAWN, {"skip_special_tokens": False}),
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
    assert [[a.failed is None for a in answers] for answers in first] == [
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
            row["answers"][0][0].split(" ")[0]
            for path in tmp_path.glob("*.jsonl")
            for row in map(json.loads, path.read_text().splitlines())
        }
        before = dict(script.seen)
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "120"
    assert len(kept) >= 10
    assert {p: script.seen[p] for p in kept} == {p: before[p] for p in kept}
    # asked for twice: at most what was on its way, one per connection
    assert sum(script.seen.values()) <= 60 + 4


def test_a_line_that_a_kill_cut_did_not_come(tmp_path: Path) -> None:
    (tmp_path / "1-1.jsonl").write_text(
        '{"key": "k", "answers": [["a", true]]}\n{"key": "k", "answers": [["b", tr'
    )
    assert Journal(tmp_path).answers("k") == [Answer("a")]


def test_what_cannot_be_had_is_a_failed_answer_with_its_reason() -> None:
    script = Script(faults={"b": ("500",) * 9, "c": ("slow",) * 9})
    with serve(script) as url:
        found = endpoint(url).answer([query(p) for p in "abc"], DRAWN)
    assert found[0] == [Answer(f"a #{k}") for k in range(3)]
    assert found[1] == [Answer("", failed="endpoint: status 500 (4 tries)")] * 3
    assert found[2] == [Answer("", failed="endpoint: timeout (4 tries)")] * 3
    assert script.seen["b"] == 4


def test_samples_that_came_before_a_failure_are_kept() -> None:
    script = Script(faults={"a": ("ok", *("500",) * 9)}, at_most=2)
    with serve(script) as url:
        found = endpoint(url).answer([query("a")], DRAWN)[0]
    assert found == [Answer("a #0"), Answer("a #1"), Answer("", failed="endpoint: status 500 (4 tries)")]


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


def test_a_server_without_our_extra_field_is_asked_without_it(caplog: pytest.LogCaptureFixture) -> None:
    script = Script(strict=True)
    with serve(script) as url, caplog.at_level(logging.WARNING):
        describer = endpoint(url, concurrency=1)
        assert describer.answer([query("a"), query("b")], GREEDY) == [[Answer("a #0")], [Answer("b #0")]]
    assert [("skip_special_tokens" in r) for r in script.requests] == [True, False, False]
    assert caplog.messages == [
        "the server does not know skip_special_tokens: it may strip the tags that boxes are made of"
    ]


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
    ],
)
def test_wrong_settings_are_one_line(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        endpoint(**{"url": "http://127.0.0.1:1/v1", **arguments})  # type: ignore[arg-type]
    assert str(caught.value).startswith(message)


def test_nobody_listens() -> None:
    answer = endpoint("http://127.0.0.1:9/v1", patience=replace(QUICK, tries=2)).answer([query("a")], GREEDY)[
        0
    ][0]
    assert answer.failed == "endpoint: connection: ConnectError (2 tries)"
