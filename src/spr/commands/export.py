"""Write the pairs in the form that another trainer loads as it is: TRL, LLaMA-Factory, ms-swift.

In: training pairs, the dialect of their texts. Out: a folder with images, data, and a README with the exact
command. `check_export` reads it back. Coordinates are literal, in the frame that the trainer's model will
see. Where a notation counts pixels of the resized image (Qwen2.5-VL), the images are written in exactly that
size: any trainer's own resize then leaves them as they are, and the numbers stay right.
A text that contains another trainer's placeholder (`<image>`, `<bbox>` …) would be read as one: such a pair
is left out, and the README counts it.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from spr.dialects import Dialect
from spr.errors import ConfigError, DataError, ImageError, unknown_name
from spr.store.files import check_empty
from spr.types import Box, Dropped, Frame, TrainingPair

Format: TypeAlias = Literal["trl", "llamafactory", "ms-swift"]
LoadImage: TypeAlias = Callable[[str], Any]
# Texts that a trainer replaces by something else.
PLACEHOLDERS: Mapping[Format, tuple[str, ...]] = {
    "trl": (),
    "llamafactory": ("<image>", "<video>", "<audio>"),
    "ms-swift": ("<image>", "<video>", "<audio>", "<bbox>", "<ref-object>", "<cot-process>"),
}


@dataclass(frozen=True, slots=True)
class Exported:
    """A pair as it was written: its image's file name and size."""

    pair: TrainingPair
    file: str
    frame: Frame


@dataclass(frozen=True, slots=True)
class ExportResult:
    """What was written, and what was left out."""

    pairs: int
    images: int
    dropped: tuple[Dropped, ...]


def export_pairs(
    pairs: Sequence[TrainingPair], format: str, out: str | Path, dialect: Dialect, load_image: LoadImage
) -> ExportResult:
    """Write `pairs` to the folder `out` (created; must be empty). Raises ConfigError for an unknown format,
    DataError when nothing is left.
    """
    if format not in get_args(Format):
        raise ConfigError("--format: " + unknown_name("format", format, get_args(Format)))
    kind: Format = format  # type: ignore[assignment]
    folder = Path(out)
    check_empty(folder)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    written: dict[str, str] = {}
    kept: list[Exported] = []
    dropped: list[Dropped] = []
    for pair in pairs:
        found = _check(pair, kind, dialect)
        if isinstance(found, Dropped):
            dropped.append(found)
            continue
        try:
            if pair.image not in written:
                written[pair.image] = _write_image(load_image(pair.image), found, folder / "images")
        except (ImageError, OSError) as e:
            dropped.append(Dropped(pair.pair_id, "unreadable_image", str(e)))
            continue
        kept.append(Exported(pair, f"images/{written[pair.image]}", found))
    if not kept:
        raise DataError(f"{folder}: no pair is left to export ({_counts(dropped) or 'there was none'})")
    WRITERS[kind](kept, folder)
    (folder / "README.md").write_text(_readme(kind, kept, dropped, dialect), encoding="utf-8")
    check_export(folder, kind, dialect)
    return ExportResult(len(kept), len({e.file for e in kept}), tuple(dropped))


def _check(pair: TrainingPair, kind: Format, dialect: Dialect) -> Frame | Dropped:
    """The size in which the image is written, or why the pair cannot be."""
    for text in (pair.prompt, pair.chosen, pair.rejected):
        for placeholder in PLACEHOLDERS[kind]:
            if placeholder in text:
                return Dropped(pair.pair_id, "placeholder_in_text", placeholder)
    try:
        width, height = dialect.model_size(pair.frame)
    except ValueError as e:
        return Dropped(pair.pair_id, "frame_error", str(e))
    return Frame(width, height) if counts_resized_pixels(dialect) else pair.frame


def counts_resized_pixels(dialect: Dialect) -> bool:
    """Whether the notation's numbers are pixels of the image after the model's resize."""
    return dialect.contract.divisor is None


def _write_image(image: Any, frame: Frame, folder: Path) -> str:
    """PNG of the stored pixels, in the size of `frame`. Named by content, so that names of the data set
    cannot clash.
    """
    from PIL import Image

    if image.size != (frame.width, frame.height):
        image = image.resize((frame.width, frame.height), Image.Resampling.BICUBIC)
    sink = io.BytesIO()
    image.convert("RGB").save(sink, format="PNG")
    data = sink.getvalue()
    name = hashlib.sha256(data).hexdigest()[:16] + ".png"
    (folder / name).write_bytes(data)
    return name


# --- the three forms ------------------------------------------------------------------------------


def _write_trl(kept: Sequence[Exported], folder: Path) -> None:
    """Parquet with the columns images, prompt, chosen, rejected (conversations with content parts); the
    images are inside.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    text = {"_type": "Value", "dtype": "string"}
    part = {"type": text, "text": text}
    turns = {"_type": "List", "feature": {"role": text, "content": {"_type": "List", "feature": part}}}
    features = {
        "images": {"_type": "List", "feature": {"_type": "Image"}},
        "prompt": turns,
        "chosen": turns,
        "rejected": turns,
    }
    part_type = pa.struct([("type", pa.string()), ("text", pa.string())])
    turn_type = pa.list_(pa.struct([("role", pa.string()), ("content", pa.list_(part_type))]))
    images_type = pa.list_(pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    schema = pa.schema(
        [("images", images_type), *((name, turn_type) for name in ("prompt", "chosen", "rejected"))]
    )
    schema = schema.with_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    rows = [
        {
            "images": [{"bytes": (folder / e.file).read_bytes(), "path": Path(e.file).name}],
            "prompt": [
                {
                    "role": "user",
                    "content": [{"type": "image", "text": None}, {"type": "text", "text": e.pair.prompt}],
                }
            ],
            "chosen": [{"role": "assistant", "content": [{"type": "text", "text": e.pair.chosen}]}],
            "rejected": [{"role": "assistant", "content": [{"type": "text", "text": e.pair.rejected}]}],
        }
        for e in kept
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), folder / "train.parquet")


def _write_llamafactory(kept: Sequence[Exported], folder: Path) -> None:
    """pairs.json (sharegpt, ranking), dataset_info.json and a configuration of its command line."""
    rows = [
        {
            "conversations": [{"from": "human", "value": f"<image>{e.pair.prompt}"}],
            "chosen": {"from": "gpt", "value": e.pair.chosen},
            "rejected": {"from": "gpt", "value": e.pair.rejected},
            "images": [e.file],
        }
        for e in kept
    ]
    columns = {"messages": "conversations", "chosen": "chosen", "rejected": "rejected", "images": "images"}
    info = {
        "spr_pairs": {
            "file_name": "pairs.json",
            "formatting": "sharegpt",
            "ranking": True,
            "columns": columns,
        }
    }
    (folder / "pairs.json").write_text(json.dumps(rows, indent=1, ensure_ascii=False), encoding="utf-8")
    (folder / "dataset_info.json").write_text(json.dumps(info, indent=2), encoding="utf-8")


def _write_ms_swift(kept: Sequence[Exported], folder: Path) -> None:
    """pairs.jsonl: messages with the chosen answer, and rejected_response; coordinates are literal, never
    `<bbox>`.
    """
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"<image>{e.pair.prompt}"},
                {"role": "assistant", "content": e.pair.chosen},
            ],
            "rejected_response": e.pair.rejected,
            "images": [e.file],
        }
        for e in kept
    ]
    (folder / "pairs.jsonl").write_text(
        "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8"
    )


WRITERS: Mapping[Format, Callable[[Sequence[Exported], Path], None]] = {
    "trl": _write_trl,
    "llamafactory": _write_llamafactory,
    "ms-swift": _write_ms_swift,
}


def _counts(dropped: Sequence[Dropped]) -> str:
    return ", ".join(f"{reason}: {n}" for reason, n in sorted(Counter(d.reason for d in dropped).items()))


COMMANDS: Mapping[Format, str] = {
    "trl": """```python
from datasets import load_dataset
from trl import DPOConfig, DPOTrainer
data = load_dataset("parquet", data_files="train.parquet", split="train")
args = DPOConfig(output_dir="adapter", max_length=None, beta=0.1)  # the default of 1024 tokens would \
cut images and answers
DPOTrainer(MODEL, args=args, train_dataset=data, peft_config=LORA).train()
```""",
    "llamafactory": """```
llamafactory-cli train --stage dpo --do_train --finetuning_type lora --pref_loss sigmoid --pref_beta 0.1 \\
  --model_name_or_path MODEL --template TEMPLATE --dataset_dir . --media_dir . --dataset spr_pairs \\
  --image_max_pixels {pixels} --image_min_pixels 1 --cutoff_len 8192 --output_dir adapter
```
`image_max_pixels`: its default of 589,824 would shrink larger images before the model's own resize.""",
    "ms-swift": """```
MAX_PIXELS={pixels} swift rlhf --rlhf_type dpo --tuner_type lora --beta 0.1 --model MODEL \
--dataset pairs.jsonl --max_length 8192 --output_dir adapter
```
Run it in this folder: the paths of the images are relative to it.""",
}


def _readme(kind: Format, kept: Sequence[Exported], dropped: Sequence[Dropped], dialect: Dialect) -> str:
    pixels = max(e.frame.width * e.frame.height for e in kept)
    frame = (
        "pixels of exactly these images, which have the size that the model sees"
        if counts_resized_pixels(dialect)
        else dialect.contract.scale
    )
    return f"""# {len(kept)} preference pairs for {kind}

Coordinates: `{dialect.name}`, {frame}. Chosen: the best refined answer; rejected: the worst answer.
Left out: {_counts(dropped) or "none"}.

{COMMANDS[kind].replace("{pixels}", str(pixels))}
"""


# --- reading back ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Read:
    """A pair as the trainer finds it."""

    prompt: str
    chosen: str
    rejected: str
    image: bytes


def read_export(folder: str | Path, format: Format) -> list[Read]:
    """The pairs of an exported folder, by the rules of its trainer. Raises DataError, one line, where a rule
    is broken.
    """
    root = Path(folder)
    if format == "trl":
        import pyarrow.parquet as pq

        rows = pq.read_table(root / "train.parquet").to_pylist()
        return [
            Read(
                _trl_text(r["prompt"], 1),
                _trl_text(r["chosen"], 0),
                _trl_text(r["rejected"], 0),
                r["images"][0]["bytes"],
            )
            for r in rows
        ]
    if format == "llamafactory":
        info = json.loads((root / "dataset_info.json").read_text(encoding="utf-8"))["spr_pairs"]
        rows = json.loads((root / info["file_name"]).read_text(encoding="utf-8"))
        return [_llamafactory(row, root, i) for i, row in enumerate(rows)]
    lines = (root / "pairs.jsonl").read_text(encoding="utf-8").splitlines()
    return [_ms_swift(json.loads(line), root, i) for i, line in enumerate(lines)]


def _trl_text(turns: Sequence[Mapping[str, Any]], images: int) -> str:
    parts = [part for turn in turns for part in turn["content"]]
    if sum(part["type"] == "image" for part in parts) != images:
        raise DataError(f"train.parquet: found {parts}, expected {images} image part(s)")
    return "".join(part["text"] for part in parts if part["type"] == "text")


def _one_image(text: str, images: Sequence[str], root: Path, where: str) -> tuple[str, bytes]:
    if text.count("<image>") != len(images) or len(images) != 1 or not text.startswith("<image>"):
        raise DataError(
            f"{where}: found {text.count('<image>')} <image> for {len(images)} images, expected one of "
            "each, in front"
        )
    if not (root / images[0]).is_file():
        raise DataError(f"{where}: {images[0]} is not there")
    return text.removeprefix("<image>"), (root / images[0]).read_bytes()


def _llamafactory(row: Mapping[str, Any], root: Path, number: int) -> Read:
    where = f"pairs.json, row {number}"
    turns = row["conversations"]
    if (
        len(turns) % 2 == 0
        or turns[-1]["from"] != "human"
        or any(row[k]["from"] != "gpt" for k in ("chosen", "rejected"))
    ):
        raise DataError(
            f"{where}: expected a conversation that ends with the human turn, and two answers of gpt"
        )
    prompt, image = _one_image(turns[-1]["value"], row["images"], root, where)
    return Read(prompt, row["chosen"]["value"], row["rejected"]["value"], image)


def _ms_swift(row: Mapping[str, Any], root: Path, number: int) -> Read:
    where = f"pairs.jsonl, row {number}"
    turns = row["messages"]
    if [t["role"] for t in turns] != ["user", "assistant"] or row["rejected_response"] == turns[-1][
        "content"
    ]:
        raise DataError(f"{where}: expected a question, an answer, and another rejected_response")
    prompt, image = _one_image(turns[0]["content"], row["images"], root, where)
    return Read(prompt, turns[1]["content"], row["rejected_response"], image)


def boxes_in(text: str, image: bytes, dialect: Dialect) -> list[Box]:
    """The boxes of a text as shares of the sides of the image that goes along."""
    from PIL import Image

    width, height = Image.open(io.BytesIO(image)).size
    g = dialect.parse(text, Frame(width, height))
    return [
        (x1 / width, y1 / height, x2 / width, y2 / height) for m in g.mentions for x1, y1, x2, y2 in m.boxes
    ]


def check_export(folder: str | Path, format: Format, dialect: Dialect) -> int:
    """Read an exported folder back by its trainer's rules; returns how many pairs it holds.

    Raises DataError when a rule is broken, or when no pair's chosen and rejected boxes differ after loading
    (the mistake that makes a trainer learn nothing about boxes).
    """
    rows = read_export(folder, format)
    for i, row in enumerate(rows):
        if row.chosen == row.rejected:
            raise DataError(f"{folder}, pair {i}: chosen and rejected are the same text after loading")
        for placeholder in PLACEHOLDERS[format]:
            if any(placeholder in text for text in (row.prompt, row.chosen, row.rejected)):
                raise DataError(
                    f"{folder}, pair {i}: found {placeholder!r} in a text, which the trainer would replace"
                )
    differ = sum(boxes_in(r.chosen, r.image, dialect) != boxes_in(r.rejected, r.image, dialect) for r in rows)
    if rows and differ == 0:
        raise DataError(
            f"{folder}: in none of {len(rows)} pairs do the boxes of chosen and rejected differ after loading"
        )
    return len(rows)
