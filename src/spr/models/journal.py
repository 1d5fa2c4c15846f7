"""A server's answers on disk as they come, so that a killed run asks for none of them again.

In: a key per query (everything the answer depends on) and the answers that have come so far. Out: those of
this process and of earlier ones. Each process appends to a file of its own; a line that a kill cut is as if
it had not come. A stage that is finished needs no journal: it is removed then.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from spr.types import Answer


class Journal:
    """The journal in a local folder. Answers are added by several threads."""

    def __init__(self, folder: str | Path) -> None:
        self._folder = Path(folder)
        self._folder.mkdir(parents=True, exist_ok=True)
        # files sort by time, so answers keep their order
        self._own = self._folder / f"{time.time_ns()}-{os.getpid()}.jsonl"
        self._lock = threading.Lock()
        self._found: dict[str, list[Answer]] = {}
        for path in sorted(self._folder.glob("*.jsonl")):
            for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
                if line.endswith("\n"):
                    row = json.loads(line)
                    self._found.setdefault(row["key"], []).extend(
                        Answer(text, stopped) for text, stopped in row["answers"]
                    )

    def answers(self, key: str) -> list[Answer]:
        """The answers of earlier processes, in the order in which they came."""
        return list(self._found.get(key, ()))

    def add(self, key: str, answers: Sequence[Answer]) -> None:
        """Write down answers that have just come."""
        line = json.dumps({"key": key, "answers": [[a.text, a.stopped] for a in answers]}, ensure_ascii=False)
        with self._lock, self._own.open("a", encoding="utf-8") as f:
            f.write(line + "\n")
