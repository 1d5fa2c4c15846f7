"""What a server that speaks chat completions says: the bytes of a reply -> answers, or why there are none.

Servers differ: `content` is a text, a list of parts or null beside `reasoning_content`; `finish_reason` may
be missing; an error may come with status 200. All of that is read. A reply of more than MAX_BYTES, or nested
without bound, is refused.
"""

from __future__ import annotations

import json
import re
from typing import Any

from spr.types import Answer

MAX_BYTES = 16 << 20  # ours: an answer of a million tokens has a quarter of it
RETRIED = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})  # may pass
# finish_reason of an answer that was not written to its end (vLLM: abort)
BROKEN_OFF = ("abort", "error")
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")  # half of a letter: no file can hold it
THINKING = "cut while thinking (model.chat_template_kwargs: {enable_thinking: false}, or more max_new_tokens)"


class PassingError(Exception):
    """A request that is worth another try. `wait` is what the server asked for, in seconds; `limited`: it
    asked for patience, nothing is wrong.
    """

    def __init__(self, reason: str, wait: float | None = None, limited: bool = False) -> None:
        super().__init__(reason)
        self.reason, self.wait, self.limited = reason, wait, limited


class RefusedError(Exception):
    """The server understood a request and will not answer it. `status` of its reply; `said`: its words."""

    def __init__(self, reason: str, status: int = 200, said: str = "") -> None:
        super().__init__(reason)
        self.status, self.said = status, said


def read_answers(data: bytes, limit: int) -> list[Answer]:
    """The answers in a reply to a request for at most `limit` tokens. Raises PassingError when it holds
    anything else, RefusedError when it can hold none.
    """
    try:
        value = json.loads(data)
    except RecursionError:
        raise RefusedError("the server's reply is nested too deeply") from None
    except ValueError:
        raise PassingError("garbage: the server's answer is no chat completion") from None
    choices = value.get("choices") if isinstance(value, dict) else None
    if not isinstance(choices, list):
        raise _error_inside(value)
    used = value["usage"].get("completion_tokens") if isinstance(value.get("usage"), dict) else None
    full = len(choices) == 1 and isinstance(used, int) and used >= limit
    whole = [answer for choice in choices if (answer := _answer(choice, full)) is not None]
    if not whole:
        raise PassingError("half answer: no choice is whole")
    return whole


def _error_inside(value: Any) -> Exception:
    """Gateways say some errors with status 200."""
    error = value.get("error") if isinstance(value, dict) else None
    if not error:
        return PassingError("garbage: the server's answer is no chat completion")
    code, said = (error.get("code"), error.get("message")) if isinstance(error, dict) else (None, error)
    if isinstance(code, int) and code in RETRIED:
        return PassingError(f"status {code}", limited=code == 429)
    return RefusedError(" ".join(str(said).split())[:200])


def _answer(choice: Any, full: bool) -> Answer | None:
    """The answer of a choice, or None when it is none. `full`: all tokens that it might have are written."""
    message = choice.get("message") if isinstance(choice, dict) else None
    finish = choice.get("finish_reason") if isinstance(choice, dict) else None
    if not isinstance(message, dict) or finish in BROKEN_OFF:
        return None
    thought = message.get("reasoning_content") or message.get("reasoning")
    text = _text(message.get("content"))
    if text is None or ("content" not in message and not thought):
        return None
    if finish == "content_filter":
        return Answer("", failed="filtered: the server's content filter took the answer")
    stopped = not full if finish is None else finish != "length"
    cause = None
    if not text and not stopped and isinstance(thought, str) and thought:
        text, cause = f"<think>{thought}", THINKING
    return Answer(_LONE_SURROGATE.sub("\ufffd", text).strip(), stopped, cause=cause)


def _text(content: Any) -> str | None:
    """The text of a message's content: itself, its parts of type text joined, "" for null; else None."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or not all(isinstance(part, dict | str) for part in content):
        return None
    parts = [part if isinstance(part, str) else _part(part) for part in content]
    return "".join(part for part in parts if isinstance(part, str))


def _part(part: dict[str, Any]) -> Any:
    """The text of a part; thoughts and pictures have none."""
    return part.get("text") if part.get("type") in ("text", "output_text", None) else ""
