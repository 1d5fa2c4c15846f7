"""Index: a COCO file of 200 k images and 3 M boxes, read by us and by pycocotools, each in its own process;
and 10 k regions drawn from the index.

Equality first: both sides hash every box of the smaller file. Then wall time, processor time and peak memory
of each side in turn, medians of `ROUNDS`; the same at 50 k images, to see how both grow. Memory is that of
the whole process, imports and all; times are without the imports. On a busy machine trust the processor
times. Files go to a temporary folder of about 1.5 GB.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

SIZES = (50_000, 200_000)  # images
BOXES = 15  # per image: Objects365 has 25 M boxes on 1.7 M images
CATEGORIES = 365
REGIONS = 10_000
ROUNDS = 3
SHARD = 256  # images asked for at once, as the stage does


def generate(images: int, file: Path) -> None:
    """Annotations of an image are spread over the file, as in the published ones."""
    rng = random.Random(images)
    with file.open("w") as f:
        f.write('{"info": {"year": 2026}, "images": [')
        rows: Iterable[str] = (
            f'{{"id": {n}, "file_name": "patch{n % 50}/{n:012d}.jpg", "width": 640, "height": 480}}'
            for n in range(images)
        )
        f.write(", ".join(rows))
        f.write('], "annotations": [')
        for n in range(images * BOXES):
            w, h = rng.uniform(4, 140), rng.uniform(4, 100)
            x, y = rng.uniform(0, 640 - w), rng.uniform(0, 480 - h)
            head = (
                f'{{"id": {n}, "image_id": {rng.randrange(images)}, "category_id": '
                f'{rng.randrange(CATEGORIES)}, "iscrowd": 0, "area": {w * h}'
            )
            f.write(f'{", " if n else ""}{head}, "bbox": [{x:.4f}, {y:.4f}, {w:.4f}, {h:.4f}]}}')
        f.write(
            '], "categories": ['
            + ", ".join(f'{{"id": {n}, "name": "category {n}"}}' for n in range(CATEGORIES))
            + "]}"
        )


def digest_of(images: Iterable[tuple[str, Iterable[tuple[str, float, float, float, float]]]]) -> str:
    """A hash of all boxes of all images."""
    hasher = hashlib.sha256()
    for path, boxes in images:
        hasher.update(repr((path, list(boxes))).encode())
    return hasher.hexdigest()


def ours(file: str, folder: str, compare: bool) -> dict[str, Any]:
    """Build the index; optionally hash what is in it."""
    from spr.data.config import DataConfig
    from spr.data.index import build_index, open_index

    start = _now()
    summary = build_index(DataConfig("coco", file, folder), f"{folder}/index")
    result = _figures(start) | {"boxes": summary.annotations}
    if compare:
        index = open_index(f"{folder}/index")
        ids = [i.image_id for i in index.images()]
        parts = (index.annotations_of(ids[n : n + SHARD]) for n in range(0, len(ids), SHARD))
        result["digest"] = digest_of(
            (i, [(a.category, *a.box) for a in part[i]]) for part in parts for i in sorted(part)
        )
    return result


def peer(file: str, folder: str, compare: bool) -> dict[str, Any]:
    """Load with pycocotools; optionally hash what it holds."""
    from pycocotools.coco import COCO

    start = _now()
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(file)
    result = _figures(start) | {"boxes": len(coco.anns)}
    if compare:
        names = {n: c["name"] for n, c in coco.cats.items()}
        rows = sorted((image["file_name"], n) for n, image in coco.imgs.items())

        def boxes(image: int) -> list[tuple[str, float, float, float, float]]:
            found = coco.imgToAnns[image]
            return [
                (names[a["category_id"]], x, y, x + w, y + h) for a in found for x, y, w, h in [a["bbox"]]
            ]

        result["digest"] = digest_of((path, boxes(n)) for path, n in rows)
    return result


def regions(file: str, folder: str, compare: bool) -> dict[str, Any]:
    """Draw `REGIONS` regions from the index."""
    from spr.data.index import open_index
    from spr.run.reading import ChosenImages
    from spr.stages.regions import RegionsConfig, draw_regions

    start = _now()
    config = RegionsConfig(max_images=REGIONS)
    index = open_index(f"{folder}/index")
    chosen = ChosenImages(index, "", config, 0)
    drawn = 0
    for begin in range(0, len(chosen), SHARD):
        part = chosen.batch(begin, min(begin + SHARD, len(chosen)))()
        found = index.annotations_of([i.image_id for i in part])
        drawn += sum(len(draw_regions(i, found[i.image_id], config, 0)[0]) for i in part)
    return _figures(start) | {"regions": drawn}


def _now() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def _figures(start: tuple[float, float]) -> dict[str, Any]:
    """Wall and processor time since `start`, and the peak memory of this process."""
    wall, cpu = _now()
    return {"seconds": wall - start[0], "cpu": cpu - start[1], "peak_mb": peak_mb()}


def peak_mb(process: int | str = "self") -> float:
    """The peak memory of a process so far, in MB; 0 of one that has ended."""
    with contextlib.suppress(OSError):
        status = Path(f"/proc/{process}/status").read_text()
        return sum(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM"))
    return 0.0


_WORK = {"ours": ours, "peer": peer, "regions": regions}


def _process(work: str, file: Path, folder: Path, compare: bool = False) -> dict[str, Any]:
    command = [
        sys.executable,
        "-m",
        "benchmarks.index",
        work,
        str(file),
        str(folder),
        *(["compare"] if compare else []),
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, cwd=Path(__file__).parent.parent
    )
    return dict(json.loads(done.stdout))


def _median(runs: list[dict[str, Any]]) -> dict[str, float]:
    return {
        name: round(statistics.median(r[name] for r in runs), 2) for name in ("seconds", "cpu", "peak_mb")
    }


def run() -> dict[str, Any]:
    """Print the table and return its numbers."""
    result: dict[str, Any] = {}
    print(f"{'COCO file':38} {'ours':>9} {'pycocotools':>12} {'ratio':>7} {'target':>8}")
    with tempfile.TemporaryDirectory(prefix="spr-bench-") as name:
        folder = Path(name)
        for size in SIZES:
            file = folder / f"{size}.json"
            generate(size, file)
            if size == SIZES[0]:
                hashes = {_process(work, file, folder, compare=True)["digest"] for work in ("ours", "peer")}
                assert len(hashes) == 1, "the two sides read different boxes"
            runs = [
                {work: _process(work, file, folder) for work in ("peer", "ours", "regions")}
                for _ in range(ROUNDS)
            ]
            assert all(
                r["peer"]["boxes"] == r["ours"]["boxes"] == size * BOXES
                and r["regions"]["regions"] == REGIONS
                for r in runs
            )
            result[str(size)] = _report(
                f"{size:,} images, {size * BOXES:,} boxes", {w: _median([r[w] for r in runs]) for w in _WORK}
            )
            file.unlink()
    small, large = (result[str(size)] for size in SIZES)
    print(f"{SIZES[0]:,} -> {SIZES[1]:,} images".ljust(38) + "grows by")
    growth: dict[str, Any] = {}
    for key, label in (("seconds", "wall time"), ("peak_mb", "peak memory")):
        growth[key] = {side: round(large[side][key] / small[side][key], 2) for side in ("ours", "peer")}
        print(f"  {label:36} {growth[key]['ours']:>8.2f}x {growth[key]['peer']:>11.2f}x")
    return {**result, "growth": growth}


def _report(title: str, figures: dict[str, dict[str, float]]) -> dict[str, Any]:
    mine, theirs, drawn = figures["ours"], figures["peer"], figures["regions"]
    rows = [
        ("load: wall s", mine["seconds"], theirs["seconds"], 0.5),
        ("load: processor s", mine["cpu"], theirs["cpu"], 0.5),
        ("load: peak memory MB", mine["peak_mb"], theirs["peak_mb"], 0.1),
        (f"{REGIONS:,} regions: wall s, of its load", drawn["seconds"], theirs["seconds"], 0.1),
        (f"{REGIONS:,} regions: processor s", drawn["cpu"], theirs["cpu"], 0.1),
    ]
    print(title)
    for label, a, b, target in rows:
        print(f"  {label:36} {a:>9.1f} {b:>12.1f} {a / b:>7.3f} <={target:.2f}")
    return figures | {"ratios": {label: round(a / b, 3) for label, a, b, _ in rows}}


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(_WORK[sys.argv[1]](sys.argv[2], sys.argv[3], "compare" in sys.argv[4:])))
    else:
        run()
