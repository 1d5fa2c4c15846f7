"""One address of an OpenAI-compatible server: which fields it takes, how long it wants us to wait, whether it
answers. Each address has all of this to itself; who asks which one is for spr.models.openai_endpoint.

In: a question and its sampling. Out: answers, or PassingError (worth another try), RefusedError (this
question gets none), ConfigError (no question of this run can get one).
The API key is read from the environment when a request is made; it is in no attribute, message or file.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

from spr.errors import ConfigError
from spr.models.fields import BLIND, LIMITS, Fields, lost, may_be_about_fields, named, without
from spr.models.replies import MAX_BYTES, RETRIED, PassingError, RefusedError, read_answers
from spr.models.served_adapter import ServedAdapter, check_loads
from spr.types import Answer, Sampling

log = logging.getLogger(__name__)
IN_VAIN = 3  # ours: questions about fields that may be no help before no more are asked
LEFT_OUT_AFTER = 3  # ours: failures in a row after which an address is left out while another one answers


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

    def before(self, tries: int) -> float:
        """Seconds before another try, longer each time, not all at the same moment."""
        return min(self.pause * 2.0 ** min(tries - 1, 30), self.longest) * random.uniform(0.75, 1.25)


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


class Server:
    """The server of a `kind` (spr.models.fields.SERVERS) at `url` (ending in /v1). Raises ConfigError for
    what is no address. Used in one event loop at a time.
    """

    def __init__(
        self,
        url: str,
        model: str,
        kind: str,
        fields: Fields,
        patience: Patience,
        api_key_env: str = "",
        adapter: ServedAdapter | None = None,
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise ConfigError(f"model.url: found {url!r}, expected http://… or https://…")
        self.base = url.rstrip("/")
        self.url = self.base + "/chat/completions"
        self.kind = kind
        self._model, self._fields, self._patience, self._key_env = model, fields, patience, api_key_env
        self._adapter, self._has_adapter = adapter, False
        self.outstanding = 0  # requests
        self.failed = 0  # requests in a row
        self._rests_until = 0.0  # time.monotonic()
        self._answered = False  # anything
        self._told_of_trouble = False
        self._vain, self._tried_blind = 0, False
        self._go_on_at = 0.0  # time.monotonic() until which all its queries wait
        self._limited_since: float | None = None
        self._waves = 0  # waits in a row because of 429
        self.renew()

    def renew(self) -> None:
        """From now on in another event loop."""
        self._one_at_a_time, self._loading = asyncio.Lock(), asyncio.Lock()

    # --- whom to ask ------------------------------------------------------------------------------

    @property
    def answers(self) -> bool:
        """Whether it is one to count on."""
        return self.failed < LEFT_OUT_AFTER

    @property
    def rests(self) -> bool:
        """Whether it is not to be asked now, where another one can be."""
        return time.monotonic() < self._rests_until

    @property
    def waits(self) -> bool:
        """Whether it wants no request now."""
        return time.monotonic() < self._go_on_at

    def _has_failed(self, reason: str, others: bool) -> None:
        self.failed += 1
        if self.failed >= 2 and not self._told_of_trouble:
            self._told_of_trouble = True
            what = "left out while the others answer" if others else "trying again"
            log.warning("%s: %s: %s", self.url, reason, what)
        if not self.answers:
            self._rests_until = time.monotonic() + self._patience.before(self.failed - LEFT_OUT_AFTER + 1)

    def _has_answered(self) -> None:
        self._rests_until, self.failed, self._waves = 0.0, 0, 0
        self._answered, self._told_of_trouble, self._limited_since = True, False, None

    # --- one question -----------------------------------------------------------------------------

    async def ask(
        self,
        client: httpx.AsyncClient,
        content: Sequence[Mapping[str, Any]],
        sampling: Sampling,
        n: int,
        seed: int,
        others: bool = False,
    ) -> list[Answer]:
        """At most `n` answers, once the server wants to be asked. `others`: there are further addresses."""
        await self._wait_for_all()
        message = {"model": self._model, "messages": [{"role": "user", "content": content}]}
        try:
            await self._load_adapter(client)
            body = {**message, **self._fields.of(sampling, n, seed)}
            found = (await self._with_fields(client, body))[:n]
        except PassingError as e:
            if not e.limited:
                self._has_failed(e.reason, others)
            raise
        except RefusedError:
            self.failed = 0
            raise
        self._has_answered()
        return found

    def wait_together(self, asked: float | None) -> bool:
        """Hold back all queries because the server wants it. False when it has wanted nothing else for too
        long.
        """
        now = time.monotonic()
        if self._limited_since is None:
            self._limited_since = now
            log.warning("%s: the server limits the rate of requests: waiting as it wants", self.url)
        if now - self._limited_since > self._patience.limited:
            return False
        if now >= self._go_on_at:
            self._waves += 1
        own = min(self._patience.pause * 2 ** min(self._waves - 1, 10), self._patience.longest)
        wait = own if asked is None else min(asked, self._patience.asked)
        self._go_on_at = max(self._go_on_at, now + wait)
        return True

    async def _wait_for_all(self) -> None:
        while (left := self._go_on_at - time.monotonic()) > 0:
            await asyncio.sleep(left + random.uniform(0, max(left / 2, self._patience.pause / 4)))

    async def _load_adapter(self, client: httpx.AsyncClient) -> None:
        if self._adapter is None or self._has_adapter:
            return
        async with self._loading:
            if not self._has_adapter:
                try:
                    await self._adapter.load(client, self.base, self._headers())
                except ConfigError as e:
                    raise ConfigError(self._without_key(str(e))) from None
                self._has_adapter = True

    async def check_loads_adapters(self, client: httpx.AsyncClient) -> None:
        """Raise ConfigError where it loads no adapters while it runs, as far as it says so."""
        await check_loads(client, self.kind, self.base, self._headers())

    # --- fields -----------------------------------------------------------------------------------

    async def _with_fields(self, client: httpx.AsyncClient, body: dict[str, Any]) -> list[Answer]:
        """The choices of one request, without the fields that the server does not take."""
        try:
            return await self._post(client, body)
        except RefusedError as e:
            refusal = e
        async with self._one_at_a_time:
            if self._fields.left_out & body.keys():  # found out for another query in the meantime
                return await self._post(client, without(body, self._fields.left_out))
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
            self._fields.left_out |= set(out)
            log.warning("%s: the server refuses fields, which are left out (%s)", self.url, lost(out))
            return answers
        self._vain += bool(out)
        raise refusal

    # --- one request ------------------------------------------------------------------------------

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
            name = f"the key in {self._key_env}" if self._key_env else "a request without key"
            empty = "" if self._key_env else " (model.api_key_env is empty)"
            raise ConfigError(f"model.url: the server refuses {name}{empty} (status {status})")
        if status == 404 and self._adapter is not None:  # it was loaded: the server was started again
            self._has_adapter = False
            return PassingError("status 404 (the adapter is gone)")
        if status == 404:
            raise ConfigError(
                f"model.served_name: the server at {self.url} knows no model {self._model!r} (status 404)"
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
        return {"Authorization": f"Bearer {os.environ[self._key_env]}"} if self._key_env else {}

    def _without_key(self, text: str) -> str:
        key = os.environ.get(self._key_env, "") if self._key_env else ""
        return text.replace(key, "[key]") if key else text
