"""A LoRA adapter at a server that can load one while it runs (vLLM, SGLang), asked for by its name.

The name holds the digest of the adapter's files, so that a server that has the name has these weights. The
server reads the folder itself: it must see it under the same path.
Sources: vLLM, features/lora (VLLM_ALLOW_RUNTIME_LORA_UPDATING); SGLang, advanced_features/lora.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from spr.errors import ConfigError
from spr.models.replies import RETRIED, PassingError
from spr.models.weights import adapter_digest

LOADERS: Mapping[str, str] = {"vllm": "/v1/load_lora_adapter", "sglang": "/load_lora_adapter"}
_START: Mapping[str, str] = {
    "vllm": "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True vllm serve … --enable-lora --max-lora-rank R",
    "sglang": "--enable-lora --max-lora-rank R --lora-target-modules all",
}


def check_takes_adapters(server: str) -> None:
    """Raise ConfigError for a server that cannot be given an adapter."""
    if server not in LOADERS:
        raise ConfigError(
            f"model.server: found {server!r} with an adapter, which it cannot load; expected vllm or sglang, "
            "or --models base, or a server of the weights that `spr train --merge DIR` writes"
        )


@dataclass(frozen=True, slots=True)
class ServedAdapter:
    """The adapter in `folder`, for a `server` of the model `base`. Raises ConfigError for a server that takes
    none.
    """

    server: str
    base: str
    folder: str
    name: str

    @classmethod
    def of(cls, server: str, base: str, folder: str) -> ServedAdapter:
        """The adapter under the name that its files give. Raises ConfigError when the folder holds none."""
        check_takes_adapters(server)
        return cls(server, base, folder, f"spr-{adapter_digest(folder).removeprefix('sha256:')[:16]}")

    @property
    def model(self) -> str:
        """What a request names as its model."""
        return f"{self.base}:{self.name}" if self.server == "sglang" else self.name

    async def load(self, client: httpx.AsyncClient, url: str, headers: Mapping[str, str]) -> None:
        """Have the server at `url` (ending in /v1) load it, unless it has it. Raises PassingError,
        ConfigError.
        """
        models = await _said(client.get(f"{url}/models", headers=dict(headers)))
        if models.is_success and self.name in models.text:
            return
        asked = {"lora_name": self.name, "lora_path": self.folder}
        place = _loader(self.server, url)
        reply = await _said(client.post(place, json=asked, headers=dict(headers)))
        if reply.status_code in RETRIED and reply.status_code != 500:
            raise PassingError(f"status {reply.status_code}")
        said = " ".join(reply.text.split())[:200]
        if (reply.is_success and not _failed(reply)) or "already" in said:
            return
        raise ConfigError(
            f"model.url: the server at {url} does not load the adapter {self.folder} (status "
            f"{reply.status_code}: {said}); it must see this folder, and be started with "
            f"{_START[self.server]}; or give it the adapter at its start, under the name {self.name}"
        )


async def check_loads(client: httpx.AsyncClient, server: str, url: str, headers: Mapping[str, str]) -> None:
    """Raise ConfigError for a kind of server that cannot be given an adapter, and where the one at `url` has
    no place to load any. It is given none, which any other server refuses.
    """
    check_takes_adapters(server)
    with contextlib.suppress(PassingError):  # that is for those who ask it questions
        reply = await _said(client.post(_loader(server, url), json={}, headers=dict(headers)))
        if reply.status_code in (404, 405) or "not enabled" in reply.text:
            raise ConfigError(
                f"model.url: the server at {url} loads no adapters while it runs (status "
                f"{reply.status_code}), and would be asked with the ones that are trained; expected one that "
                f"is started with {_START[server]}, or --until pair"
            )


def _loader(server: str, url: str) -> str:
    return url.removesuffix("/v1") + LOADERS[server]


def _failed(reply: httpx.Response) -> bool:
    """SGLang says some failures with status 200."""
    try:
        value: Any = reply.json()
    except ValueError:
        return False
    return isinstance(value, dict) and value.get("success") is False


async def _said(request: Any) -> httpx.Response:
    try:
        response: httpx.Response = await request
    except httpx.TimeoutException:
        raise PassingError("timeout") from None
    except httpx.HTTPError as e:
        raise PassingError(f"connection: {type(e).__name__}") from None
    return response
