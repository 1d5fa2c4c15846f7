"""What the two fuzz commands share: numbered blocks of cases, each a function of (seed, block, corpus) and of
the code that is tried. A finished block is a line of runs/fuzz/<name>-<seed>-<corpus>-<code>.jsonl: a run
that was stopped goes on where it stood, and a larger --count only adds blocks.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any, TypeAlias

from rich.console import Console
from rich.progress import track

from benchmarks.resume import code_digest, read_log

SHOWN = 5  # failures of a block that are kept
Block: TypeAlias = Callable[[int, int], tuple[Mapping[str, int], list[str]]]


def drive(about: str, name: str, corpus: str, block: Block, size: int, count: int) -> None:
    """Run the blocks that are missing, print how many cases each kind had and what failed, and exit with 1
    where anything did. `block(number, seed)` gives (cases by kind, failures); `count`: cases by default.
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=count, help="cases in all, with those of earlier runs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=multiprocessing.cpu_count())
    parser.add_argument("--out", type=Path, default=Path("runs/fuzz"))
    args = parser.parse_args()
    log = args.out / f"{name}-{args.seed}-{corpus}-{code_digest('fuzz*.py')}.jsonl"
    found = {row["block"]: row for row in read_log(log)}
    blocks = math.ceil(args.count / size)
    left = [k for k in range(blocks) if k not in found]
    begin = time.monotonic()
    with (
        ProcessPoolExecutor(args.processes, multiprocessing.get_context("spawn")) as pool,
        log.open("a", encoding="utf-8") as f,
    ):
        results = as_completed([pool.submit(_row, block, args.seed, number) for number in left])
        shown = track(results, f"{name}: blocks of {size:,}", total=len(left), console=Console(stderr=True))
        for row in (result.result() for result in shown):
            found[row["block"]] = row
            f.write(json.dumps(row) + "\n")
            f.flush()
    rows = [found[k] for k in range(blocks)]
    cases = sum((Counter(row["cases"]) for row in rows), Counter[str]())
    failed = sum(row["failed"] for row in rows)
    for kind, n in sorted(cases.items()):
        print(f"{kind:24} {n:>10,}")
    took = time.monotonic() - begin
    print(
        f"{'all':24} {cases.total():>10,} cases, {len(left)} of {blocks} blocks now in {took:.0f} s; "
        f"seed {args.seed}, corpus {corpus}, {log}"
    )
    print(f"{failed} failures")
    print("\n".join(failure for row in rows for failure in row["failures"]))
    sys.exit(1 if failed else 0)


def _row(block: Block, seed: int, number: int) -> dict[str, Any]:
    cases, failures = block(number, seed)
    return {"block": number, "cases": cases, "failed": len(failures), "failures": failures[:SHOWN]}
