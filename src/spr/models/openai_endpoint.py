"""A Describer behind any server that speaks the OpenAI chat completions API: vLLM, SGLang, transformers
serve, and hosted ones.

In: queries. Out: answers, in order. Images go along as PNG data of the stored pixels, because boxes are read
in their frame. The samples of a prompt are asked for in one request; what a server leaves out (`n` ignored,
an answer broken off) is asked for again, and only that. 429, 5xx, timeouts, dropped connections and garbage
are retried with growing pauses; a query that still fails is a failed answer with its reason, and no other
query suffers.
The API key is read from the environment when a request is made; it is in no attribute, message or file.
Resume: what stands in a finished shard or in the journal (spr.models.journal) is never asked again.
Known gap: the noise of samples is the server's, so other than in process it may depend on what else it is
serving.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import logging
import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import httpx
from PIL import Image

from spr.errors import ConfigError, DataError, unknown_name
from spr.models.journal import Journal
from spr.models.pictures import LoadImage, crop
from spr.types import Answer, Query, Sampling

log = logging.getLogger(__name__)
SERVERS = ("vllm", "sglang", "transformers", "other")
RETRIED = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
# finish_reason of an answer that was not written to its end (vLLM: abort)
BROKEN_OFF = (None, "abort", "error")


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait and how often to try again. All ours."""

    timeout: float = 600.0  # seconds for an answer
    connect: float = 10.0  # seconds for a connection
    tries: int = 6  # requests in a row that may fail before a query is given up
    pause: float = 1.0  # seconds before the second try; doubled each time
    longest: float = 60.0  # seconds a pause may last, also when the server asks for more


class _FailedError(Exception):
    """A request that is worth another try. `wait` is what the server asked for, in seconds."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.reason, self.wait = reason, wait


class _RefusedError(Exception):
    """The server understood this request and will not answer it."""


def _png(image: Image.Image) -> str:
    """The exact pixels as a data URL."""
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "PNG", compress_level=1)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def seed_of(seed: int, item_id: str, sample: int) -> int:
    """The seed of a request: 31 bits from the run's seed, the item and the first sample that is asked for."""
    return (
        int.from_bytes(
            hashlib.blake2b(f"{seed}\0{item_id}\0{sample}".encode(), digest_size=4).digest(), "little"
        )
        & 0x7FFFFFFF
    )


def _wait_asked_for(response: httpx.Response) -> float | None:
    try:
        return float(response.headers["retry-after"])
    except (KeyError, ValueError):
        return None


def _choices(response: httpx.Response) -> list[Answer]:
    """The answers in a response. Raises _FailedError when it holds anything else."""
    try:
        found = [(c["message"]["content"], c["finish_reason"]) for c in response.json()["choices"]]
    except (ValueError, KeyError, TypeError):
        raise _FailedError("garbage: the server's answer is no chat completion") from None
    whole = [
        Answer(text.strip(), stopped=reason != "length")
        for text, reason in found
        if isinstance(text, str) and reason not in BROKEN_OFF
    ]
    if not whole:
        raise _FailedError("half answer: no choice is whole")
    return whole


class EndpointDescriber:
    """The server at `url` (ending in /v1) with its model `model`. Raises ConfigError for an address, a model
    or a key that the server refuses.
    """

    def __init__(
        self,
        url: str,
        model: str,
        load_image: LoadImage,
        api_key_env: str = "",
        concurrency: int = 16,
        patience: Patience | None = None,
        server: str = "vllm",
        journal: Journal | None = None,
    ) -> None:
        if server not in SERVERS:
            raise ConfigError("model.server: " + unknown_name("server", server, SERVERS))
        if not url.startswith(("http://", "https://")):
            raise ConfigError(f"model.url: found {url!r}, expected http://… or https://…")
        if api_key_env and api_key_env not in os.environ:
            raise ConfigError(f"model.api_key_env: the environment variable {api_key_env} is not set")
        if concurrency < 1:
            raise ConfigError(f"model.concurrency: found {concurrency}, expected at least 1")
        self.url, self.model, self.load_image = url.rstrip("/") + "/chat/completions", model, load_image
        self.api_key_env, self.concurrency, self.patience = api_key_env, concurrency, patience or Patience()
        self.server, self.journal = server, journal
        # Boxes are made of special tokens in some families; vLLM and SGLang keep them when they are asked to.
        self._extras: dict[str, Any] = {"skip_special_tokens": False} if server in ("vllm", "sglang") else {}

    def answer(self, queries: Sequence[Query], sampling: Sampling) -> list[list[Answer]]:
        """`sampling.n` answers per query, in order; `concurrency` requests at a time."""
        patience = self.patience
        limits = httpx.Limits(max_connections=self.concurrency, max_keepalive_connections=self.concurrency)
        with (
            httpx.Client(
                timeout=httpx.Timeout(patience.timeout, connect=patience.connect), limits=limits
            ) as client,
            ThreadPoolExecutor(self.concurrency) as pool,
        ):
            asked = [pool.submit(self._samples, client, query, sampling) for query in queries]
            try:
                return [future.result() for future in asked]
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    # --- one query --------------------------------------------------------------------------------

    def _samples(self, client: httpx.Client, query: Query, sampling: Sampling) -> list[Answer]:
        """All samples of a query: asked for together, then what is missing."""
        wanted = 1 if sampling.temperature == 0 else sampling.n
        key = self._key(query, sampling)
        found = self.journal.answers(key)[:wanted] if self.journal is not None else []
        if len(found) == wanted:  # no image is read for an answer that is there
            return found * (sampling.n // wanted)
        try:
            content = self._content(query)
        except (OSError, DataError) as e:
            return [Answer("", failed=f"image: {e}")] * sampling.n
        tries = 0
        while len(found) < wanted:
            body = self._body(
                content, sampling, wanted - len(found), seed_of(sampling.seed, query.item_id, len(found))
            )
            try:
                new = self._ask(client, body)[: wanted - len(found)]
                if self.journal is not None:
                    self.journal.add(key, new)
                found += new
                tries = 0
            except _RefusedError as e:
                found += [Answer("", failed=f"refused: {e}")] * (wanted - len(found))
            except _FailedError as e:
                tries += 1
                if tries < self.patience.tries:
                    self._pause(tries, e)
                else:
                    found += [Answer("", failed=f"endpoint: {e.reason} ({tries} tries)")] * (
                        wanted - len(found)
                    )
        return found * (sampling.n // wanted)

    def _key(self, query: Query, sampling: Sampling) -> str:
        """A digest of all that the answers of a query depend on."""
        asked = [
            self.url,
            self.model,
            self.server,
            query.item_id,
            query.image,
            query.crop,
            query.prompt,
            asdict(sampling),
        ]
        return hashlib.blake2b(json.dumps(asked).encode(), digest_size=16).hexdigest()

    def _pause(self, tries: int, failure: _FailedError) -> None:
        seconds = max(self.patience.pause * 2 ** (tries - 1), failure.wait or 0.0)
        log.info("%s: trying again (%d of %d)", failure.reason, tries + 1, self.patience.tries)
        time.sleep(min(seconds, self.patience.longest))

    def _content(self, query: Query) -> list[Mapping[str, Any]]:
        image = self.load_image(query.image)
        images = [image] if query.crop is None else [image, crop(image, query.crop)]
        parts: list[Mapping[str, Any]] = [
            {"type": "image_url", "image_url": {"url": _png(i)}} for i in images
        ]
        return [*parts, {"type": "text", "text": query.prompt}]

    def _body(
        self, content: Sequence[Mapping[str, Any]], sampling: Sampling, n: int, seed: int
    ) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self.model,
            "messages": [{"role": "user", "content": content}],
            "max_tokens": sampling.max_new_tokens,
        }
        body |= {"temperature": sampling.temperature, "top_p": sampling.top_p, "seed": seed}
        if self.server == "transformers":  # it draws only when its own settings say so
            drawn = (
                {"temperature": sampling.temperature, "top_p": sampling.top_p} if sampling.temperature else {}
            )
            settings = {"do_sample": bool(drawn), **drawn, "max_new_tokens": sampling.max_new_tokens}
            body["generation_config"] = json.dumps(settings)
        return body | ({"n": n} if n > 1 else {}) | self._extras

    # --- one request ------------------------------------------------------------------------------

    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {os.environ[self.api_key_env]}"} if self.api_key_env else {}

    def _ask(self, client: httpx.Client, body: dict[str, Any]) -> list[Answer]:
        """The choices of one request. Raises _FailedError, _RefusedError, or ConfigError when no request of
        this run can succeed.
        """
        try:
            response = client.post(self.url, json=body, headers=self._headers())
        except httpx.TimeoutException:
            raise _FailedError("timeout") from None
        except httpx.UnsupportedProtocol as e:
            raise ConfigError(f"model.url: {e}") from None
        except httpx.HTTPError as e:
            raise _FailedError(f"connection: {type(e).__name__}") from None
        if response.is_success:
            return _choices(response)
        if response.status_code in RETRIED:
            raise _FailedError(f"status {response.status_code}", _wait_asked_for(response))
        self._give_up(response, body)
        return self._ask(client, {k: v for k, v in body.items() if k != "skip_special_tokens"})

    def _give_up(self, response: httpx.Response, body: Mapping[str, Any]) -> None:
        """Raise what a refusal means; return only when the request may be sent again without our extra
        fields.
        """
        status = response.status_code
        if status in (401, 403):
            name = (
                f"the key in {self.api_key_env}"
                if self.api_key_env
                else "a request without key (model.api_key_env is empty)"
            )
            raise ConfigError(f"model.url: the server refuses {name} (status {status})")
        if status == 404:
            raise ConfigError(
                f"model.served_name: the server at {self.url} knows no model {self.model!r} (status 404)"
            )
        said = self._without_key(response.text)
        if "skip_special_tokens" in body and "skip_special_tokens" in said:
            if self._extras:
                log.warning(
                    "the server does not know skip_special_tokens: it may strip the tags that boxes are "
                    "made of"
                )
                self._extras = {}
            return
        raise _RefusedError(f"status {status}: {' '.join(said.split())[:200]}")

    def _without_key(self, text: str) -> str:
        key = os.environ.get(self.api_key_env, "") if self.api_key_env else ""
        return text.replace(key, "[key]") if key else text
