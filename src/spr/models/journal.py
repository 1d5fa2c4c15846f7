"""A server's answers on disk as they come, so that a killed run asks for none of them again.

In: a key per query (everything the answer depends on) and the answers that have come so far. Out: those of
this process and of earlier ones. Each process appends to a file of its own, a line per reply: its digest, a
blank, JSON in ASCII. A line whose digest is not its own (cut by a kill, damaged) is as if it had not come. A
stage that is finished needs no journal: it is removed then.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from spr.store.digests import digest
from spr.types import Answer

log = logging.getLogger(__name__)
_DIGITS = 16  # of the digest
_REPLY = msgspec.json.Decoder(tuple[str, list[tuple[str, bool, str | None, str | None]]])


class Journal:
    """The journal in a local folder. Answers may be added by several threads."""

    def __init__(self, folder: str | Path) -> None:
        self._folder = Path(folder)
        self._folder.mkdir(parents=True, exist_ok=True)
        # files sort by time, so answers keep their order
        self._own = self._folder / f"{time.time_ns()}-{os.getpid()}.jsonl"
        self._lock = threading.Lock()
        self._found: dict[str, list[Answer]] = {}
        damaged = sum(self._read(path) for path in sorted(self._folder.glob("*.jsonl")))
        if damaged:
            log.warning("%s: %d damaged lines: their answers are asked for again", folder, damaged)

    def _read(self, path: Path) -> int:
        """Take the answers of a file; how many of its lines are damaged (the last one may be cut)."""
        damaged = 0
        *lines, _cut = path.read_bytes().split(b"\n")
        for line in lines:
            sum_, _, data = line.partition(b" ")
            if sum_ != digest(data)[:_DIGITS].encode():
                damaged += 1
                continue
            try:
                key, answers = _REPLY.decode(data)
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):  # of another version
                damaged += 1
                continue
            self._found.setdefault(key, []).extend(
                Answer(text, stopped, failed, cause=cause) for text, stopped, failed, cause in answers
            )
        return damaged

    def answers(self, key: str) -> list[Answer]:
        """The answers of earlier processes, in the order in which they came."""
        return list(self._found.get(key, ()))

    def add(self, key: str, answers: Sequence[Answer]) -> None:
        """Write down answers that have just come."""
        data = json.dumps([key, [[a.text, a.stopped, a.failed, a.cause] for a in answers]]).encode("ascii")
        with self._lock, self._own.open("ab") as f:
            f.write(digest(data)[:_DIGITS].encode() + b" " + data + b"\n")
