"""The tables of results.md again, from the answers alone: `python docs/results_table.py [runs/results]`.
Needs numpy and pyarrow.
"""

import json
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

RUN = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/results")
THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9)


def hits(files):
    """(items, thresholds) share of the seeds whose box reaches the threshold; an answer without a box reaches
    none.
    """
    ious = [
        [-1.0 if v is None else v for v in pq.read_table(RUN / f, columns=["iou"])["iou"].to_pylist()]
        for f in files
    ]
    return np.mean([np.greater_equal.outer(np.array(seed), THRESHOLDS) for seed in ious], axis=0)


for benchmark in ("test", "shifted"):
    rows = {r["row"]: r["answers"][benchmark] for r in json.loads((RUN / "rows.json").read_text())}
    images = pq.read_table(RUN / rows["base"][0], columns=["image"])["image"].to_pylist()
    number = {image: k for k, image in enumerate(dict.fromkeys(images))}
    at, n, rng = [number[i] for i in images], len(number), np.random.default_rng(0)
    # images, with replacement
    drawn = np.array([np.bincount(rng.integers(0, n, size=n), minlength=n) for _ in range(2000)])
    for name, files in rows.items():
        change = hits(files) - hits(rows["base"])
        sums = np.stack([np.bincount(at, weights=c, minlength=n) for c in change.T], axis=1)
        low, high = np.percentile(drawn @ sums / (drawn @ np.bincount(at))[:, None], [2.5, 97.5], axis=0)
        found = zip(hits(files).mean(0), change.mean(0), (low > 0) | (high < 0), strict=True)
        cells = [f"{100 * v:.1f} ({100 * c:+.1f}{'*' if s else ''})" for v, c, s in found]
        print(f"{benchmark:8} {name:20}", "  ".join(cells))
