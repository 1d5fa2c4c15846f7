"""`make fuzz-files`: mutated files through every reader: annotations, images, benchmarks, predictions,
configurations and journals. What must come out: rows, reasons, or one line about the file. An exception that
the front door would call a fault of spr itself is a failure, and so is a line that fills a screen.

Corpus: small files of every form, as their publishers write them (tests.support). A case changes one to
three of a form's files: bytes (flips, cuts, splices, another encoding, odd signs), or values inside (a tree
of JSON, rows of Parquet or Arrow: another type, beyond any number, null, nested without end, renamed, gone).

    python -m benchmarks.fuzz_files --count 10000 --seed 0 --processes 2
"""

from __future__ import annotations

import copy
import functools
import hashlib
import io
import json
import os
import random
import shutil
import tarfile
import tempfile
import traceback
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from PIL import Image
from tests.support import exports
from tests.support.benchmark_forms import SIZE, World, plain_world, write_lines
from tests.support.benchmarks import write_benchmarks

from benchmarks.fuzz import drive
from spr.cli.main import verdict
from spr.data.config import DataConfig
from spr.data.images import open_store
from spr.data.index import build_index, open_index
from spr.evaluation.config import BenchmarkConfig
from spr.evaluation.predictions_file import read_lines, score_file
from spr.evaluation.readers import read_benchmark
from spr.models.journal import Journal
from spr.run.wiring import load_config
from spr.scenes.files import image_name
from spr.store.digests import digest
from spr.store.tables import parquet_bytes
from spr.types import Annotation, Answer, ImageRecord, Prediction

BLOCK = 200  # cases
LINE = 1500  # characters of the one line: more is no line
DEEP, LONG = "@deep@", "@digits@"  # stand for what a writer of JSON refuses to write
SIGNS = [
    *(c.encode() for c in '[]{}()<>,;:"\\\n\t 09-.é漢'), b"\xff", b"\x00", b"\xef\xbb\xbf", b"\r",
    b"\xe2\x80\xa8", b"null", b"NaN", b"1e999", b"\\ud800", b"<!DOCTYPE x>", b"&x;", b"[" * 3000,
    b'{"a":' * 3000, b"9" * 5000,
]  # fmt: skip
VALUES: list[Any] = [
    None, True, False, 0, -1, 0.5, 1e308, float("inf"), float("nan"), 10**30, 2**63, 2**62, -(2**63), 2**31,
    "", "x", "0", "12", "\ud800", "\x00", "é" * 300, [], {}, [None], [[1]], {"x": 1}, "../../x.png", "/x.png",
    "http://127.0.0.1:9/x.png", DEEP, LONG,
]  # fmt: skip
ENCODINGS = ("latin-1", "utf-16", "utf-8-sig", "cp1252")


# --- changes --------------------------------------------------------------------------------------


def mutated(data: bytes, suffix: str, rng: random.Random) -> bytes:
    """The content of a file after one to three changes of its bytes, or of the values inside."""
    if rng.random() < 0.6:
        try:
            if suffix in (".json", ".jsonl", ".yaml"):
                return _json_changed(data.decode(), suffix, rng)
            if suffix in (".parquet", ".arrow"):
                return _rows_changed(data, suffix, rng)
        except (pa.ArrowException, ValueError, OverflowError, TypeError, AttributeError):
            pass  # Arrow cannot say that, JSON has only lines
    for _ in range(rng.randint(1, 3)):
        data = _bytes_changed(data, rng)
    return data


def _bytes_changed(data: bytes, rng: random.Random) -> bytes:
    i, j = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    match rng.randrange(8):
        case 0:
            return data[:i]
        case 1:
            return data[:i] + data[min(j, i + 40) :]
        case 2:
            return data[:j] + data[i:]
        case 3:
            bit = 1 << rng.randrange(8)
            return data[:i] + bytes([data[i] ^ bit]) + data[i + 1 :] if i < len(data) else data
        case 4:
            return data[j:] + data[:i]
        case 5:
            text = data.decode("utf-8", "replace").replace("a", "ä")
            return text.encode(rng.choice(ENCODINGS), "replace")
        case 6:
            return (
                data[:i] + str(rng.choice(VALUES)).encode("utf-8", "replace") + data[i + rng.randint(0, 3) :]
            )
        case _:
            return data[:i] + rng.choice(SIGNS) + data[i:]


def _json_changed(text: str, suffix: str, rng: random.Random) -> bytes:
    if suffix == ".jsonl":
        lines = text.splitlines()
        k = rng.randrange(len(lines))
        lines[k] = _json_changed(lines[k], ".json", rng).decode("utf-8", "surrogatepass")
        return "\n".join(lines).encode("utf-8", "surrogatepass") + b"\n"
    tree = yaml.safe_load(text) if suffix == ".yaml" else json.loads(text)
    for _ in range(rng.randint(1, 3)):
        tree = _tree_changed(tree, rng)
    said = json.dumps(tree, ensure_ascii=suffix == ".yaml" or rng.random() < 0.5)
    said = said.replace(json.dumps(DEEP), "[" * 50_000 + "]" * 50_000).replace(json.dumps(LONG), "9" * 5000)
    return said.encode("utf-8", "surrogatepass")


def _tree_changed(tree: Any, rng: random.Random) -> Any:
    """A tree with another value at a random place; places near the leaves and near the root alike."""
    holder = {"": copy.deepcopy(tree)}
    node: Any = holder
    key: Any = ""
    while isinstance(node[key], dict | list) and node[key] and rng.random() < 0.85:
        node = node[key]
        key = rng.choice(list(node) if isinstance(node, dict) else range(len(node)))
    match rng.randrange(6):
        case 0 if isinstance(node, dict) and node is not holder:
            node[rng.choice(["x", "id", "name", "bbox", key + key])] = node.pop(key)
        case 1 if node is not holder:
            del node[key]
        case 2:
            node[key] = [node[key]]
        case 3 if isinstance(node[key], list) and node[key]:
            node[key] = node[key] + [rng.choice(VALUES)]
        case 4:
            node[key] = {"x": node[key]}
        case _:
            node[key] = rng.choice(VALUES)
    return holder[""]


def _rows_changed(data: bytes, suffix: str, rng: random.Random) -> bytes:
    table = (
        pq.read_table(pa.BufferReader(data))
        if suffix == ".parquet"
        else pa.ipc.open_stream(pa.BufferReader(data)).read_all()
    )
    rows = table.to_pylist()
    if rng.random() < 0.5:  # one cell, of one type with its neighbours or not at all
        k = rng.randrange(len(rows))
        rows[k] = _tree_changed(rows[k], rng)
    else:  # a whole column
        name, value = rng.choice(table.column_names), rng.choice(VALUES)
        rows = [{**row, name: value} if rng.random() < 0.9 else row for row in rows]
    changed = pa.Table.from_pylist(rows)
    if rng.random() < 0.5:
        changed = changed.replace_schema_metadata(table.schema.metadata)
    out = pa.BufferOutputStream()
    if suffix == ".parquet":
        pq.write_table(changed, out)
    else:
        make = pa.ipc.new_file if rng.random() < 0.2 else pa.ipc.new_stream
        with make(out, changed.schema) as writer:
            writer.write_table(changed)
    return bytes(out.getvalue())


# --- forms ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Form:
    """A kind of file: its files by their path below a folder, and what reads them there."""

    name: str
    files: Mapping[str, bytes]
    read: Callable[[Path], object]

    def changed(self, rng: random.Random) -> dict[str, bytes]:
        """The files of a case; most stay as they are."""
        chosen = rng.sample(sorted(self.files), min(len(self.files), rng.randint(1, 3)))
        return {
            path: mutated(data, Path(path).suffix, rng) if path in chosen else data
            for path, data in self.files.items()
        }


def lay_out(files: Mapping[str, bytes], folder: Path) -> None:
    """Write files below a folder."""
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)


def outcome(form: Form, files: Mapping[str, bytes], folder: Path) -> str | None:
    """What is wrong with how a form's reader takes these files; None when all is well."""
    lay_out(files, folder)
    try:
        form.read(folder)
    except Exception as e:
        line = verdict(e)[1]
        if "a fault of spr itself" in line:
            return traceback.format_exc(limit=-4)
        if len(line) > LINE:
            return f"a line of {len(line)} characters: {line[:200]}"
    return None


def forms(folder: Path) -> list[Form]:
    """Every form, over the pictures of a small world in this folder."""
    pictures = folder / "pictures"
    pictures.mkdir(parents=True)
    world = plain_world(pictures, 3)
    records = [ImageRecord(image_name(i), image_name(i), SIZE, SIZE) for i in range(len(world.scenes))]
    boxes = {
        record.image_id: [
            Annotation(str(k), record.image_id, o.noun, o.box, crowd=k == 0) for k, o in enumerate(scene)
        ]
        for record, scene in zip(records, world.scenes, strict=True)
    }
    return [
        *_annotation_forms(folder / "data", pictures, records, boxes),
        *_picture_forms(folder / "roots", pictures),
        *_benchmark_forms(folder / "benchmarks", world),
        *_prediction_forms(folder / "predictions", records, boxes),
        *_configuration_forms(),
        _journal_form(folder / "journal"),
    ]


def _held(folder: Path) -> dict[str, bytes]:
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()
    }


def _indexed(config: DataConfig, out: Path) -> None:
    """Build an index and read all of it."""
    build_index(config, str(out))
    index = open_index(str(out))
    index.annotations_of([image.image_id for image in index.images()])
    index.rejected()


def _annotation_forms(
    base: Path, pictures: Path, records: Sequence[ImageRecord], boxes: Mapping[str, Sequence[Annotation]]
) -> Iterator[Form]:
    def form(
        name: str,
        write: Callable[[Path], object],
        annotations: str = "",
        names: str = "",
        alone: bool = False,
    ) -> Form:
        (base / name).mkdir(parents=True)
        write(base / name)

        def read(folder: Path) -> None:
            config = DataConfig(
                "hf" if name.startswith("hf_") else name,  # type: ignore[arg-type]
                str(folder / annotations),
                "" if alone else str(pictures),
                str(folder / names) if names else None,
            )
            _indexed(config, folder / "index")

        return Form(name, _held(base / name), read)

    yield form("coco", lambda out: exports.write_coco(records, boxes, out / "a.json"), "a.json")
    yield form("voc", lambda out: exports.write_voc(records, boxes, out))
    yield form("yolo", lambda out: exports.write_yolo(records, boxes, out), names="classes.txt")
    yield form(
        "open_images",
        lambda out: exports.write_open_images(records, boxes, out / "a.csv"),
        "a.csv",
        names="class-descriptions.csv",
    )
    yield form(
        "visual_genome", lambda out: exports.write_visual_genome(records, boxes, out / "a.json"), "a.json"
    )
    for kind in ("jsonl", "parquet", "arrow"):
        write = functools.partial(exports.write_hf, records, boxes, pictures, kind)
        yield form(f"hf_{kind}", write, alone=kind != "jsonl")


def _picture_forms(base: Path, pictures: Path) -> Iterator[Form]:
    """Pictures of several kinds in a folder and in archives."""
    folder = base / "folder"
    folder.mkdir(parents=True)
    with Image.open(pictures / image_name(0)) as picture:
        small = picture.resize((32, 24))
    for suffix in ("png", "jpg", "gif", "webp", "tif", "bmp", "ppm"):
        small.save(folder / f"a.{suffix}")
    held = _held(folder)
    with zipfile.ZipFile(base / "a.zip", "w") as archive:
        for path, data in held.items():
            archive.writestr(zipfile.ZipInfo(path), data)  # dated 1980: a corpus is the same every time
    with tarfile.open(base / "a.tar", "w") as tar:
        for path in held:
            info = tarfile.TarInfo(path)
            info.size = len(held[path])
            tar.addfile(info, io.BytesIO(held[path]))

    def read(place: Path) -> None:
        store = open_store(str(place))
        paths = [*store.paths(), *held]
        store.sizes(paths)
        for path in paths:
            store.problem(path, 32, 24)

    yield Form("pictures", held, read)
    for kind in ("a.zip", "a.tar"):
        files = {kind: (base / kind).read_bytes()}
        yield Form(kind[2:], files, functools.partial(lambda kind, place: read(place / kind), kind))


def _benchmark_forms(base: Path, world: World) -> Iterator[Form]:
    """The published forms; a benchmark's pictures stay where they are."""
    base.mkdir(parents=True)
    sections = write_benchmarks(world, base)

    def size_of(path: str) -> tuple[int, int]:
        return SIZE, SIZE

    def read(section: BenchmarkConfig, folder: Path) -> None:
        def moved(path: str) -> str:
            return str(folder / Path(path).relative_to(base)) if path else path

        paths = {split: moved(path) for split, path in section.paths.items()}
        read_benchmark(
            BenchmarkConfig(
                section.name, section.protocol, section.format, moved(section.path), paths=paths,
                images=section.images, split=section.split,
            ),
            size_of,
        )  # fmt: skip

    for section in sections:
        named = [Path(p) for p in (section.path, *section.paths.values()) if p]
        files: dict[str, bytes] = {}
        for path in named:
            place = path if path.exists() else path.parent  # refer: the folder
            top = place if place.is_dir() else None
            inside = [p for p in top.rglob("*") if p.is_file()] if top else [place]
            files |= {
                p.relative_to(base).as_posix(): p.read_bytes() for p in inside if "pictures" not in p.parts
            }
        yield Form(f"benchmark_{section.name}", files, functools.partial(read, section))


def _prediction_forms(
    base: Path, records: Sequence[ImageRecord], boxes: Mapping[str, Sequence[Annotation]]
) -> Iterator[Form]:
    base.mkdir(parents=True)
    truth = [(a, record) for record in records for a in boxes[record.image_id]]
    plain: list[dict[str, Any]] = [
        {"gt": list(a.box), "box": list(a.box), "width": SIZE, "height": SIZE, "image": a.image_id}
        for a, _ in truth
    ]
    said = [
        {"gt": row["gt"], "answer": "<box>[[0,0,500,500]]</box>", "dialect": "internvl", "width": SIZE,
         "height": SIZE, "item_id": str(k)}
        for k, row in enumerate(plain)
    ]  # fmt: skip
    phrases: list[dict[str, Any]] = [
        {"defaults": {"protocol": "phrase_grounding"}},
        *(
            {"phrases": [{"phrase": a.category, "boxes": [list(a.box)], "type": "x"}], "boxes": [list(a.box)],
             "box_phrases": [a.category], "expression": a.category}
            for a, _ in truth
        ),
    ]  # fmt: skip
    many = [
        {
            "protocol": "many_boxes",
            "gt_boxes": [list(a.box)],
            "boxes": [list(a.box)],
            "expression": a.category,
        }
        for a, _ in truth
    ]
    regions = [
        {"protocol": "region_description", "region": [0, 0, 100, 100], "gt_boxes": [list(a.box)],
         "truth": [a.category], "boxes": [list(a.box)], "box_phrases": [a.category]}
        for a, _ in truth
    ]  # fmt: skip
    for name, rows in {
        "boxes": plain,
        "said": said,
        "phrases": phrases,
        "many": many,
        "regions": regions,
    }.items():
        write_lines(base / f"{name}.jsonl", rows)
        yield Form(
            f"predictions_{name}",
            {"a.jsonl": (base / f"{name}.jsonl").read_bytes()},
            lambda folder: score_file(folder / "a.jsonl"),
        )
        yield Form(
            f"predictions_{name}_parquet",
            {"a.parquet": parquet_bytes(read_lines(base / f"{name}.jsonl")[0], Prediction)},
            lambda folder: score_file(folder / "a.parquet"),
        )


def _configuration_forms() -> Iterator[Form]:
    for path in sorted((Path(__file__).parents[1] / "configs").glob("*.yaml")):
        yield Form(
            f"config_{path.stem}",
            {"a.yaml": path.read_bytes()},
            lambda folder: load_config(folder / "a.yaml"),
        )


def _journal_form(base: Path) -> Form:
    journal = Journal(base)
    for k in range(4):
        journal.add(f"key {k}", [Answer("a cat", cause="ü"), Answer("", failed="timeout")])

    def read_journal(folder: Path) -> None:
        for path in folder.glob("*.jsonl"):  # what another version wrote is well signed, too
            lines = [line.partition(b" ")[2] for line in path.read_bytes().split(b"\n")]
            signed = (digest(line)[:16].encode() + b" " + line + b"\n" for line in lines if line)
            path.write_bytes(b"".join(signed))
        Journal(folder).answers("key 1")

    (data,) = _held(base).values()
    return Form("journal", {"1-1.jsonl": data}, read_journal)


# --- blocks ---------------------------------------------------------------------------------------


@contextmanager
def corpus() -> Iterator[tuple[Form, ...]]:
    """Every form; their folder is removed at the end."""
    with tempfile.TemporaryDirectory(prefix="spr-fuzz-") as folder:
        yield tuple(forms(Path(folder)))


def cases(
    some: Sequence[Form], number: int, seed: int, size: int, work: Path
) -> tuple[Counter[str], list[str]]:
    """The cases of one block: how many each form had, and what failed."""
    rng = random.Random(f"{seed}/{number}")
    done: Counter[str] = Counter()
    failures: list[str] = []
    for k in range(size):
        form = some[(number * size + k) % len(some)]
        files = form.changed(rng)
        place = work / str(k)
        place.mkdir(parents=True)
        with warnings.catch_warnings(action="ignore"), open(os.devnull, "w") as null, redirect_stderr(null):
            failed = outcome(form, files, place)
        shutil.rmtree(place)
        done[form.name] += 1
        if failed:
            failures.append(f"{form.name}, case {number}/{k}\n{failed}")
    return done, failures


def block(number: int, seed: int) -> tuple[Counter[str], list[str]]:
    """The cases of one block, in a folder of their own."""
    with tempfile.TemporaryDirectory(prefix="spr-fuzz-") as work, corpus() as some:
        return cases(some, number, seed, BLOCK, Path(work))


def main() -> None:
    with corpus() as some:
        said = b"".join(path.encode() + data for form in some for path, data in sorted(form.files.items()))
    drive(__doc__ or "", "files", hashlib.blake2b(said, digest_size=4).hexdigest(), block, BLOCK, 10_000)


if __name__ == "__main__":
    main()
