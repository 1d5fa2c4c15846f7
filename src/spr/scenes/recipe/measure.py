"""`python -m spr.scenes.recipe.measure`: are the three embedded checkpoints good enough? Printed and written
to `OUT` as JSON.

    mllm       REC accuracy on `val` by IoU threshold: greedy, and the best of 8 samples (the room that
               preference training has)
    clip       how often the right description of a crop is picked among 16
    owl        AP50 over the 64 nouns on `val` (pycocotools)

Everything is read through the ordinary readers and adapters; nothing here trains.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import track

from spr.boxes import from_xywh, iou, sanitize, to_xywh
from spr.data.images import open_store
from spr.dialects import get_dialect
from spr.errors import ConfigError, unknown_name
from spr.evaluation.metrics import accuracy_at_iou
from spr.models.clip import DualEncoderScorer
from spr.models.detector import OpenVocabularyDetector
from spr.models.hf_mllm import HFDescriber
from spr.scenes.embedded import CHECKPOINTS, checkpoint_folder, ensure_world, world_folder
from spr.scenes.files import SplitFiles
from spr.scenes.language import WHERE
from spr.stages.prompts import with_article
from spr.types import Box, Frame, Query, Sampling

THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9)


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def rec_accuracy(
    folder: str, files: SplitFiles, limit: int, samples: int = 8, adapter: str | None = None
) -> dict[str, dict[float, float | None]]:
    """Acc@t of greedy answers and of the best of `samples`."""
    dialect = get_dialect("florence2")
    describer = HFDescriber(folder, load_image=open_store(str(files.images)).load, adapter=adapter)
    coco = _read(files.expressions)
    items = list(zip(coco["images"], coco["annotations"], strict=True))[:limit]
    found: dict[str, list[float]] = {"greedy": [], "best": []}
    for start in track(range(0, len(items), 8), description="mllm"):
        part = items[start : start + 8]
        queries = [
            Query(
                str(i["id"]),
                i["file_name"],
                i["width"],
                i["height"],
                WHERE.format(expression=i["caption"]),
                group=str(start),
            )
            for i, _ in part
        ]
        for name, sampling in {
            "greedy": Sampling(1, 0.0, 1.0, 8),
            "best": Sampling(samples, 1.0, 0.95, 8),
        }.items():
            for (image, annotation), answers in zip(part, describer.answer(queries, sampling), strict=True):
                frame = Frame(image["width"], image["height"])
                truth: Box = tuple(from_xywh([annotation["bbox"]])[0].tolist())
                boxes = [
                    [b for m in dialect.parse(a.text, frame).mentions for b in m.boxes][:1] for a in answers
                ]
                found[name].append(max((iou(sanitize(b, frame), [truth]) for b in boxes if b), default=0.0))
    return {name: accuracy_at_iou(values, THRESHOLDS) for name, values in found.items()}


def clip_of_16(folder: str, files: SplitFiles, limit: int) -> float:
    """Share of crops whose own description has the highest cosine among 16."""
    scorer = DualEncoderScorer(folder, load_image=open_store(str(files.images)).load)
    rows = _read(files.folder / "descriptions.json")[:limit]
    right = total = 0
    for start in track(range(0, len(rows) - 15, 16), description="clip"):
        part = rows[start : start + 16]
        texts = [r["text"] for r in part]
        for k, row in enumerate(part):
            region: Box = tuple(from_xywh([row["region"]])[0].tolist())
            crop, _ = scorer.similarities(row["image"], [region], texts, [(0, t) for t in range(16)])
            same = [t for t in range(16) if texts[t] == texts[k]]
            right += int(np.argmax(crop)) in same
            total += 1
    return right / total


def owl_ap50(folder: str, files: SplitFiles, limit: int) -> float:
    """AP at IoU 0.5 over all nouns, by pycocotools."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    detector = OpenVocabularyDetector(folder, load_image=open_store(str(files.images)).load, threshold=0.02)
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(files.coco))
    names = {c["name"]: c["id"] for c in truth.dataset["categories"]}
    images = truth.dataset["images"][:limit]
    rows: list[dict[str, Any]] = []
    for image in track(images, description="owl"):
        for noun, found in zip(
            names, detector.detect(image["file_name"], [with_article(n) for n in names]), strict=True
        ):
            rows += [
                {
                    "image_id": image["id"],
                    "category_id": names[noun],
                    "bbox": to_xywh([d.box])[0].tolist(),
                    "score": d.score,
                }
                for d in found[:20]
            ]
    with contextlib.redirect_stdout(io.StringIO()):
        run = COCOeval(truth, truth.loadRes(rows), "bbox")
        run.params.imgIds = [i["id"] for i in images]
        run.evaluate()
        run.accumulate()
        run.summarize()
    return float(run.stats[1])


def measure(folder: str, kind: str, limit: int) -> dict[str, Any]:
    """The figures of a checkpoint on `val`. `kind`: mllm (or mllm_tight), clip, owl. Raises ConfigError for
    another one.
    """
    files = SplitFiles(world_folder() / "val", "val")
    ensure_world([str(files.coco)], lambda what, n: print(f"{what}: {n}"), lambda n: None, lambda: None)
    torch.set_num_threads(1)
    if kind in ("mllm", "mllm_tight"):
        return {
            name: {f"{t:g}": share for t, share in found.items()}
            for name, found in rec_accuracy(folder, files, limit).items()
        }
    if kind == "clip":
        return {"of_16": clip_of_16(folder, files, limit)}
    if kind == "owl":
        return {"ap50": owl_ap50(folder, files, limit // 2)}
    raise ConfigError(unknown_name("checkpoint", kind, CHECKPOINTS))


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoints", type=Path, default=checkpoint_folder("mllm").parent)
    parser.add_argument("--only", nargs="*", choices=CHECKPOINTS, default=CHECKPOINTS)
    parser.add_argument(
        "--limit", type=int, default=600, help="expressions, regions and half as many images, at most"
    )
    parser.add_argument("--out", type=Path)
    args = parser.parse_args(arguments)
    figures = {name: measure(str(args.checkpoints / name), name, args.limit) for name in args.only}
    print(json.dumps(figures, indent=2))
    if args.out:
        args.out.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
