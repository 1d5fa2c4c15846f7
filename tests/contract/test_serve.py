"""The endpoint in front of `transformers serve`, a real server process, gives the answers of the same checkpoint in process."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import torch

from spr.models.hf_mllm import HFDescriber
from spr.models.loading import save_checkpoint
from spr.models.openai_endpoint import EndpointDescriber
from spr.scenes.architectures import build_mllm
from spr.types import Query, Sampling
from tests.unit.models.conftest import load_noise

pytestmark = pytest.mark.slow
QUESTIONS = ("Where is the dog?", "Where is the leftmost cat next to the tree?", "What is the location of the owl in the image?")


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """(address, folder) of a random checkpoint of the embedded architecture behind `transformers serve`."""
    pytest.importorskip("fastapi", reason="transformers serve needs fastapi, uvicorn and openai (extra dev)")
    folder = tmp_path_factory.mktemp("served")
    torch.manual_seed(5)
    save_checkpoint(*build_mllm(), folder)
    port = _free_port()
    command = [str(Path(sys.executable).with_name("transformers")), "serve", str(folder), "--port", str(port), "--host", "127.0.0.1"]
    with (folder / "serve.log").open("w") as log:
        server = subprocess.Popen(
            [*command, "--device", "cpu", "--dtype", "float32"], env={**os.environ, "HF_HUB_OFFLINE": "1"}, stdout=log, stderr=log
        )
        try:
            address = f"http://127.0.0.1:{port}"
            for _ in range(120):
                time.sleep(0.5)
                try:
                    if httpx.get(f"{address}/health").is_success:
                        break
                except httpx.TransportError:
                    assert server.poll() is None, (folder / "serve.log").read_text()
            yield f"{address}/v1", str(folder)
        finally:
            server.terminate()
            server.wait(30)


def test_greedy_answers_are_those_of_the_same_checkpoint_in_process(served: tuple[str, str]) -> None:
    url, folder = served
    queries = [Query(f"q{i}", str(i), 224, 224, q) for i, q in enumerate(QUESTIONS)]
    greedy = Sampling(n=1, temperature=0, max_new_tokens=12)
    remote = EndpointDescriber(url, folder, load_image=load_noise, concurrency=2).answer(queries, greedy)
    assert remote == HFDescriber(folder, load_image=load_noise).answer(queries, greedy)


def test_all_samples_come_although_the_server_gives_one_at_a_time(served: tuple[str, str]) -> None:
    url, folder = served
    query = Query("q", "1", 224, 224, QUESTIONS[0])
    found = EndpointDescriber(url, folder, load_image=load_noise).answer([query], Sampling(n=3, temperature=1.0, max_new_tokens=4))[0]
    assert [a.failed for a in found] == [None] * 3
