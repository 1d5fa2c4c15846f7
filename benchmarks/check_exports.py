"""`make check-exports`: start every export as its README says, in the real trainers.

For each trainer an environment of its own is made under runs/check-exports; this downloads some gigabytes,
once. For each family a tiny random checkpoint and three pairs are exported, and the README's command is run
as it stands, on the CPU. `benchmarks/exports/sitecustomize.py`, which Python imports
by itself, writes down the batches that the trainer trains on. They are compared with the pairs: both answers,
the question, the picture's tokens and pixels, the loss of a fresh adapter (ln 2), the layers that got LoRA,
and whether the whole row is the one that the model's own chat template makes.

    python -m benchmarks.check_exports [--only ms-swift] [--update]

--update writes what was found to tests/golden/exports.json, with the settings that were run: the suite then
holds every export against it.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tests.contract.checkpoints import build
from tests.support.export_pairs import FAMILIES, TEMPLATES, dialect_in, load_image, pairs_of, training_in

from spr.commands.export import export_pairs
from spr.commands.trainers import TRIED, Format
from spr.dialects import Dialect
from spr.errors import ConfigError
from spr.models.loading import load_mllm, read_config
from spr.models.parts import skeleton
from spr.training.encode import Encoder
from spr.types import Checkpoint, TrainingPair

SAME = 0.05  # of pictures: two libraries round by a level of 255
HERE = Path(__file__).parent / "exports"
GOLDEN = Path(__file__).parents[1] / "tests" / "golden" / "exports.json"
# What is installed beside the trainer: versions of torch and torchvision that fit each other.
INSTALLED: Mapping[Format, tuple[str, ...]] = {
    "trl": ("peft", "num2words", "torch==2.8.0", "torchvision==0.23.0"),
    "llamafactory": ("torch==2.8.0", "torchvision==0.23.0", "torchaudio==2.8.0"),
    "ms-swift": ("torch==2.8.0", "torchvision==0.23.0", "qwen-vl-utils"),
}
# With torchvision these want a video processor, too; the hub's checkpoints have it. Class, size of a patch.
VIDEO_PROCESSORS = {
    "qwen2_vl": ("Qwen2VL", 14),
    "qwen2_5_vl": ("Qwen2VL", 14),
    "qwen3_vl": ("Qwen3VL", 16),
    "glm4v": ("Glm4v", 14),
    "internvl": ("InternVL", 14),
    "llava_onevision": ("LlavaOnevision", 14),
    "smolvlm": ("SmolVLM", 14),
}
VIDEO = """
import sys, transformers
getattr(transformers, sys.argv[1])(patch_size=int(sys.argv[2]), merge_size=2).save_pretrained(sys.argv[3])
"""
# ms-swift knows these tokens by their numbers in the hub's checkpoints.
HUB_IDS: Mapping[str, Mapping[str, int]] = {
    **{
        name: {"<|image_pad|>": 151655, "<|video_pad|>": 151656}
        for name in ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
    },
    "glm4v": {"<|begin_of_image|>": 151339, "<|end_of_image|>": 151340},
    "llava_onevision": {"<image>": 151646},
    "gemma3": {"<start_of_image>": 255999},
    "idefics3": {"<image>": 128257},
}


def environment(kind: Format, root: Path) -> Path:
    """The python of a trainer's environment, made where there is none."""
    _, package, version = TRIED[kind]
    folder = root / f"{kind}-{version}"
    python = folder / "bin" / "python"
    if not (folder / "done").exists():
        wanted = [f"{package}=={version}", *INSTALLED[kind]]
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *wanted], check=True)
        (folder / "done").touch()
    return python


def run_export(kind: Format, family: str, python: Path, root: Path) -> dict[str, Any]:
    """Export, start, and what was trained on. Raises AssertionError where that is not the pairs, ConfigError
    for a family that the trainer does not have.
    """
    checkpoint, folder = _checkpoint(family, root / "checkpoints"), root / kind / family
    _with_video(checkpoint, family, python)
    training = training_in(checkpoint, TEMPLATES.get((kind, family), ""))
    shutil.rmtree(folder, ignore_errors=True)
    dialect = dialect_in(family, checkpoint)
    pairs = pairs_of(dialect)
    export_pairs(pairs, kind, folder, dialect, load_image, training)
    readme = (folder / "README.md").read_text(encoding="utf-8")
    command = re.findall(r"```\n(.*?)```", readme, re.DOTALL)[0].splitlines()[-1]
    _start(command, folder, python)
    return {
        "command": command,
        "settings": _settings(folder, checkpoint),
        **_trained(folder, checkpoint, training.targets),
        "rows": _rows(folder, checkpoint, pairs, dialect),
    }


def _settings(folder: Path, checkpoint: Path) -> str:
    """What was run, with the checkpoint's folder as a name."""
    (file,) = (file for file in folder.glob("train.*") if file.suffix != ".parquet")
    return file.read_text(encoding="utf-8").replace(str(checkpoint), "CHECKPOINT")


def _trained(folder: Path, checkpoint: Path, targets: str) -> dict[str, Any]:
    """The loss of the first step, which must be ln 2, and the layers that got LoRA, which must be ours."""
    states = sorted(folder.glob("adapter/**/trainer_state.json"))
    history = json.loads(states[-1].read_text(encoding="utf-8"))["log_history"]
    loss = float(history[0]["loss"])
    assert abs(loss - math.log(2)) < 1e-3, f"loss {loss} of a fresh adapter, expected {math.log(2):.4f}"
    adapter = sorted(folder.glob("adapter/**/adapter_model.safetensors"))[-1]
    with safe_open(adapter, "pt") as file:
        weights = list(file.keys())
    names = {re.sub(r"^base_model\.model\.|\.lora_[AB]\.weight$", "", name) for name in weights}
    modules = (name for name, _ in skeleton(read_config(Checkpoint(str(checkpoint)))).named_modules())
    wrong = sorted(names ^ {name for name in modules if re.fullmatch(targets, name)})
    assert not wrong, f"LoRA on other layers than with `spr train`: {wrong[0]} and {len(wrong) - 1} more"
    return {"loss": round(loss, 4), "layers": len(names)}


def _rows(
    folder: Path, checkpoint: Path, pairs: Sequence[TrainingPair], dialect: Dialect
) -> list[dict[str, Any]]:
    """What the trainer trained on, in the order of the pairs, compared with them and with our own rows."""
    model, processor = load_mllm(str(checkpoint))
    encoder = Encoder(model, processor, load_image, dialect)
    trained = _by_answers(folder, processor.tokenizer)
    rows = []
    for pair in pairs:
        ours = encoder.encode(pair)
        found = [row for row in trained if pair.chosen.strip() in row["chosen"]]
        assert len(found) == 1, f"{len(found)} rows with the chosen answer {pair.chosen!r}"
        (row,) = found
        assert pair.rejected.strip() in row["rejected"], f"not the rejected answer: {row['rejected']!r}"
        assert pair.prompt.strip() in row["prompt"], f"not the question: {row['prompt']!r}"
        token = processor.tokenizer.decode([encoder._image_token])
        images = row["ids"].count(encoder._image_token)
        assert images == int(ours.image.sum()), f"{images} tokens of the picture, expected {ours.image.sum()}"
        ids = [*ours.prompt.tolist(), *ours.chosen.ids.tolist()]
        while not processor.tokenizer.decode(row["ids"][-1:]).strip():  # after the end of the turn
            row["ids"].pop()
        pixels = encoder.plain_inputs(pair.prompt, pair.image)["pixel_values"]
        apart = _apart(row["pixels"], torch.cat([pixels, pixels]))
        assert apart < SAME, f"the picture is another one: {apart:.2f} apart"
        rows.append(
            {
                "prompt": re.sub(f"(?:{re.escape(token)})+", "<PICTURE>", row["prompt"]),
                "chosen": row["chosen"],
                "rejected": row["rejected"],
                "picture_tokens": images,
                "as_ours": row["ids"] == ids,
            }
        )
    return rows


def _apart(theirs: torch.Tensor, ours: torch.Tensor) -> float:
    """The largest difference of two pictures, as the model gets them (standard deviations)."""
    if theirs.numel() != ours.numel():
        return float("inf")
    return float((theirs.flatten() - ours.flatten()).abs().max())


def _by_answers(folder: Path, tokenizer: Any) -> list[dict[str, Any]]:
    """The rows of all batches: first the chosen ones, then the rejected ones, as all three trainers do."""
    rows = []
    for batch in torch.load(folder / "batches.pt"):
        seen = batch["attention_mask"].bool()
        answers = batch["completion_mask"].bool() if "completion_mask" in batch else batch["labels"] != -100
        count = len(seen) // 2
        texts = [tokenizer.decode(ids[a]) for ids, a in zip(batch["input_ids"], answers, strict=True)]
        for i in range(count):
            ids = batch["input_ids"][i]
            rows.append(
                {
                    "prompt": tokenizer.decode(ids[seen[i] & ~answers[i]]),
                    "chosen": texts[i],
                    "rejected": texts[count + i],
                    "ids": ids[seen[i]].tolist(),  # of the chosen one
                    "pixels": batch["pixel_values"],  # a pair a batch: for both answers
                }
            )
    return rows


def _checkpoint(family: str, root: Path) -> Path:
    """The tiny checkpoint, in which some tokens have the numbers of the hub's."""
    if (root / family).exists():
        return root / family
    folder, ids = build(family, root), HUB_IDS.get(family, {})
    tokens = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    old = {entry["id"]: ids[entry["content"]] for entry in tokens["added_tokens"] if entry["content"] in ids}
    for entry in tokens["added_tokens"]:
        entry["id"] = old.get(entry["id"], entry["id"])
    tokens["model"]["vocab"] = {word: old.get(n, n) for word, n in tokens["model"]["vocab"].items()}
    rows = max([*old.values(), config["text_config"]["vocab_size"] - 1]) + 1
    for part in (config, config["text_config"]):
        for name, value in part.items():
            if name.endswith(("_token_id", "_token_index")) and not isinstance(value, list):
                part[name] = old.get(value, value)
            elif name == "vocab_size":
                part[name] = rows
    weights = load_file(folder / "model.safetensors")
    for name, weight in weights.items():
        if name.endswith(("embed_tokens.weight", "lm_head.weight")):
            weights[name] = torch.cat([weight, torch.zeros(rows - len(weight), weight.shape[1])])
            for before, now in old.items():
                weights[name][now] = weight[before]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    for name, value in (("tokenizer.json", tokens), ("config.json", config)):
        (folder / name).write_text(json.dumps(value), encoding="utf-8")
    return folder


def _with_video(checkpoint: Path, family: str, python: Path) -> None:
    if family not in VIDEO_PROCESSORS or (checkpoint / "video_preprocessor_config.json").exists():
        return
    name, patch = VIDEO_PROCESSORS[family]
    words = [str(python), "-c", VIDEO, f"{name}VideoProcessor", str(patch), str(checkpoint)]
    subprocess.run(words, check=True, capture_output=True)


def _start(command: str, folder: Path, python: Path) -> None:
    env = {
        **os.environ,
        "PATH": f"{python.parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(HERE),
        "SPR_BATCHES": str(folder),
        "HF_HUB_OFFLINE": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    with (folder / "log.txt").open("wb") as log:
        done = subprocess.run(command.split(), cwd=folder, env=env, stdout=log, stderr=subprocess.STDOUT)
    if done.returncode:
        lines = (folder / "log.txt").read_text(errors="replace").strip().splitlines()
        raise AssertionError(f"{command}: exit code {done.returncode}: {lines[-1]}")


def table(golden: Mapping[Format, Mapping[str, Any]]) -> str:
    """The table of docs/training.md."""
    golden = {kind: golden[kind] for kind in TRIED if kind in golden}
    heads = [f"{maker} {version}" for maker, _, version in (TRIED[kind] for kind in golden)]
    lines = [f"| family | {' | '.join(heads)} |", "| --- |" + " --- |" * len(heads)]
    for family in FAMILIES:
        cells = []
        for families in golden.values():
            rows = families.get(family, {}).get("rows")
            cells.append("refused" if rows is None else _as_ours(rows))
        lines.append(f"| {family} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _as_ours(rows: Sequence[Mapping[str, Any]]) -> str:
    return "as ours" if all(row["as_ours"] for row in rows) else "differs"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", choices=list(TRIED))
    parser.add_argument("--family", choices=list(FAMILIES))
    parser.add_argument("--update", action="store_true")
    asked = parser.parse_args()
    root = Path("runs", "check-exports").resolve()
    failed = False
    golden: dict[Format, Any] = json.loads(GOLDEN.read_text(encoding="utf-8")) if GOLDEN.exists() else {}
    for kind in [asked.only] if asked.only else TRIED:
        python = environment(kind, root)
        for family in [asked.family] if asked.family else FAMILIES:
            try:
                found = run_export(kind, family, python, root)
                said = f"{len(found['rows'])} pairs, {found['layers']} layers, loss {found['loss']}: "
                said += _as_ours(found["rows"])
                golden.setdefault(kind, {})[family] = found
            except ConfigError as e:
                said = f"refused: {e}"
                golden.get(kind, {}).pop(family, None)
            except AssertionError as e:
                said, failed = f"WRONG: {e}", True
            print(f"{TRIED[kind][0]} {TRIED[kind][2]}, {family}: {said}", flush=True)
    if asked.update:
        golden = {kind: golden[kind] for kind in TRIED if kind in golden}
        GOLDEN.write_text(json.dumps(golden, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"\n{table(golden)}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
