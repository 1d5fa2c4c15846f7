"""Write the pairs in the form that another trainer loads as it is: TRL, LLaMA-Factory, ms-swift.

In: training pairs, the dialect of their texts, the run's training. Out: a folder with images, data, the
training's settings, and a README with the command. `check_export` reads it back. Coordinates are literal, in
the frame that the trainer's model will see. Where a notation counts pixels of the resized image (Qwen2.5-VL),
the images are written in exactly that size: any trainer's own resize then leaves them as they are, and the
numbers stay right.
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
from typing import Any, TypeAlias, get_args

from spr.commands.trainers import TRIED, Format, Start, Training, check_start, start
from spr.dialects import Dialect, resize_options
from spr.errors import ConfigError, DataError, ImageError, unknown_name
from spr.run.depends import fresh
from spr.run.pipeline import open_run
from spr.run.wiring import Config, dialect_of, image_store, seed_of, trainings
from spr.store.files import check_empty
from spr.store.folders import PAIRS
from spr.store.progress import NO_PROGRESS, Progress
from spr.types import Box, Dropped, Frame, TrainingPair

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
    """What was written, what was left out, and what of the training the other trainer cannot be told."""

    pairs: int
    images: int
    dropped: tuple[Dropped, ...]
    missing: tuple[str, ...]


def export_run(
    config: Config,
    format: str,
    out: str | Path,
    adapter: str = "",
    template: str = "",
    progress: Progress = NO_PROGRESS,
) -> ExportResult:
    """Write a run's pairs, and the training of one of its adapters (none named: the first). `template`: as
    the other trainer names it.

    Raises ConfigError and DataError as `export_pairs` does, before any pair is read where that is possible.
    """
    kind = _format(format)
    check_empty(out)
    training = training_of(config, adapter, template)
    check_start(kind, training)
    run = open_run(config)
    fresh(config, run, "pair")
    pairs = run.read_stage(TrainingPair, PAIRS)
    return export_pairs(pairs, kind, out, dialect_of(config), image_store(config).load, training, progress)


def training_of(config: Config, adapter: str = "", template: str = "") -> Training:
    """The training of an adapter, from the configuration and what the checkpoint says of itself."""
    from spr.models.chat import begins_in_thought, default_system, gap_after_image
    from spr.models.loading import load_processor, read_config
    from spr.models.parts import skeleton
    from spr.training.adapter import target_pattern

    found, checkpoint = trainings(config), config.model.checkpoint
    name = adapter or next(iter(found))
    if name not in found:
        raise ConfigError("--adapter: " + unknown_name("adapter", name, sorted(found)))
    training = found[name]
    model_config, processor = read_config(checkpoint), load_processor(checkpoint)
    model_type = str(model_config.model_type)
    model = skeleton(model_config, checkpoint.trust_remote_code)
    chat = (processor, model_type, checkpoint.chat_template_kwargs)
    text = model_config.get_text_config(decoder=True)
    limits = resize_options(processor.image_processor)
    return Training(
        name=name,
        checkpoint=checkpoint,
        model_type=model_type,
        config=training,
        seed=seed_of(config, training),
        targets=target_pattern(model, training.lora_parts, training.target_modules),
        context=getattr(text, "max_position_embeddings", None),
        adapter=config.model.adapter,
        template=template,
        pixels=(limits["min_pixels"], limits["max_pixels"]) if model_type.startswith("qwen") else None,
        gap=gap_after_image(*chat),
        system=default_system(*chat),
        thinks=begins_in_thought(*chat),
    )


def _format(name: str) -> Format:
    if name not in get_args(Format):
        raise ConfigError("--format: " + unknown_name("format", name, get_args(Format)))
    return name  # type: ignore[return-value]


def export_pairs(
    pairs: Sequence[TrainingPair],
    format: str,
    out: str | Path,
    dialect: Dialect,
    load_image: LoadImage,
    training: Training,
    progress: Progress = NO_PROGRESS,
) -> ExportResult:
    """Write `pairs` to the folder `out` (created; must be empty), and how `training` is started there. Raises
    ConfigError for an unknown format, or a loss or a template that the other trainer does not have, DataError
    when nothing is left.
    """
    kind, folder = _format(format), Path(out)
    check_start(kind, training)
    check_empty(folder)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    written: dict[str, str] = {}
    kept: list[Exported] = []
    dropped: list[Dropped] = []
    progress.start("export", len(pairs))
    for pair in pairs:
        progress.advance(1)
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
    progress.end()
    WRITERS[kind](kept, folder, training.gap)
    largest = max(e.frame.width * e.frame.height for e in kept)
    begin = start(kind, training, len(kept), largest)
    (folder / begin.file).write_text(begin.text, encoding="utf-8")
    (folder / "README.md").write_text(
        _readme(kind, kept, dropped, dialect, training, begin), encoding="utf-8"
    )
    check_export(folder, kind, dialect)
    return ExportResult(len(kept), len({e.file for e in kept}), tuple(dropped), begin.missing)


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


def _write_trl(kept: Sequence[Exported], folder: Path, gap: str) -> None:
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


def _write_llamafactory(kept: Sequence[Exported], folder: Path, gap: str) -> None:
    """pairs.json (sharegpt, ranking) and dataset_info.json. Its templates put nothing between image and
    question, so `gap` is written.
    """
    rows = [
        {
            "conversations": [{"from": "human", "value": f"<image>{gap}{e.pair.prompt}"}],
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


def _write_ms_swift(kept: Sequence[Exported], folder: Path, gap: str) -> None:
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


WRITERS: Mapping[Format, Callable[[Sequence[Exported], Path, str], None]] = {
    "trl": _write_trl,
    "llamafactory": _write_llamafactory,
    "ms-swift": _write_ms_swift,
}


def _counts(dropped: Sequence[Dropped]) -> str:
    return ", ".join(f"{reason}: {n}" for reason, n in sorted(Counter(d.reason for d in dropped).items()))


README = """# {pairs} preference pairs for {maker}

Coordinates: `{dialect}`, {frame}. Chosen: the best refined answer; rejected: the worst answer.
Left out: {left_out}.

## Start
In this folder, because paths are relative to it:
```
pip install {install}
{command}
```
`{file}` holds the training of adapter `{adapter}`, as `spr train` does it:

{said}

## Not carried over
{missing}
"""


def _readme(
    kind: Format,
    kept: Sequence[Exported],
    dropped: Sequence[Dropped],
    dialect: Dialect,
    training: Training,
    begin: Start,
) -> str:
    frame = (
        "pixels of exactly these images, which have the size that the model sees"
        if counts_resized_pixels(dialect)
        else dialect.contract.scale
    )
    maker, package, version = TRIED[kind]
    return README.format(
        pairs=len(kept),
        maker=maker,
        dialect=dialect.name,
        frame=frame,
        left_out=_counts(dropped) or "none",
        install=" ".join([f"{package}=={version}", *begin.packages]),
        command=begin.command,
        file=begin.file,
        adapter=training.name,
        said="\n".join(f"- {name}: {value}" for name, value in begin.said.items()),
        missing="\n".join(f"- {line}" for line in begin.missing) or "Nothing.",
    )


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
    return text.removeprefix("<image>").lstrip(), (root / images[0]).read_bytes()


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
