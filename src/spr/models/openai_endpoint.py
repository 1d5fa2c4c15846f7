"""A Describer behind any server that speaks the OpenAI chat completions API: vLLM, SGLang, llama.cpp, Ollama,
transformers serve, and hosted ones; at one address or at several that serve the same model.

In: queries. Out: answers, in order. Images go along as PNG data of the stored pixels, because boxes are read
in their frame. The samples of a prompt are asked for in one request; what a server leaves out (`n` ignored,
an answer broken off) is asked for again, and only that.
What may pass (connection, timeout, 429, 5xx, garbage) is tried again with growing pauses, at another address
at once. 429 and `Retry-After` hold back all queries of an address together and are no tries. An address that
fails three times in a row is left out, but for a question now and then, while another one answers. A query
that still has no answer is marked so that it is asked again by the next run (`Answer.again`); when
`give_up_after` queries in a row have none, the servers are taken for dead and UnfinishedError ends the run. A
refusal is a failed answer with its reason; a field that an address does not take is left out there
(spr.models.fields).
`answer` may be called from several threads: their queries share the places, so that the first ones of the
next shard are asked while the last ones of this shard are waited for.
Resume: what stands in a finished shard or in the journal (spr.models.journal) is never asked again.
Known gap: the noise of samples is the server's, so other than in process it may depend on what else it is
serving.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import io
import json
import logging
import os
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import asdict
from typing import Any, TypeVar

import httpx
from PIL import Image

from spr.errors import ConfigError, DataError, UnfinishedError, unknown_name, why_no_picture
from spr.models.fields import SERVERS, Fields
from spr.models.journal import Journal
from spr.models.pictures import LoadImage, pictures_of
from spr.models.replies import PassingError, RefusedError
from spr.models.served_adapter import ServedAdapter
from spr.models.server import Patience, Server
from spr.types import Answer, Query, Sampling

log = logging.getLogger(__name__)
CHECK, CHECKS = "What is this?", 3  # ours: the question before the first one, and its tries
PATIENCE = Patience()
T = TypeVar("T")


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


class EndpointDescriber:
    """The servers at `url` (each ending in /v1) with their model `model`, or with an `adapter` (a PEFT
    folder) on top of it. Raises ConfigError for an address, a model or a key that a server refuses.

    `concurrency`: requests at a time at each address. `give_up_after`: see the module; None: twice as many as
    are asked at a time, 0: never. `drop_unanswered`: a query without answer is a failed one, and is not asked
    again.
    """

    def __init__(
        self,
        url: str | Sequence[str],
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
        adapter: str | None = None,
    ) -> None:
        if server not in SERVERS:
            raise ConfigError("model.server: " + unknown_name("server", server, SERVERS))
        urls = [url] if isinstance(url, str) else list(url)
        if len({u.rstrip("/") for u in urls}) < len(urls) or not urls:
            raise ConfigError(f"model.url: found {urls}, expected one address, or several different ones")
        if api_key_env:
            _check_key(api_key_env)
        if concurrency < 1:
            raise ConfigError(f"model.concurrency: found {concurrency}, expected at least 1")
        on_top = ServedAdapter.of(server, model, adapter) if adapter else None
        named = on_top.model if on_top else model
        self._patience, template = patience or PATIENCE, chat_template_kwargs or {}
        self.servers = [
            Server(
                address,
                named,
                server,
                Fields(server, extra_body or {}, template),
                self._patience,
                api_key_env,
                on_top,
            )
            for address in urls
        ]
        self.load_image, self.concurrency = load_image, concurrency
        self.journal, self.drop_unanswered = journal, drop_unanswered
        self.give_up_after = 2 * concurrency * len(urls) if give_up_after is None else give_up_after
        self._asked_with = [named, server, dict(extra_body or {}), dict(template)]
        self._answered = False  # anything, by any address
        self._failed = self._refused = 0  # queries in a row; queries before the first answer
        self._loop = _Loop(self._open)

    def answer(self, queries: Sequence[Query], sampling: Sampling) -> list[list[Answer]]:
        """`sampling.n` answers per query, in order. Raises UnfinishedError when no server answers any more,
        CancelledError when `stop` was called meanwhile.
        """
        return self._loop.run(lambda client: self._answer(client, queries, sampling))

    def stop(self) -> None:
        """End what is being asked in other threads."""
        self._loop.stop()

    async def _open(self) -> httpx.AsyncClient:
        """A client, and all that belongs to one event loop."""
        for server in self.servers:
            server.renew()
        total = self.concurrency * len(self.servers)
        self._queries, self._requests = asyncio.Semaphore(total), asyncio.Condition()
        limits = httpx.Limits(max_connections=total, max_keepalive_connections=total)
        timeout = httpx.Timeout(self._patience.timeout, connect=self._patience.connect)
        return httpx.AsyncClient(timeout=timeout, limits=limits)

    async def _answer(
        self, client: httpx.AsyncClient, queries: Sequence[Query], sampling: Sampling
    ) -> list[list[Answer]]:
        async def one(query: Query) -> list[Answer]:
            async with self._queries:
                return await self._samples(client, query, sampling)

        tasks = [asyncio.create_task(one(query)) for query in queries]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def check(self, picture: Image.Image) -> None:
        """Ask each address one short question about a picture. Raises UnfinishedError when none answers now
        or takes a picture, ConfigError where no request can succeed. Some that do not answer are only told,
        and with `give_up_after` 0 all.
        """
        told = self._loop.run(lambda client: self._check(client, picture))
        if len(told) == len(self.servers) and self.give_up_after:
            raise UnfinishedError(f"{told[0]}, the same command goes on")
        for line in told:
            log.warning("%s", line)

    def check_loads_adapters(self) -> None:
        """Raise ConfigError for an address that loads no adapters while it runs, as far as it says so."""

        async def check(client: httpx.AsyncClient) -> None:
            await asyncio.gather(*(server.check_loads_adapters(client) for server in self.servers))

        self._loop.run(check)

    async def _check(self, client: httpx.AsyncClient, picture: Image.Image) -> list[str]:
        """What is wrong, an address at a time."""
        content = _content([picture], CHECK)
        found = await asyncio.gather(*(self._wrong(client, server, content) for server in self.servers))
        return [line for line in found if line is not None]

    async def _wrong(
        self, client: httpx.AsyncClient, server: Server, content: Sequence[Mapping[str, Any]]
    ) -> str | None:
        sampling = Sampling(n=1, temperature=0.0, top_p=1.0, max_new_tokens=16)
        what = ""
        for tries in range(1, CHECKS + 1):
            try:
                await server.ask(client, content, sampling, 1, 0)
                return None
            except RefusedError as e:
                what = f"the server refuses a question with a picture: {e}; once that is mended"
                break
            except PassingError as e:
                if e.limited or e.reason.startswith("half answer"):
                    return None  # it is there, and it took the picture
                what = f"server unreachable: {e.reason}; once it answers"
                await asyncio.sleep(self._patience.pause * tries if tries < CHECKS else 0)
        return f"model.url: {server.url}: {what}"

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
        failed_at: list[Server] = []
        tries = 0
        while (n := wanted - first - len(found)) > 0:
            seed = seed_of(sampling.seed, item_id, first + len(found))
            async with self._place(failed_at) as server:
                try:
                    others = self._answering([server])
                    new = await server.ask(client, content, sampling, n, seed, bool(others))
                except RefusedError as e:
                    self._count_refusal(server, str(e))
                    return found + [Answer("", failed=f"refused: {e}")] * n
                except PassingError as e:
                    failure = e
                else:
                    if self.journal is not None:
                        self.journal.add(key, new)
                    found += new
                    failed_at, tries, self._failed, self._answered = [], 0, 0, True
                    continue
            if failure.limited and server.wait_together(failure.wait):
                continue
            failed_at.append(server)
            if self._answering(failed_at):
                continue  # at another address, at once
            failed_at = []
            tries += 1
            if tries < self._patience.tries:
                asked = min(failure.wait or 0.0, self._patience.asked)
                await asyncio.sleep(max(self._patience.before(tries), asked))
                continue
            self._count_failure(server, failure.reason)
            reason = f"{failure.reason} ({tries} tries)"
            kind = "unanswered" if self.drop_unanswered else "endpoint"
            return found + [Answer("", failed=f"{kind}: {reason}", again=not self.drop_unanswered)] * n
        return found

    def _count_failure(self, server: Server, reason: str) -> None:
        self._failed += 1
        if 0 < self.give_up_after <= self._failed:
            raise UnfinishedError(
                f"model.url: {server.url}: server unreachable: {reason} ({self._failed} queries in a row); "
                "what has come is kept; the same command goes on"
            )

    def _count_refusal(self, server: Server, reason: str) -> None:
        self._refused += 1
        if not self._answered and 0 < self.give_up_after <= self._refused:
            raise UnfinishedError(
                f"model.url: {server.url}: the server refused all of the first {self._refused} queries: "
                f"{reason}; once that is mended, the same command goes on"
            )

    def _key(self, query: Query, sampling: Sampling) -> str:
        """A digest of all that the answers of a query depend on. The address is none of it."""
        asked = [*self._asked_with, query.item_id, query.image, query.crop, query.prompt, asdict(sampling)]
        return hashlib.blake2b(json.dumps(asked, default=str).encode(), digest_size=16).hexdigest()

    def _content(self, query: Query) -> list[Mapping[str, Any]]:
        return _content(pictures_of(query, self.load_image(query.image)), query.prompt)

    # --- several addresses ------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def _place(self, failed_at: Sequence[Server]) -> AsyncIterator[Server]:
        """The address that is to be asked next, once it has a place for one more request; another one than
        those at which the query has failed.
        """
        async with self._requests:
            while (server := self._next(failed_at)) is None:
                await self._requests.wait()
            server.outstanding += 1
        try:
            yield server
        finally:
            server.outstanding -= 1
            async with self._requests:
                self._requests.notify_all()

    def _next(self, failed_at: Sequence[Server]) -> Server | None:
        """The one with the fewest requests; of those that do not answer, one that has rested, for one
        question. None when all places are taken.
        """
        answering = self._answering(failed_at) or self._answering()
        answering = [server for server in answering if not server.waits] or answering
        free = [server for server in answering or self.servers if server.outstanding < self.concurrency]
        if answering:
            sick = (server for server in self.servers if not server.answers and server not in failed_at)
            free += [server for server in sick if server.outstanding == 0 and not server.rests]
        return min(free, key=lambda server: server.outstanding, default=None)

    def _answering(self, without: Sequence[Server] = ()) -> list[Server]:
        """The addresses that answer."""
        return [server for server in self.servers if server.answers and server not in without]


class _Loop:
    """One event loop with one client for all calls that are under way, in a thread of its own: begun by the
    first of them, ended by the last.
    """

    def __init__(self, client: Callable[[], Coroutine[Any, Any, httpx.AsyncClient]]) -> None:
        self._client, self._lock = client, threading.Lock()
        self._calls: set[Future[Any]] = set()
        self._users = 0
        self._thread: threading.Thread | None = None

    def run(self, work: Callable[[httpx.AsyncClient], Coroutine[Any, Any, T]]) -> T:
        """The result of some work, or what it raises. CancelledError when `stop` is called meanwhile."""
        with self._lock:
            if not self._users:
                self._begin()
            self._users += 1
            call = asyncio.run_coroutine_threadsafe(work(self._http), self._loop)
            self._calls.add(call)
        try:
            return call.result()
        finally:
            call.cancel()
            with self._lock:
                self._calls.discard(call)
                self._users -= 1
                if not self._users:
                    self._end()

    def stop(self) -> None:
        """End all calls."""
        with self._lock:
            for call in self._calls:
                call.cancel()

    def _begin(self) -> None:
        begun = threading.Event()

        async def live() -> None:
            self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
            async with await self._client() as self._http:
                begun.set()
                await self._over.wait()

        self._thread = threading.Thread(target=asyncio.run, args=(live(),), daemon=True)
        self._thread.start()
        begun.wait()

    def _end(self) -> None:
        assert self._thread is not None
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join()


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
