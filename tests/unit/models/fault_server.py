"""A fake server: real HTTP on 127.0.0.1 that speaks chat completions as it is told to, like a known server or
like one that fails, limits or dies. What it imitates is written from the servers' documentation: none of them
runs here but transformers serve (tests/contract/test_serve.py). Every request and every answer is kept.
"""

from __future__ import annotations

import base64
import io
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from PIL import Image

from spr.models.openai_endpoint import CHECK

FAULTS = ("429", "500", "drop", "half", "garbage", "html", "no_choices", "abort", "slow")


@dataclass
class Script:
    """What the server does. `faults` per prompt text: one per request ("ok" = none), then it answers.
    `at_most`: choices per request, whatever `n` says.
    """

    faults: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    at_most: int = 100
    reply: Callable[[str, int], str] = lambda prompt, k: f" {prompt} #{k}"
    finish: str = "stop"
    # what it says to a request that it does not take: (status, body), or None
    refuse: Callable[[dict[str, Any]], tuple[int, str] | None] = lambda body: None
    choice: Callable[[str], dict[str, Any]] | None = None  # a choice with this text, where it is an odd one
    usage: dict[str, int] | None = None
    rate: float = 0.0  # requests per second that it takes; others get 429
    retry_after: str | None = None
    dies_after: int = 0  # requests; then it closes every connection
    headers: Mapping[str, str] = field(default_factory=dict)
    raw: bytes = b""  # answer everything with these bytes
    status: int = 0  # answer everything with this status
    body: str = "{}"
    slow: float = 3.0
    loads: str = ""  # "vllm" or "sglang": it loads adapters, as that one does
    adapters: dict[str, str] = field(default_factory=dict)  # that are loaded, by name
    unreadable: str = ""  # why it cannot load one
    hold: Callable[[str], None] = lambda prompt: None  # before it answers
    loaded: list[str] = field(default_factory=list)  # every time
    requests: list[dict[str, Any]] = field(default_factory=list)
    authorization: set[str | None] = field(default_factory=set)
    seen: Counter[str] = field(default_factory=Counter)
    delivered: Counter[str] = field(default_factory=Counter)
    images: dict[str, list[Image.Image]] = field(default_factory=dict)
    taken: list[float] = field(default_factory=list)
    checks: int = 0
    at_once: int = 0
    most_at_once: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


def _completion(choices: list[dict[str, Any]], usage: dict[str, int] | None = None) -> bytes:
    return json.dumps({"object": "chat.completion", "choices": choices, "usage": usage}).encode()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    script: Script

    def log_message(self, format: str, *args: Any) -> None:
        """Silence."""

    def _send(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        script = self.script
        with script.lock:
            script.at_once += 1
            script.most_at_once = max(script.most_at_once, script.at_once)
        try:
            self._answer(script)
        finally:
            with script.lock:
                script.at_once -= 1

    def do_GET(self) -> None:
        """The models that it has; only vLLM lists the adapters in every version."""
        names = ["m", *(self.script.adapters if self.script.loads == "vllm" else ())]
        self._send(200, json.dumps({"data": [{"id": name} for name in names]}).encode())

    def _load(self, script: Script, body: dict[str, Any]) -> None:
        """Load an adapter as vLLM and SGLang document it."""
        place = {"vllm": "/v1/load_lora_adapter", "sglang": "/load_lora_adapter"}.get(script.loads)
        if self.path != place:
            return self._send(404, b'{"detail": "Not Found"}')
        if not body.get("lora_name"):
            return self._send(422, b'{"detail": "lora_name: field required"}')
        name = body["lora_name"]
        wrong = script.unreadable or (f"{name} has already been loaded" if name in script.adapters else "")
        if wrong:
            said = (
                {"success": False, "error_message": wrong} if script.loads == "sglang" else {"message": wrong}
            )
            return self._send(400, json.dumps(said).encode())
        script.adapters[name] = body["lora_path"]
        script.loaded.append(name)
        return self._send(200, b'{"success": true}' if script.loads == "sglang" else b"Success")

    def _answer(self, script: Script) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path.endswith("/load_lora_adapter"):
            return self._load(script, body)
        if script.loads and body["model"].removeprefix("m:") not in ("m", *script.adapters):
            return self._send(404, b'{"message": "The model does not exist."}')
        content = body["messages"][0]["content"]
        prompt = content[-1]["text"]
        if prompt == CHECK:  # before a run: no query, and none of what is counted
            return self._check(script, body)
        with script.lock:
            script.requests.append(body)
            script.authorization.add(self.headers["Authorization"])
            k = script.seen[prompt]
            script.seen[prompt] += 1
            urls = [part["image_url"]["url"] for part in content[:-1]]
            script.images[prompt] = [
                Image.open(io.BytesIO(base64.b64decode(u.removeprefix("data:image/png;base64,"))))
                for u in urls
            ]
        if script.dies_after and len(script.requests) > script.dies_after:
            return self._fail("drop")
        if script.rate and not self._has_room(script):
            return self._send(429, b"{}", {"Retry-After": script.retry_after} if script.retry_after else {})
        if self._refused(script, body):
            return None
        faults = script.faults.get(prompt, ())
        if k < len(faults) and faults[k] != "ok":
            return self._fail(faults[k])
        time.sleep(0.01)
        script.hold(prompt)
        with script.lock:
            start = script.delivered[prompt]
            count = min(body.get("n", 1), script.at_most)
            script.delivered[prompt] += count
        texts = [script.reply(prompt, start + i) for i in range(count)]
        choices = [
            script.choice(text)
            if script.choice
            else {"message": {"content": text}, "finish_reason": script.finish}
            for text in texts
        ]
        return self._send(200, _completion(choices, script.usage))

    def _refused(self, script: Script, body: dict[str, Any]) -> bool:
        """Whether this server has something else to say than an answer. It has said it then."""
        if script.status:
            self._send(script.status, script.body.encode(), script.headers)
        elif script.raw:
            self._send(200, script.raw, script.headers)
        elif (refusal := script.refuse(body)) is not None:
            self._send(refusal[0], refusal[1].encode())
        else:
            return False
        return True

    def _check(self, script: Script, body: dict[str, Any]) -> None:
        """Answer the question of `EndpointDescriber.check`, as well as this server can."""
        script.checks += 1
        if script.dies_after and len(script.requests) > script.dies_after:
            return self._fail("drop")
        if self._refused(script, body):
            return None
        return self._send(200, _completion([{"message": {"content": "a picture"}, "finish_reason": "stop"}]))

    def _has_room(self, script: Script) -> bool:
        """Whether fewer than `rate` requests were taken in the last second."""
        with script.lock:
            now = time.monotonic()
            script.taken = [t for t in script.taken if t > now - 1]
            room = len(script.taken) < script.rate
            if room:
                script.taken.append(now)
            return room

    def _fail(self, fault: str) -> None:
        """Fail in one way."""
        whole = _completion([{"message": {"content": "broken"}, "finish_reason": "stop"}])
        match fault:
            case "429":
                self._send(429, b"{}", {"Retry-After": "0.05"})
            case "500":
                self._send(500, b"oops")
            case "drop":
                self.connection.close()
                self.close_connection = True
            case "half":
                self.send_response(200)
                self.send_header("Content-Length", str(len(whole)))
                self.end_headers()
                self.wfile.write(whole[: len(whole) // 2])
                self.wfile.flush()
                self.connection.close()
                self.close_connection = True
            case "garbage":
                self._send(200, whole[: len(whole) // 2])
            case "html":
                self._send(200, b"<html>gateway</html>")
            case "no_choices":
                self._send(200, _completion([]))
            case "abort":
                self._send(200, _completion([{"message": {"content": "bro"}, "finish_reason": "abort"}]))
            case "slow":
                time.sleep(self.script.slow)
                self.close_connection = True


@contextmanager
def serve(script: Script) -> Iterator[str]:
    """The server's address while it runs."""
    handler = type("Handler", (_Handler,), {"script": script})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    server.handle_error = lambda request, client_address: None  # type: ignore[method-assign]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
