"""A Describer behind any server that speaks the OpenAI chat completions API: vLLM, SGLang, llama.cpp, Ollama,
transformers serve, and hosted ones.

In: queries. Out: answers, in order. Images go along as PNG data of the stored pixels, because boxes are read
in their frame. The samples of a prompt are asked for in one request; what a server leaves out (`n` ignored,
an answer broken off) is asked for again, and only that.
What may pass (connection, timeout, 429, 5xx, garbage) is tried again with growing pauses. 429 and
`Retry-After` hold back all queries together and are no tries. A query that still has no answer is marked so
that it is asked again by the next run (`Answer.again`); when `give_up_after` queries in a row have none, the
server is taken for dead and UnfinishedError ends the run. A refusal is a failed answer with its reason; a
field that the server does not take is left out (spr.models.fields).
The API key is read from the environment when a request is made; it is in no attribute, message or file.
Resume: what stands in a finished shard or in the journal (spr.models.journal) is never asked again.
Known gap: the noise of samples is the server's, so other than in process it may depend on what else it is
serving.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import json
import logging
import os
import random
import time
from collections.abc import Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

import httpx
from PIL import Image

from spr.errors import ConfigError, DataError, UnfinishedError, unknown_name, why_no_picture
from spr.models.fields import BLIND, LIMITS, SERVERS, Fields, lost, may_be_about_fields, named, without
from spr.models.journal import Journal
from spr.models.pictures import LoadImage, crop
from spr.models.replies import MAX_BYTES, RETRIED, PassingError, RefusedError, read_answers
from spr.types import Answer, Query, Sampling

log = logging.getLogger(__name__)
CHECK, CHECKS = "What is this?", 3  # ours: the question before the first one, and its tries
IN_VAIN = 3  # ours: questions about fields that may be no help before no more are asked
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait and how often to try again. All ours."""

    timeout: float = 600.0  # seconds for an answer
    connect: float = 10.0  # seconds for a connection
    tries: int = 6  # requests in a row that may fail before a query is left for the next run
    pause: float = 1.0  # seconds before the second try; doubled each time
    longest: float = 60.0  # seconds that a pause of ours may last
    asked: float = 600.0  # seconds that a pause may last when the server asks for it
    limited: float = 1800.0  # seconds in which a server may answer nothing but 429


PATIENCE = Patience()


def _png(image: Image.Image) -> str:
    """The exact pixels as a data URL."""
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "PNG", compress_level=1)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _content(images: Sequence[Image.Image], prompt: str) -> list[Mapping[str, Any]]:
    """A user's message: pictures, then the question."""
    return [
        *({"type": "image_url", "image_url": {"url": _png(image)}} for image in images),
        {"type": "text", "text": prompt},
    ]


def seed_of(seed: int, item_id: str, sample: int) -> int:
    """The seed of a request: 31 bits from the run's seed, the item and the first sample that is asked for."""
    return (
        int.from_bytes(
            hashlib.blake2b(f"{seed}\0{item_id}\0{sample}".encode(), digest_size=4).digest(), "little"
        )
        & 0x7FFFFFFF
    )


def wait_asked_for(headers: Mapping[str, str]) -> float | None:
    """Seconds that `Retry-After` asks for, a number or a date (RFC 9110, 10.2.3); None where it does not."""
    said = headers.get("retry-after")
    if said is None:
        return None
    try:
        seconds = float(said)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(said).timestamp() - time.time()
        except (ValueError, OverflowError):
            return None
    return max(seconds, 0.0) if seconds < float("inf") else None


def _in_a_loop(work: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine; in a thread of its own where a loop runs already (a notebook)."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()


class EndpointDescriber:
    """The server at `url` (ending in /v1) with its model `model`. Raises ConfigError for an address, a model
    or a key that the server refuses.

    `give_up_after`: see the module; None: 2 x `concurrency`, 0: never. `drop_unanswered`: a query without
    answer is a failed one, and is not asked again.
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
        give_up_after: int | None = None,
        drop_unanswered: bool = False,
        extra_body: Mapping[str, Any] | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        if server not in SERVERS:
            raise ConfigError("model.server: " + unknown_name("server", server, SERVERS))
        if not url.startswith(("http://", "https://")):
            raise ConfigError(f"model.url: found {url!r}, expected http://… or https://…")
        if api_key_env:
            _check_key(api_key_env)
        if concurrency < 1:
            raise ConfigError(f"model.concurrency: found {concurrency}, expected at least 1")
        self.url, self.model, self.load_image = url.rstrip("/") + "/chat/completions", model, load_image
        self.api_key_env, self.concurrency, self.patience = api_key_env, concurrency, patience or PATIENCE
        self.journal, self.drop_unanswered = journal, drop_unanswered
        self.give_up_after = 2 * concurrency if give_up_after is None else give_up_after
        self.fields = Fields(server, extra_body or {}, chat_template_kwargs or {})
        self._asked_with = [model, server, dict(extra_body or {}), dict(chat_template_kwargs or {})]
        self._answered = False  # anything, by this server
        self._failed = self._refused = 0  # queries in a row; queries before the first answer
        self._told_of_trouble = False
        self._vain, self._tried_blind = 0, False
        self._go_on_at = 0.0  # time.monotonic() until which all queries wait
        self._limited_since: float | None = None
        self._waves = 0  # waits in a row because of 429
        self._one_at_a_time = asyncio.Lock()

    def answer(self, queries: Sequence[Query], sampling: Sampling) -> list[list[Answer]]:
        """`sampling.n` answers per query, in order; `concurrency` requests at a time. Raises UnfinishedError
        when the server does not answer any more.
        """
        return _in_a_loop(self._answer(queries, sampling))

    async def _answer(self, queries: Sequence[Query], sampling: Sampling) -> list[list[Answer]]:
        self._one_at_a_time = asyncio.Lock()
        places = asyncio.Semaphore(self.concurrency)

        async def one(query: Query) -> list[Answer]:
            async with places:
                return await self._samples(client, query, sampling)

        async with self._client() as client:
            tasks = [asyncio.create_task(one(query)) for query in queries]
            try:
                return await asyncio.gather(*tasks)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    def check(self, picture: Image.Image) -> None:
        """Ask one short question about a picture. Raises UnfinishedError when the server does not answer now
        or takes no picture, ConfigError where no request can succeed. With `give_up_after` 0 it only warns.
        """
        try:
            _in_a_loop(self._check(picture))
        except UnfinishedError as e:
            if self.give_up_after:
                raise
            log.warning("%s", e)

    async def _check(self, picture: Image.Image) -> None:
        self._one_at_a_time = asyncio.Lock()
        sampling = Sampling(n=1, temperature=0.0, top_p=1.0, max_new_tokens=16)
        body = self._body(_content([picture], CHECK), self.fields.of(sampling, 1, 0))
        async with self._client() as client:
            for tries in range(1, CHECKS + 1):
                try:
                    await self._ask(client, body)
                    return
                except RefusedError as e:
                    what = f"the server refuses a question with a picture: {e}; once that is mended"
                    break
                except PassingError as e:
                    if e.limited or e.reason.startswith("half answer"):
                        return  # it is there, and it took the picture
                    what = f"server unreachable: {e.reason}; once it answers"
                    await asyncio.sleep(self.patience.pause * tries if tries < CHECKS else 0)
        raise UnfinishedError(f"model.url: {self.url}: {what}, the same command goes on")

    # --- one query --------------------------------------------------------------------------------

    async def _samples(self, client: httpx.AsyncClient, query: Query, sampling: Sampling) -> list[Answer]:
        """All samples of a query: asked for together, then what is missing."""
        wanted = 1 if sampling.temperature == 0 else sampling.n
        key = self._key(query, sampling)
        found = self.journal.answers(key)[:wanted] if self.journal is not None else []
        if len(found) < wanted:  # no image is read for an answer that is there
            try:
                content = await asyncio.to_thread(self._content, query)
            except (OSError, DataError, ValueError) as e:
                return [Answer("", failed=why_no_picture(e))] * sampling.n
            found += await self._missing(client, content, key, query.item_id, sampling, wanted, len(found))
        return found * (sampling.n // wanted)

    async def _missing(
        self,
        client: httpx.AsyncClient,
        content: Sequence[Mapping[str, Any]],
        key: str,
        item_id: str,
        sampling: Sampling,
        wanted: int,
        first: int,
    ) -> list[Answer]:
        """The answers from number `first` on."""
        found: list[Answer] = []
        tries = 0
        while (n := wanted - first - len(found)) > 0:
            fields = self.fields.of(sampling, n, seed_of(sampling.seed, item_id, first + len(found)))
            body = self._body(content, fields)
            try:
                await self._wait_for_all()
                new = (await self._ask(client, body))[:n]
            except RefusedError as e:
                self._count_refusal(str(e))
                return found + [Answer("", failed=f"refused: {e}")] * n
            except PassingError as e:
                if e.limited and self._wait_together(e.wait):
                    continue
                tries += 1
                if tries < self.patience.tries:
                    await self._pause(tries, e)
                    continue
                self._count_failure(e.reason)
                reason = f"{e.reason} ({tries} tries)"
                kind = "unanswered" if self.drop_unanswered else "endpoint"
                return found + [Answer("", failed=f"{kind}: {reason}", again=not self.drop_unanswered)] * n
            if self.journal is not None:
                self.journal.add(key, new)
            found += new
            tries = self._failed = self._waves = 0
            self._answered, self._told_of_trouble, self._limited_since = True, False, None
        return found

    def _count_failure(self, reason: str) -> None:
        self._failed += 1
        if 0 < self.give_up_after <= self._failed:
            raise UnfinishedError(
                f"model.url: {self.url}: server unreachable: {reason} ({self._failed} queries in a row); "
                "what has come is kept; the same command goes on"
            )

    def _count_refusal(self, reason: str) -> None:
        self._refused += 1
        if not self._answered and 0 < self.give_up_after <= self._refused:
            raise UnfinishedError(
                f"model.url: {self.url}: the server refused all of the first {self._refused} queries: "
                f"{reason}; once that is mended, the same command goes on"
            )

    def _key(self, query: Query, sampling: Sampling) -> str:
        """A digest of all that the answers of a query depend on. The address is none of it."""
        asked = [*self._asked_with, query.item_id, query.image, query.crop, query.prompt, asdict(sampling)]
        return hashlib.blake2b(json.dumps(asked, default=str).encode(), digest_size=16).hexdigest()

    def _content(self, query: Query) -> list[Mapping[str, Any]]:
        image = self.load_image(query.image)
        images = [image] if query.crop is None else [image, crop(image, query.crop)]
        return _content(images, query.prompt)

    def _body(self, content: Sequence[Mapping[str, Any]], fields: Mapping[str, Any]) -> dict[str, Any]:
        return {"model": self.model, "messages": [{"role": "user", "content": content}], **fields}

    def _client(self) -> httpx.AsyncClient:
        limits = httpx.Limits(max_connections=self.concurrency, max_keepalive_connections=self.concurrency)
        timeout = httpx.Timeout(self.patience.timeout, connect=self.patience.connect)
        return httpx.AsyncClient(timeout=timeout, limits=limits)

    # --- waiting ----------------------------------------------------------------------------------

    async def _pause(self, tries: int, failure: PassingError) -> None:
        """Wait before another try, longer each time, not all at the same moment."""
        own = min(self.patience.pause * 2 ** (tries - 1), self.patience.longest) * random.uniform(0.75, 1.25)
        if tries > 1 and not self._told_of_trouble:
            self._told_of_trouble = True
            log.warning("%s: %s: trying again", self.url, failure.reason)
        await asyncio.sleep(max(own, min(failure.wait or 0.0, self.patience.asked)))

    def _wait_together(self, asked: float | None) -> bool:
        """Hold back all queries because the server wants it. False when it has wanted nothing else for too
        long.
        """
        now = time.monotonic()
        if self._limited_since is None:
            self._limited_since = now
            log.warning("%s: the server limits the rate of requests: waiting as it wants", self.url)
        if now - self._limited_since > self.patience.limited:
            return False
        if now >= self._go_on_at:
            self._waves += 1
        own = min(self.patience.pause * 2 ** min(self._waves - 1, 10), self.patience.longest)
        wait = own if asked is None else min(asked, self.patience.asked)
        self._go_on_at = max(self._go_on_at, now + wait)
        return True

    async def _wait_for_all(self) -> None:
        while (left := self._go_on_at - time.monotonic()) > 0:
            await asyncio.sleep(left + random.uniform(0, max(left / 2, self.patience.pause / 4)))

    # --- one request ------------------------------------------------------------------------------

    async def _ask(self, client: httpx.AsyncClient, body: dict[str, Any]) -> list[Answer]:
        """The choices of one request, without the fields that the server does not take. Raises PassingError,
        RefusedError, or ConfigError when no request of this run can succeed.
        """
        try:
            return await self._post(client, body)
        except RefusedError as e:
            refusal = e
        async with self._one_at_a_time:
            if self.fields.left_out & body.keys():  # found out for another query in the meantime
                return await self._post(client, without(body, self.fields.left_out))
            return await self._without_fields(client, body, refusal)

    async def _without_fields(
        self, client: httpx.AsyncClient, body: dict[str, Any], refusal: RefusedError
    ) -> list[Answer]:
        """Ask again without the fields that a refusal is about, and remember them if that helps."""
        out: list[str] = []
        blind = iter(BLIND if not (self._answered or self._tried_blind) else ())
        said = refusal
        while self._vain < IN_VAIN:
            new = named(said.said, without(body, out))
            if not new and said.status in (400, 422) and may_be_about_fields(said.said):
                self._tried_blind = True
                new = [name for name in next(blind, ()) if name in body and name not in out]
            if not new:
                break
            out += new
            try:
                answers = await self._post(client, without(body, out))
            except RefusedError as e:
                said = e
                continue
            self.fields.left_out |= set(out)
            log.warning("%s: the server refuses fields, which are left out (%s)", self.url, lost(out))
            return answers
        self._vain += bool(out)
        raise refusal

    async def _post(self, client: httpx.AsyncClient, body: Mapping[str, Any]) -> list[Answer]:
        try:
            async with client.stream("POST", self.url, json=body, headers=self._headers()) as response:
                data = bytearray()
                async for chunk in response.aiter_bytes():
                    data += chunk
                    if len(data) > MAX_BYTES:
                        raise RefusedError(f"the server's reply has more than {MAX_BYTES >> 20} MiB")
        except httpx.TimeoutException:
            raise PassingError("timeout") from None
        except (httpx.UnsupportedProtocol, httpx.InvalidURL) as e:
            raise ConfigError(f"model.url: {e}") from None
        except httpx.HTTPError as e:
            raise PassingError(f"connection: {type(e).__name__}") from None
        if response.is_success:
            return read_answers(bytes(data), int(next(body[name] for name in LIMITS if name in body)))
        raise self._refusal(response, bytes(data[: 1 << 16]).decode("utf-8", "replace"), body)

    def _refusal(self, response: httpx.Response, text: str, body: Mapping[str, Any]) -> Exception:
        """What a reply means that is no success. Raises ConfigError where no request can succeed."""
        status, said = response.status_code, self._without_key(text)
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
        if response.is_redirect:
            place = response.headers.get("location", "another address")
            raise ConfigError(f"model.url: the server at {self.url} sends us to {place}: give its address")
        if status in RETRIED and not (status == 500 and named(said, body)):
            wait = wait_asked_for(response.headers)
            limited = status == 429 or (status == 503 and wait is not None)
            return PassingError(f"status {status}", wait, limited)
        return RefusedError(f"status {status}: {' '.join(said.split())[:200]}", status, said)

    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {os.environ[self.api_key_env]}"} if self.api_key_env else {}

    def _without_key(self, text: str) -> str:
        key = os.environ.get(self.api_key_env, "") if self.api_key_env else ""
        return text.replace(key, "[key]") if key else text


def _check_key(name: str) -> None:
    """Raise ConfigError for a key that is not there, or that no header can carry."""
    if name not in os.environ:
        raise ConfigError(f"model.api_key_env: the environment variable {name} is not set")
    key = os.environ[name]
    if key != key.strip() or not key.isascii() or not key.isprintable():
        raise ConfigError(
            f"model.api_key_env: the environment variable {name} holds a blank, a line end or a letter that "
            "no header can carry, expected the key alone"
        )
