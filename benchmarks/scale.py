"""Annotations of the size of Objects365 (1.7 M images, 25 M boxes): `spr index` and `spr regions` as a user
starts them, each in its own process.

In: a folder for 8 GB of files (kept, so that a second run begins with the commands). Out: seconds and peak
memory of each; of `spr regions` also the seconds until its first shard is there, and its memory until then.
Pictures are not opened. Fifteen minutes; not a part of `make bench`.

    python -m benchmarks.scale FOLDER [IMAGES]
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from benchmarks.index import generate, peak_mb

IMAGES = 1_700_000
CHOSEN = 10_000


def measured(command: list[str], begun: Callable[[], bool]) -> dict[str, float]:
    """Seconds and peak MB of a command, and both at the moment when it has `begun`."""
    found: dict[str, float] = {}
    peak, start = 0.0, time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", "spr", *command], stderr=subprocess.DEVNULL)
    while process.poll() is None:
        peak = max(peak, peak_mb(process.pid))
        if "begins_after" not in found and begun():
            found |= {"begins_after": time.monotonic() - start, "peak_mb_then": peak}
        time.sleep(0.02)
    assert process.returncode == 0, command
    return {"seconds": time.monotonic() - start, "peak_mb": peak, **found}


def main(folder: Path, images: int) -> dict[str, Any]:
    """Make the files that are missing, run both commands, print."""
    folder.mkdir(parents=True, exist_ok=True)
    file, run, config = folder / f"{images}.json", folder / f"run-{images}", folder / f"{images}.yaml"
    if not file.exists():
        generate(images, file)
    settings = {
        "run": str(run),
        "data": {"format": "coco", "annotations": str(file), "images": str(folder)},
        "model": {"folder": "embedded:mllm"},
        "regions": {"max_images": CHOSEN, "verify": False},
    }
    config.write_text(yaml.safe_dump(settings))
    figures = {
        "index": measured(["index", str(config), "--overwrite", "index"], lambda: False),
        "regions": measured(["regions", str(config)], (run / "regions" / "part-00000.parquet").exists),
    }
    for name, values in figures.items():
        print(f"{images} images, spr {name}: " + ", ".join(f"{k} {v:.1f}" for k, v in values.items()))
    return figures


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else IMAGES)
