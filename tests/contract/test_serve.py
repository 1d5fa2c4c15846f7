"""The endpoint in front of `transformers serve`, a real server process, gives the answers of the same
checkpoint in process.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from PIL import Image

from spr.dialects import get_dialect
from spr.models.hf_mllm import HFDescriber
from spr.models.openai_endpoint import EndpointDescriber
from spr.scenes.embedded import checkpoint_folder
from spr.scenes.files import write_split
from spr.types import Frame, Query, Sampling

pytestmark = pytest.mark.slow


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


@pytest.fixture(scope="module")
def queries(tmp_path_factory: pytest.TempPathFactory) -> list[Query]:
    """Questions that the embedded model was trained on, about scenes of its world."""
    split = write_split(tmp_path_factory.mktemp("scenes"), "val", 3)
    images = json.loads(split.coco.read_text())["images"]
    asked = [
        "Where is the largest cat?",
        "Where is the dog on the left?",
        "Describe the objects in the image.",
    ]
    return [
        Query(f"q{i}", str(split.images / m["file_name"]), m["width"], m["height"], q)
        for i, (m, q) in enumerate(zip(images, asked, strict=True))
    ]


def load_image(path: str) -> Image.Image:
    return Image.open(path).convert("RGB")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """(address, folder) of the embedded model behind `transformers serve`."""
    pytest.importorskip("fastapi", reason="transformers serve needs fastapi, uvicorn and openai (extra dev)")
    folder, logs = checkpoint_folder("mllm"), tmp_path_factory.mktemp("served")
    port = _free_port()
    command = [
        str(Path(sys.executable).with_name("transformers")),
        "serve",
        str(folder),
        "--port",
        str(port),
        "--host",
        "127.0.0.1",
    ]
    with (logs / "serve.log").open("w") as log:
        server = subprocess.Popen(
            [*command, "--device", "cpu", "--dtype", "float32"],
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
            stdout=log,
            stderr=log,
        )
        try:
            address = f"http://127.0.0.1:{port}"
            for _ in range(120):
                time.sleep(0.5)
                try:
                    if httpx.get(f"{address}/health").is_success:
                        break
                except httpx.TransportError:
                    assert server.poll() is None, (logs / "serve.log").read_text()
            yield f"{address}/v1", str(folder)
        finally:
            server.terminate()
            server.wait(30)


def test_greedy_answers_are_those_of_the_same_checkpoint_in_process(
    served: tuple[str, str], queries: list[Query]
) -> None:
    url, folder = served
    greedy = Sampling(n=1, temperature=0, max_new_tokens=48)
    remote = EndpointDescriber(url, folder, load_image, server="transformers", concurrency=2).answer(
        queries, greedy
    )
    assert remote == HFDescriber(folder, load_image).answer(queries, greedy)
    assert any(
        get_dialect("florence2").parse(answers[0].text, Frame(1000, 1000)).mentions for answers in remote
    )


def test_all_samples_come_and_differ_although_the_server_gives_one_at_a_time(
    served: tuple[str, str], queries: list[Query]
) -> None:
    """It ignores `n`, and samples only because its own settings are sent along."""
    url, folder = served
    drawn = Sampling(n=4, temperature=2.0, max_new_tokens=12)
    (found,) = EndpointDescriber(url, folder, load_image, server="transformers").answer(queries[2:], drawn)
    assert [a.failed for a in found] == [None] * 4
    assert len({a.text for a in found}) > 1
