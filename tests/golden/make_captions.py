"""Compute the golden tokens and CIDEr scores again with pycocoevalcap: `python -m
tests.golden.make_captions`. Look at the diff before committing it.

Needs Java and `pip install pycocoevalcap` (in another environment if you like: it brings 100 MB). The
captions stay; they were drawn once from a random grammar with typing errors.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


def tokens(captions: list[str]) -> list[str]:
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    found = PTBTokenizer().tokenize({k: [{"caption": c}] for k, c in enumerate(captions)})
    return [found[k][0] for k in range(len(captions))]


def scores(captions: list[list[str]], references: list[list[list[str]]]) -> list[float]:
    from pycocoevalcap.cider.cider import Cider

    truth = {k: [" ".join(r) for r in group] for k, group in enumerate(references)}
    _, found = Cider().compute_score(truth, {k: [" ".join(c)] for k, c in enumerate(captions)})
    return [float(s) for s in found]


def main() -> None:
    path = HERE / "ptb.json.gz"
    ptb: dict[str, Any] = json.loads(gzip.decompress(path.read_bytes()))
    ptb["tokens"] = tokens(ptb["captions"])
    with path.open("wb") as raw, gzip.GzipFile(fileobj=raw, mode="wb", mtime=0) as f:
        f.write(json.dumps(ptb, ensure_ascii=False).encode())
    path = HERE / "cider.json"
    golden: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    golden["scores"] = scores(golden["captions"], golden["references"])
    path.write_text(json.dumps(golden), encoding="utf-8")


if __name__ == "__main__":
    main()
