"""`make bench`: run every benchmark, print its table, collect benchmarks/results.json."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks import describe, dialects, scoring, training


def main() -> None:
    results = {
        "dialects": dialects.run(),
        "training": training.run(),
        "scoring": scoring.run(),
        "describe": describe.run(),
    }
    out = Path(__file__).with_name("results.json")
    out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    print(f"written: {out.name}")


if __name__ == "__main__":
    main()
