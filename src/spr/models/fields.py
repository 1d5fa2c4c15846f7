"""The fields of a request for a chat completion, and which of them a server refuses.

Every server of this form takes `model`, `messages` and a limit of tokens. The others are sent because
sampling depends on them; one that a server refuses is left out after one question, and said so.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from spr.errors import ConfigError
from spr.types import Sampling

SERVERS = ("vllm", "sglang", "transformers", "other")
# What these leave at the checkpoint's generation_config unless it is sent (Qwen2-VL: top_k 1, so that all
# samples were equal), and the tags that boxes are made of.
ENGINE = {"skip_special_tokens": False, "top_k": -1, "repetition_penalty": 1.0}
OWN = ("model", "messages", "stream", "n", "seed", "temperature", "top_p", "max_tokens")
LIMITS = ("max_tokens", "max_completion_tokens")
# what is lost without a field
LOST: Mapping[str, str] = {
    "n": "samples are asked for one at a time",
    "seed": "samples cannot be told apart by their seed",
    "top_p": "the server's own top_p holds",
    "temperature": "the server's own temperature holds, in the evaluation too",
    "max_tokens": "max_completion_tokens is sent in its place",
    "skip_special_tokens": "the server may strip the tags that boxes are made of",
    "top_k": "the checkpoint's own top_k may hold",
    "repetition_penalty": "the checkpoint's own repetition_penalty may hold",
    "generation_config": "the server samples as it likes",
}
# in these steps fields are left out for a server that does not say which one it means
BLIND = (
    ("n", "seed", "top_p", "skip_special_tokens", "top_k", "repetition_penalty", "generation_config"),
    ("temperature", "max_tokens"),
)
_UNKNOWN = re.compile(
    r"unsupported|not support|unknown|unrecogni[sz]ed|not permitted|unexpected|extra|not allowed|forbidden"
    r"|only the default|invalid (?:param|field|arg)|max_completion_tokens|unavailable|not available",
    re.IGNORECASE,
)
_ABOUT_FIELDS = re.compile(r"param|field|argument|schema|validat|invalid.request|bad.request", re.IGNORECASE)
_ABOUT_THE_QUESTION = re.compile(r"context|length|image|prompt|too (?:large|long)|content", re.IGNORECASE)
_N = re.compile(
    r"""["'`]n["'`]|\bn\s*(?:[>=!]|must|should|is\b|has\b)|only one (?:completion )?choice"""
    r"|multiple (?:choices|completions)",
    re.IGNORECASE,
)


def check_extra_body(extra: Mapping[str, Any]) -> None:
    """Raise ConfigError for a field that other options say."""
    for name in extra:
        if name in (*OWN, "max_completion_tokens"):
            raise ConfigError(
                f"model.extra_body: found {name!r}, expected fields that no other option says (describe.*, "
                "model.served_name)"
            )


class Fields:
    """The fields of requests to one server."""

    def __init__(
        self, server: str, extra_body: Mapping[str, Any], chat_template_kwargs: Mapping[str, Any]
    ) -> None:
        template = {"chat_template_kwargs": dict(chat_template_kwargs)} if chat_template_kwargs else {}
        engine = ENGINE if server in ("vllm", "sglang") else {}
        self._server, self._own = server, {**template, **extra_body}
        self._engine = {name: value for name, value in engine.items() if name not in self._own}
        self.left_out: frozenset[str] = frozenset()

    def of(self, sampling: Sampling, n: int, seed: int) -> dict[str, Any]:
        """All fields but `model` and `messages`."""
        body: dict[str, Any] = {
            "max_tokens": sampling.max_new_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "seed": seed,
        }
        if self._server == "transformers":  # it draws only when its own settings say so
            drawn = (
                {"temperature": sampling.temperature, "top_p": sampling.top_p} if sampling.temperature else {}
            )
            settings = {"do_sample": bool(drawn), **drawn, "max_new_tokens": sampling.max_new_tokens}
            body["generation_config"] = json.dumps(settings)
        body |= ({"n": n} if n > 1 else {}) | self._engine
        return without(body, self.left_out) | self._own


def without(body: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    """A request without some fields. The limit of tokens is not left out but goes by its other name."""
    kept = {name: value for name, value in body.items() if name not in names}
    if LIMITS[0] in names and LIMITS[0] in body:
        kept[LIMITS[1]] = body[LIMITS[0]]
    return kept


def named(said: str, body: Mapping[str, Any]) -> list[str]:
    """Which of our fields in `body` a server's refusal names as ones that it does not take."""
    unknown = _UNKNOWN.search(said) is not None
    found = [
        name
        for name in LOST
        if name in body and name != "n" and unknown and re.search(rf"(?<![A-Za-z_]){name}(?![A-Za-z_])", said)
    ]
    return [*(["n"] if "n" in body and _N.search(said) else []), *found]


def may_be_about_fields(said: str) -> bool:
    """Whether a refusal that names no field of ours may be about one, and not about the question."""
    if _ABOUT_THE_QUESTION.search(said):
        return False
    return len(said.strip(' {}\n"')) < 3 or _ABOUT_FIELDS.search(said) is not None


def lost(names: Sequence[str]) -> str:
    """What it means that these fields are left out, for people."""
    return "; ".join(f"{name}: {LOST[name]}" for name in names)
