"""A Ray cluster of two nodes on this machine, in a process of its own: `with two_nodes() as cluster`.

Ray warns and logs as it likes; here that is not the test's process.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

REPO = Path(__file__).parents[2]


@dataclass(frozen=True)
class TwoNodes:
    """Address, and the process of each node that starts its workers: the head's, the other's."""

    address: str
    head: int
    other: int
    process: subprocess.Popen[str]

    def at_work(self, node: int) -> list[psutil.Process]:
        """The actors of a node that work on a task right now."""
        with contextlib.suppress(psutil.Error):  # the node, or one of them, is gone by now
            children = psutil.Process(node).children(recursive=True)
            return [process for process in children if process.cmdline()[:1] == ["ray::_Hand.do"]]
        return []

    def remove_other(self) -> None:
        """The second node is gone, with all that runs on it."""
        assert self.process.stdin is not None
        self.process.stdin.write("remove\n")
        self.process.stdin.flush()


@contextlib.contextmanager
def two_nodes(log: Path) -> Iterator[TwoNodes]:
    """A head and one more node, with one core each."""
    with (
        log.open("w") as said,
        subprocess.Popen(
            [sys.executable, "-m", "tests.support.cluster"],
            cwd=REPO,
            env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
        ) as process,
    ):
        assert process.stdout is not None
        assert process.stdin is not None
        try:
            line = next((line for line in process.stdout if line.startswith("{")), "")
            assert line, log.read_text()
            yield TwoNodes(process=process, **json.loads(line))
        finally:
            process.stdin.close()  # which ends it
            process.wait(60)


def main() -> None:
    """Start the nodes, say where, remove one when told to, and end with the input."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    other = cluster.add_node(num_cpus=1)
    pids = [node.all_processes["raylet"][0].process.pid for node in (cluster.head_node, other)]
    print(json.dumps({"address": cluster.address, "head": pids[0], "other": pids[1]}), flush=True)
    for line in sys.stdin:
        if line.strip() == "remove":
            cluster.remove_node(other, allow_graceful=False)
    cluster.shutdown()


if __name__ == "__main__":
    main()
