"""The embedded world in the published forms of referring expressions; see `tests.support.benchmarks` for the
others.

In: a `World`, an empty folder. Out: files, field by field what the publishers write, down to a pickle of
Python 2.
"""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from spr.boxes import to_xywh
from spr.scenes.files import CATEGORY, image_name
from spr.scenes.language import expressions
from spr.scenes.world import NOUNS, Thing
from spr.types import Box

Scenes = Sequence[tuple[Thing, ...]]
Rows = list[dict[str, Any]]
SPLIT = "val"
SIZE = 224  # pixels of a side of every picture


@dataclass(frozen=True, slots=True)
class World:
    """Scenes with the folder of their images, and a seed for what is random about the questions."""

    scenes: Scenes
    images: Path
    seed: int = 0

    def rng(self, index: int, use: int) -> random.Random:
        """The random stream of one scene for one use."""
        return random.Random(f"{self.seed}/{index}/{use}")

    def absent(self, index: int, count: int) -> list[str]:
        """Nouns that are not in a scene."""
        here = {o.noun for o in self.scenes[index]}
        others = [n for n in NOUNS if n not in here]
        return self.rng(index, 1).sample(others, count)

    def refs(self) -> Iterator[tuple[int, Thing, list[str]]]:
        """(scene, object, its expressions), grouped by object as REFER does."""
        for i, objects in enumerate(self.scenes):
            grouped: dict[Box, tuple[Thing, list[str]]] = {}
            for expression, o in expressions(objects, 5, self.rng(i, 2)):
                grouped.setdefault(o.box, (o, []))[1].append(expression)
            yield from ((i, o, texts) for o, texts in grouped.values())


def plain_world(folder: Path, count: int) -> World:
    """`count` scenes of random objects; the pictures are plain, because nobody looks at them."""
    for i in range(count):
        Image.new("RGB", (SIZE, SIZE), (40 * i % 256, 90, 120)).save(folder / image_name(i))
    return World(tuple(_scene(np.random.default_rng([5, i])) for i in range(count)), folder)


def _scene(rng: np.random.Generator) -> tuple[Thing, ...]:
    """Five to seven objects on a grid, so that none overlap; some nouns twice."""
    names = list(NOUNS)
    cells = rng.permutation(9)[: int(rng.integers(5, 8))].tolist()
    found: list[Thing] = []
    for k, cell in enumerate(cells):
        x, y = 74 * (cell % 3) + int(rng.integers(0, 10)), 74 * (cell // 3) + int(rng.integers(0, 10))
        noun = found[-1].noun if k == 3 else names[int(rng.integers(len(names)))]
        found.append(
            Thing(
                noun, (float(x), float(y), x + float(rng.integers(20, 60)), y + float(rng.integers(20, 60)))
            )
        )
    return tuple(found)


def xywh(box: Box) -> list[float]:
    """A box in COCO's convention."""
    row: list[float] = to_xywh([box])[0].tolist()
    return row


def write_json(path: Path, value: object) -> None:
    """Write a JSON file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def write_lines(path: Path, rows: Rows) -> None:
    """Write a JSON-lines file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_parquet(path: Path, rows: Rows) -> None:
    """Write a Parquet file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)


def picture(world: World, index: int) -> dict[str, Any]:
    """A picture as the hub's files hold it."""
    return {"bytes": (world.images / image_name(index)).read_bytes(), "path": image_name(index)}


def instances(world: World) -> dict[str, Any]:
    """COCO instances; annotation ids count the objects of all scenes."""
    rows = [(i, o) for i, objects in enumerate(world.scenes) for o in objects]
    return {
        "info": {},
        "licenses": [],
        "images": [
            {"id": i, "file_name": image_name(i), "width": SIZE, "height": SIZE}
            for i in range(len(world.scenes))
        ],
        "annotations": [
            {
                "id": n,
                "image_id": i,
                "category_id": CATEGORY[o.noun],
                "bbox": xywh(o.box),
                "area": 1.0,
                "iscrowd": 0,
            }
            for n, (i, o) in enumerate(rows)
        ],
        "categories": [{"id": k, "name": noun, "supercategory": "thing"} for noun, k in CATEGORY.items()],
    }


def annotation_ids(world: World) -> dict[tuple[int, Box], int]:
    """The annotation id of each object in `instances`."""
    rows = [(i, o.box) for i, objects in enumerate(world.scenes) for o in objects]
    return {row: n for n, row in enumerate(rows)}


# --- REC ------------------------------------------------------------------------------------------


def python2_pickle(value: object) -> bytes:
    """A pickle as Python 2 wrote it (protocol 2, byte strings): lists, dicts, texts, integers."""

    def parts(v: object) -> bytes:
        if isinstance(v, str):
            data = v.encode()
            return (
                b"U" + bytes([len(data)]) + data
                if len(data) < 256
                else b"T" + struct.pack("<i", len(data)) + data
            )
        if isinstance(v, int):
            return b"J" + struct.pack("<i", v)
        if isinstance(v, Mapping):
            return b"}(" + b"".join(parts(k) + parts(x) for k, x in v.items()) + b"u"
        if isinstance(v, list):
            return b"](" + b"".join(parts(x) for x in v) + b"e"
        raise TypeError(f"no Python 2 pickle for {type(v).__name__}")

    return b"\x80\x02" + parts(value) + b"."


def write_refer(world: World, out: Path, dataset: str = "refcoco") -> Path:
    """`<out>/<dataset>/refs(unc).p` (umd for refcocog) and instances.json."""
    folder = out / dataset
    ids = annotation_ids(world)
    refs: Rows = []
    sent_id = 0
    for ref_id, (i, o, texts) in enumerate(world.refs()):
        sentences = [
            {"raw": t.upper(), "sent": t, "sent_id": sent_id + k, "tokens": t.split()}
            for k, t in enumerate(texts)
        ]
        sent_id += len(texts)
        refs.append(
            {
                "ref_id": ref_id,
                "ann_id": ids[i, o.box],
                "category_id": CATEGORY[o.noun],
                "image_id": i,
                "split": SPLIT,
                "sentences": sentences,
                "sent_ids": [s["sent_id"] for s in sentences],
                "file_name": f"{i:06d}_{ref_id}.jpg",
            }
        )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"refs({'umd' if dataset == 'refcocog' else 'unc'}).p").write_bytes(python2_pickle(refs))
    write_json(folder / "instances.json", instances(world))
    return folder


def write_mdetr(world: World, out: Path) -> Path:
    """finetune_refcoco_val.json."""
    images: Rows = []
    annotations: Rows = []
    for i, o, texts in world.refs():
        for text in texts:
            n = len(images)
            images.append(
                {
                    "id": n,
                    "file_name": image_name(i),
                    "width": SIZE,
                    "height": SIZE,
                    "original_id": i,
                    "caption": text,
                    "dataset_name": "refcoco",
                    "tokens_negative": [[0, len(text)]],
                }
            )
            annotations.append(
                {
                    "id": n,
                    "image_id": n,
                    "category_id": CATEGORY[o.noun],
                    "bbox": xywh(o.box),
                    "area": 1.0,
                    "iscrowd": 0,
                    "tokens_positive": [[0, len(text)]],
                }
            )
    path = out / "finetune_refcoco_val.json"
    write_json(
        path, {"info": [], "licenses": [], "images": images, "annotations": annotations, "categories": []}
    )
    return path


def write_jsonl(world: World, out: Path) -> tuple[Path, Path]:
    """refcoco_val.jsonl of Qwen-VL, REC_refcoco_unc_val.jsonl of Shikra."""
    rows = [(i, o, text) for i, o, texts in world.refs() for text in texts]
    qwen, shikra = out / "refcoco_val.jsonl", out / "REC_refcoco_unc_val.jsonl"
    write_lines(
        qwen,
        [
            {"image": image_name(i), "sent": t, "bbox": list(o.box), "height": SIZE, "width": SIZE}
            for i, o, t in rows
        ],
    )
    write_lines(
        shikra,
        [
            {"img_path": image_name(i), "expression": t, "bbox": list(o.box), "dataset_name": "refcoco"}
            for i, o, t in rows
        ],
    )
    return qwen, shikra


def _jxu124(ref_id: int, i: int, o: Thing, texts: list[str]) -> dict[str, Any]:
    """A row of jxu124/refcoco."""
    sentences = [{"raw": t, "sent": t, "sent_id": k, "tokens": t.split()} for k, t in enumerate(texts)]
    return {
        "sent_ids": list(range(len(texts))),
        "file_name": f"{i:06d}_{ref_id}.jpg",
        "ann_id": ref_id,
        "ref_id": ref_id,
        "image_id": i,
        "split": SPLIT,
        "sentences": sentences,
        "category_id": CATEGORY[o.noun],
        "raw_anns": json.dumps({"bbox": xywh(o.box), "image_id": i}),
        "raw_image_info": json.dumps({"id": i, "file_name": image_name(i), "width": SIZE, "height": SIZE}),
        "raw_sentences": json.dumps(sentences),
        "image_path": image_name(i),
        "bbox": list(o.box),
        "captions": texts,
        "global_image_id": str(i),
        "anns_id": str(ref_id),
    }


def _lmms(world: World, ref_id: int, i: int, o: Thing, texts: list[str]) -> dict[str, Any]:
    """A row of lmms-lab/RefCOCO."""
    return {
        "question_id": str(ref_id),
        "image": picture(world, i),
        "question": "What is in the marked area?",
        "answer": texts,
        "segmentation": [0.0],
        "bbox": xywh(o.box),
        "iscrowd": 0,
        "file_name": image_name(i),
    }


def _ref_l4(ref_id: int, i: int, o: Thing, texts: list[str]) -> Rows:
    """Rows of Ref-L4, one per expression."""
    box = xywh(o.box)
    shared = {
        "bbox": box,
        "bbox_area": box[2] * box[3],
        "bbox_id": str(ref_id),
        "ori_category_id": f"o365_{CATEGORY[o.noun]}",
        "image_id": str(i),
    }
    size = {"height": SIZE, "width": SIZE, "file_name": image_name(i), "is_rewrite": 0, "split": SPLIT}
    return [{"id": f"{ref_id}_{k}", "caption": t, **shared, **size} for k, t in enumerate(texts)]


def write_hf(world: World, out: Path) -> dict[str, Path]:
    """The four layouts of the hub, as Parquet."""
    layouts: dict[str, Rows] = {"hf_refcoco": [], "lmms_refcoco": [], "ref_l4": []}
    samples: dict[int, Rows] = {}
    for ref_id, (i, o, texts) in enumerate(world.refs()):
        layouts["hf_refcoco"].append(_jxu124(ref_id, i, o, texts))
        layouts["lmms_refcoco"].append(_lmms(world, ref_id, i, o, texts))
        layouts["ref_l4"] += _ref_l4(ref_id, i, o, texts)
        samples.setdefault(i, []).append(
            {"id": ref_id, "image_id": i, "category": o.noun, "sentences": texts, "bbox": xywh(o.box)}
        )
    layouts["refcoco_m"] = [
        {"image": picture(world, i), "image_id": i, "file_name": image_name(i), "samples": found}
        for i, found in samples.items()
    ]
    paths = {name: out / name / "val-00000-of-00001.parquet" for name in layouts}
    for name, rows in layouts.items():
        write_parquet(paths[name], rows)
    return paths
