"""Several addresses, adapters by name, shards that overlap: the load is shared, one that is sick costs
nothing but its own share, and the server is kept busy from the first query to the last.
"""

from __future__ import annotations

import contextlib
import json
import logging
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from spr.errors import ConfigError, UnfinishedError
from spr.models.openai_endpoint import EndpointDescriber
from spr.store.runtime import RuntimeConfig
from spr.store.workers import Job, Overlapping, Task, Workers, overlapping
from spr.types import Answer
from tests.unit.models.conftest import noise
from tests.unit.models.fault_server import Script, serve
from tests.unit.models.test_openai_endpoint import DRAWN, GREEDY, QUICK, endpoint, query

NOWHERE = "http://127.0.0.1:9/v1"
PROMPTS = [f"p{i}" for i in range(60)]


def check_all_answered(describer: EndpointDescriber, scripts: Sequence[Script]) -> None:
    """Each query is answered, and each answer was given once."""
    found = describer.answer([query(p) for p in PROMPTS], DRAWN)
    assert found == [[Answer(f"{p} #{k}") for k in range(3)] for p in PROMPTS]
    assert sum((script.delivered for script in scripts), Counter[str]()) == dict.fromkeys(PROMPTS, 3)


@contextlib.contextmanager
def served(scripts: Sequence[Script]) -> Any:
    """The addresses of several servers."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(serve(script)) for script in scripts]


def test_several_addresses_share_the_load() -> None:
    """Each is asked by as many queries at once as one alone would be."""
    scripts = [Script(), Script(), Script()]
    with served(scripts) as urls:
        check_all_answered(endpoint(urls, concurrency=3), scripts)
    assert all(10 <= len(script.requests) <= 30 for script in scripts)
    assert all(script.most_at_once == 3 for script in scripts)


SICK: dict[str, Callable[[], Script]] = {
    "dead from the start": lambda: Script(dies_after=-1),
    "dies": lambda: Script(dies_after=3),
    "status 500": lambda: Script(status=500),
    "status 503": lambda: Script(status=503),
    "no chat completions": lambda: Script(raw=b"<html>gateway</html>"),
    "half answers": lambda: Script(raw=b'{"choices": [{"finish_reason": "abort"}]}'),
}


@pytest.mark.parametrize("kind", SICK)
def test_a_sick_address_costs_nothing_while_another_one_answers(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It refuses at once, so that it always has the fewest requests: without being left out it would be asked
    most. No query uses up its tries, and a person is told once.
    """
    scripts = [SICK[kind](), Script(), Script()]
    patience = replace(QUICK, pause=0.2, longest=5.0)
    with served(scripts) as urls, caplog.at_level(logging.WARNING):
        check_all_answered(endpoint(urls, patience=patience), scripts)
    assert len(scripts[0].requests) < 20
    told = [line for line in caplog.messages if "left out while the others answer" in line]
    assert len(told) == 1
    assert told[0].startswith(urls[0])


def test_an_address_that_hangs_holds_back_nobody_for_long() -> None:
    """It takes questions and never answers: each place there is lost once, for the time of one answer."""
    over = threading.Event()
    scripts = [Script(hold=lambda prompt: over.wait(60) and None), Script()]
    with served(scripts) as urls:
        describer = endpoint(urls, concurrency=2, patience=replace(QUICK, timeout=2.0))
        found = describer.answer([query(p) for p in PROMPTS], GREEDY)
        over.set()
    assert [[answer.text for answer in answers] for answers in found] == [[f"{p} #0"] for p in PROMPTS]
    assert len(scripts[0].requests) < 8


def test_an_address_where_nobody_listens_is_told_and_left_out(caplog: pytest.LogCaptureFixture) -> None:
    script = Script()
    with serve(script) as url, caplog.at_level(logging.WARNING):
        describer = endpoint([NOWHERE, url])
        describer.check(noise(1))
        assert caplog.messages[-1].startswith(f"model.url: {NOWHERE}/chat/completions: server unreachable")
        check_all_answered(describer, [script])


def test_only_when_no_address_answers_the_run_ends() -> None:
    dead = Script(status=503)
    with serve(dead) as url:
        describer = endpoint([NOWHERE, url])
        with pytest.raises(UnfinishedError, match="server unreachable"):
            describer.check(noise(1))
        with pytest.raises(UnfinishedError, match=r"server unreachable: .*\(16 queries in a row\)"):
            describer.answer([query(p) for p in PROMPTS], GREEDY)


def test_an_address_that_comes_back_is_asked_again() -> None:
    scripts = [Script(status=503), Script()]

    def revive(prompt: str) -> None:
        if prompt == "p20":
            scripts[0].status = 0

    scripts[1].hold = revive
    with served(scripts) as urls:
        describer = endpoint(urls, concurrency=2)
        check_all_answered(describer, scripts)
    assert sum(scripts[0].delivered.values()) > 0
    assert describer.servers[0].failed == 0


def test_a_limit_of_one_address_holds_back_no_other() -> None:
    """It wants to be asked again in an hour; the other one has room."""
    scripts = [Script(status=429, headers={"Retry-After": "3600"}), Script()]
    with served(scripts) as urls:
        check_all_answered(endpoint(urls, concurrency=8), scripts[1:])


def test_what_one_address_does_not_take_is_sent_to_the_others() -> None:
    """An older server behind the second address: the first one still draws with the run's top_k."""
    older = Script(refuse=lambda body: (400, "unknown parameter: 'top_k'") if "top_k" in body else None)
    newer = Script()
    with served([newer, older]) as urls:
        check_all_answered(endpoint(urls, concurrency=2), [newer, older])
    assert all("top_k" in body for body in newer.requests)
    assert sum("top_k" in body for body in older.requests) <= 2


@pytest.mark.parametrize("urls", [[], ["http://a/v1", "http://a/v1/"], ["http://a/v1", "b:8000"]])
def test_addresses_that_cannot_be(urls: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"^model\.url: found"):
        endpoint(urls)


# --- adapters -------------------------------------------------------------------------------------


def adapter(folder: Path, weights: bytes = b"a") -> str:
    """A folder that is a PEFT adapter as far as a server's client looks."""
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"r": 8}))
    (folder / "adapter_model.safetensors").write_bytes(weights)
    return str(folder)


@pytest.mark.parametrize("kind", ["vllm", "sglang"])
def test_an_adapter_is_loaded_once_and_asked_for_by_its_name(kind: str, tmp_path: Path) -> None:
    """Its name holds its digest: other weights are never mistaken for it, the same ones are not loaded twice,
    by another process either.
    """
    first, other = adapter(tmp_path / "1"), adapter(tmp_path / "2", b"b")
    scripts = [Script(loads=kind), Script(loads=kind)]
    with served(scripts) as urls:
        for _ in range(2):
            describer = endpoint(urls, server=kind, adapter=first)
            describer.answer([query(p) for p in PROMPTS], GREEDY)
        endpoint(urls, server=kind, adapter=other).answer([query(p) for p in PROMPTS], GREEDY)
    for script in scripts:
        assert len(script.loaded) == 2
        assert list(script.adapters.values()) == [first, other]
        named = ["m:" * (kind == "sglang") + name for name in script.adapters]
        assert [body["model"] for body in script.requests] == sorted(
            (body["model"] for body in script.requests), key=named.index
        )


def test_a_server_that_was_started_again_gets_the_adapter_again(tmp_path: Path) -> None:
    script = Script(loads="vllm")

    def restart(prompt: str) -> None:
        if prompt == "p9":
            script.adapters.clear()

    script.hold = restart
    with serve(script) as url:
        found = endpoint(url, adapter=adapter(tmp_path / "a")).answer([query(p) for p in PROMPTS], GREEDY)
    assert found == [[Answer(f"{p} #0")] for p in PROMPTS]
    assert len(script.loaded) == 2


def test_answers_with_and_without_adapter_are_not_mixed_up(tmp_path: Path) -> None:
    """The journal knows a query by all that its answer depends on."""
    from spr.models.journal import Journal

    script = Script(loads="vllm", reply=lambda prompt, k: f"{prompt} {k}")
    with serve(script) as url:
        plain = endpoint(url, journal=Journal(tmp_path / "journal")).answer([query("a")], GREEDY)
        again = endpoint(url, journal=Journal(tmp_path / "journal"), adapter=adapter(tmp_path / "a"))
        assert again.answer([query("a")], GREEDY) != plain
    assert script.seen["a"] == 2


@pytest.mark.parametrize("kind", ["vllm", "sglang"])
def test_a_server_that_cannot_load_an_adapter_is_one_line_before_it_is_asked(
    kind: str, tmp_path: Path
) -> None:
    script = Script(loads=kind, unreadable="LoRA rank 64 is greater than max_lora_rank 16")
    with serve(script) as url:
        describer = endpoint(url, server=kind, adapter=adapter(tmp_path / "a"))
        with pytest.raises(ConfigError, match=r"does not load the adapter .* rank 64 is greater") as caught:
            describer.answer([query("a")], GREEDY)
        assert "--max-lora-rank" in str(caught.value)
        endpoint(url, server=kind).check_loads_adapters()  # it has a place for them
        script.loads = ""
        with pytest.raises(ConfigError, match=r"loads no adapters while it runs \(status 404\)"):
            endpoint(url, server=kind).check_loads_adapters()
    assert not script.requests


# --- shards that overlap --------------------------------------------------------------------------


def shards(answer: Callable[[list[str]], object], names: Sequence[list[str]]) -> dict[int, Task[Any, Any]]:
    return {i: (lambda do, own=own: do(own)) for i, own in enumerate(names)}


def crew() -> Workers:
    return Workers(RuntimeConfig())


def test_the_next_shard_is_asked_while_the_last_answers_of_this_one_are_waited_for() -> None:
    """One answer of the first shard takes until the second one has begun: a client that drained before it
    goes on would wait for ever.
    """
    begun = threading.Event()

    def hold(prompt: str) -> None:
        if prompt == "p1":
            assert begun.wait(20)
        elif prompt == "q0":
            begun.set()

    script = Script(hold=hold)
    done: list[int] = []
    with serve(script) as url, crew() as workers:
        describer = endpoint(url, concurrency=2)
        do = overlapping(lambda own: describer.answer([query(p) for p in own], GREEDY), describer)
        assert isinstance(do, Overlapping)
        tasks = shards(do, [["p0", "p1", "p2"], ["q0", "q1"], ["r0"], ["s0"]])
        workers.work(Job(lambda: do, tasks, lambda number, found: done.append(number)))
    assert done == [0, 1, 2, 3]
    assert script.delivered == dict.fromkeys(("p0", "p1", "p2", "q0", "q1", "r0", "s0"), 1)
    assert script.most_at_once == 2  # of both shards together


def test_a_stop_ends_what_is_asked_at_once() -> None:
    """Ctrl-C came while hundreds of questions were under way, and the process stayed until all were
    answered.
    """
    over = threading.Event()

    def hold(prompt: str) -> None:
        if prompt != "p0":
            over.wait(20)

    script = Script(hold=hold)

    def interrupt(number: int, found: object) -> None:
        raise KeyboardInterrupt

    with serve(script) as url, crew() as workers:
        describer = endpoint(url, concurrency=2)
        do = overlapping(lambda own: describer.answer([query(p) for p in own], GREEDY), describer)
        tasks = shards(do, [["p0"], [f"q{i}" for i in range(200)]])
        with pytest.raises(KeyboardInterrupt):
            workers.work(Job(lambda: do, tasks, interrupt))
        over.set()
    assert len(script.requests) < 20


def test_a_failure_of_one_shard_ends_the_other() -> None:
    script = Script(refuse=lambda body: (404, "no such model"))
    with serve(script) as url, crew() as workers:
        describer = endpoint(url)
        do = overlapping(lambda own: describer.answer([query(p) for p in own], GREEDY), describer)
        with pytest.raises(ConfigError, match="knows no model"):
            workers.work(Job(lambda: do, shards(do, [PROMPTS, PROMPTS]), lambda number, found: None))
