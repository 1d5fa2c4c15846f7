"""A function in a process of its own that starts at once: it is forked from a process that has imported the
package and has no threads yet. What the function does to its process (limits, SIGKILL) stays there.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection

IMPORTED = ["spr.cli", "spr.run.pipeline", "spr.training.trainer", "spr.models.hf_mllm", "tests.e2e.tools"]
LONG = 120.0  # seconds


def in_child(work: Callable[..., int], *arguments: object) -> tuple[int, str]:
    """The exit code that `work` returned (of one that was killed: minus the signal), and its stderr."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(IMPORTED)
    reader, writer = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(writer, work, arguments))
    process.start()
    writer.close()
    said = bytearray()
    while data := os.read(reader.fileno(), 65536):
        said += data
    process.join(LONG)
    assert process.exitcode is not None, f"still at work: {work.__name__} {arguments}"
    return process.exitcode, said.decode(errors="replace")


def _child(writer: Connection, work: Callable[..., int], arguments: tuple[object, ...]) -> None:
    os.dup2(writer.fileno(), 2)
    writer.close()
    sys.exit(work(*arguments))
