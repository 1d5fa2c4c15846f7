"""`make bench`: run every benchmark, print its table, collect benchmarks/results.json.

    python -m benchmarks [PART ...]

Each part is written when it is finished, with its date; the others stay as they are.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks import describe, dialects, scoring, training
from spr.store.identity import versions

OUT = Path(__file__).with_name("results.json")
PARTS: Mapping[str, Callable[[], dict[str, Any]]] = {
    "dialects": dialects.run,
    "training": training.run,
    "scoring": scoring.run,
    "describe": describe.run,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    # []: what argparse of Python 3.11 looks for among the choices where no part is named
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], metavar="PART")
    for part in parser.parse_args().parts or PARTS:
        begin = time.monotonic()
        figures = PARTS[part]()
        where = {"date": time.strftime("%Y-%m-%d"), "seconds": round(time.monotonic() - begin)}
        machine = {"machine": platform.machine(), "cores": os.cpu_count(), "versions": versions()}
        results = json.loads(OUT.read_text(encoding="utf-8")) if OUT.exists() else {}
        results[part] = {**where, **machine, "figures": figures}
        OUT.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
        print(f"written: {part} in {OUT.name}\n", flush=True)


if __name__ == "__main__":
    main()
