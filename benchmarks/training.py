"""Preference training: ours against TRL's DPOTrainer, the same pairs, adapter, order, optimiser and schedule.

    python -m benchmarks.training            # a model of 12 million parameters, minutes
    python -m benchmarks.training --large    # the 145 million parameter model of the targets, hours on two
                                             cores

Each side runs in a process of its own; losses are compared first. The FLOP ceiling says what sharing can give
for this model and layout at best: a ratio near it means that nothing is left on the table, a ratio above it
that the peer loses time elsewhere (it computes entropies, and its longer rows cost caches). Times are CPU
seconds of one thread, so that other work on the machine does not count. TRL 1.16 never materialises full
logits, but on a CPU it computes every position and on Triton devices only the answers': the ceiling is
printed both ways.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from spr.store.progress import Progress
from spr.types import Score, TrainingPair

SCORE = Score(0.5, 0.3, 0.3, 0.3, 0.7)
WORDS = ["cat", "dog", "car", "tree", "apple", "bus", "cow", "horse", "sheep", "boat"]


@dataclass(frozen=True)
class Model:
    """Sizes of a LLaVA-class model with random weights."""

    width: int = 256
    layers: int = 8
    inner: int = 688
    vocabulary: int = 8192
    vision_width: int = 256
    vision_layers: int = 6


SMALL = Model()
LARGE = Model(768, 12, 2048, 32000, 768, 6)  # 145 million parameters


@dataclass(frozen=True)
class Case:
    """A layout. Token counts of one pair; the image has `grid` x `grid` tokens."""

    name: str
    grid: int = 24
    prompt: int = 100
    answer: int = 150
    per_image: int = 1
    batch: int = 2
    steps: int = 3
    same_prompt: bool = False

    @property
    def prefix(self) -> int:
        return self.grid**2 + self.prompt


CASES = (
    Case("one pair per image, long prompt"),
    Case("one pair per image, short prompt", prompt=20),
    Case("four pairs per image, four prompts", per_image=4, batch=4, steps=2),
    Case("four pairs per image, one prompt", per_image=4, batch=4, steps=2, same_prompt=True),
)
SWEEP = tuple(Case(f"{g * g} image tokens", grid=g) for g in (8, 12, 16, 20))


# --- data -----------------------------------------------------------------------------------------


def text(rng: np.random.Generator, tokens: int) -> str:
    return " ".join(WORDS[i] for i in rng.integers(0, len(WORDS), tokens))


def pairs_of(case: Case) -> list[TrainingPair]:
    rng = np.random.default_rng(0)
    common = text(rng, case.prompt)
    pairs = []
    for i in range(case.batch * case.steps):
        prompt = common if case.same_prompt else text(rng, case.prompt)
        answers = (text(rng, case.answer), text(rng, case.answer))
        pairs.append(
            TrainingPair(
                str(i),
                f"{i // case.per_image}@{case.grid * 14}",
                64,
                64,
                (0, 0, 9, 9),
                prompt,
                *answers,
                0.2,
                0,
                1,
                SCORE,
                SCORE,
            )
        )
    return pairs


def load_image(path: str) -> Any:
    from PIL import Image

    seed, _, side = path.partition("@")
    return Image.fromarray(
        np.random.default_rng(int(seed)).integers(0, 255, (int(side), int(side), 3), dtype=np.uint8)
    )


def build(model: Model, case: Case, folder: Path) -> str:
    """Write the checkpoint; returns its folder."""
    import torch
    from transformers import (
        CLIPImageProcessorPil,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
    )

    from spr.models.loading import save_checkpoint
    from spr.scenes.recipe.vocabulary import build_tokenizer

    side = case.grid * 14
    tokenizer = build_tokenizer()
    heads = model.width // 64
    vision = CLIPVisionConfig(
        hidden_size=model.vision_width,
        intermediate_size=4 * model.vision_width,
        num_hidden_layers=model.vision_layers,
        num_attention_heads=model.vision_width // 64,
        image_size=side,
        patch_size=14,
    )
    language = LlamaConfig(
        vocab_size=model.vocabulary,
        hidden_size=model.width,
        intermediate_size=model.inner,
        num_hidden_layers=model.layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=4096,
        pad_token_id=0,
        bos_token_id=2,
        eos_token_id=tokenizer.eos_token_id,
    )
    torch.manual_seed(0)
    token = tokenizer.get_vocab()["<image>"]
    config = LlavaConfig(
        vision_config=vision, text_config=language, image_token_index=token, image_seq_length=case.grid**2
    )
    images = CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
    made: Any = LlavaProcessor
    parts = {"patch_size": 14, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
    processor = made(images, tokenizer, **parts, chat_template=tokenizer.chat_template)
    save_checkpoint(LlavaForConditionalGeneration(config), processor, folder)
    return str(folder)


# --- the two sides, each in its own process -------------------------------------------------------


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


class Clock(Progress):
    """When the reference pass began and ended, and when each step ended."""

    def __init__(self) -> None:
        self.marks: list[tuple[str, float]] = []
        self._what = ""

    def start(self, what: str, total: int, done: int = 0) -> None:
        self._what = what
        self.marks.append((f"{what} starts", time.process_time()))
        if what == "train: reference":
            self.loaded = peak_mb()

    def advance(self, count: int) -> None:
        self.marks.append((self._what, time.process_time()))


def run_ours(folder: str, case: Case, out: str, defaults: bool) -> dict[str, Any]:
    """Two epochs: the first with the reference pass, the second without. `defaults`: computed as TRL does it
    by default, in bfloat16 and with gradient checkpointing.
    """
    from spr.training.config import TrainConfig
    from spr.training.trainer import train

    clock = Clock()
    config = TrainConfig(
        batch=case.batch,
        epochs=2,
        learning_rate=1e-4,
        warmup=0.0,
        device="cpu",
        save_steps=10_000,
        autocast=defaults,
        trainer={"gradient_checkpointing": True} if defaults else {},
    )
    result = train(pairs_of(case), folder, out, config, load_image, progress=clock)
    at = [t for name, t in clock.marks if name == "train"]
    reference = [t for name, t in clock.marks if name.startswith("train: reference")]
    begin = next(t for name, t in clock.marks if name == "train starts")
    first = (reference[-1] - reference[0]) + (at[case.steps - 1] - begin)
    n = case.batch * case.steps
    losses = [json.loads(line)["loss"] for line in (Path(out) / "history.jsonl").read_text().splitlines()]
    return {
        "first": n / first,
        "later": n / (at[-1] - at[case.steps - 1]),
        "losses": losses[: case.steps],
        "peak": peak_mb() - clock.loaded,
        "shared": result.figures["tokens_shared"],
    }


def run_trl(folder: str, case: Case, out: str, defaults: bool) -> dict[str, Any]:
    """TRL, float32 and without gradient checkpointing like ours, or with its own defaults (bf16,
    checkpointing).
    """
    import torch
    from datasets import Dataset, Image
    from transformers import TrainerCallback
    from trl.trainer.dpo_config import DPOConfig
    from trl.trainer.dpo_trainer import DPOTrainer

    from spr.models.loading import load_mllm
    from spr.training.adapter import attach
    from spr.training.config import TrainConfig
    from spr.training.encode import Encoder
    from spr.training.plan import steps_of

    model, processor = load_mllm(folder)
    encoder = Encoder(model, processor, load_image)
    pairs = pairs_of(case)
    order = [i for step in steps_of([encoder.encode(p) for p in pairs], case.batch, 1, 0) for i in step]
    rows = [
        {
            "images": [load_image(p.image)],
            "prompt": encoder.prompt_text(p.prompt),
            "chosen": encoder.completion_text(p.prompt, p.chosen),
            "rejected": encoder.completion_text(p.prompt, p.rejected),
        }
        for p in (pairs[i] for i in order)
    ]
    data = Dataset.from_list(rows).cast_column("images", [Image()])
    torch.manual_seed(0)
    peft = attach(model, TrainConfig())
    plain: dict[str, Any] = (
        {} if defaults else {"bf16": False, "gradient_checkpointing": False, "disable_dropout": True}
    )
    total = 2 * case.steps  # the schedule of our two epochs, of which the first is run here
    args = DPOConfig(
        out,
        max_length=None,
        per_device_train_batch_size=case.batch,
        learning_rate=1e-4,
        lr_scheduler_type="cosine",
        max_steps=total,
        use_cpu=True,
        report_to="none",
        save_strategy="no",
        logging_steps=1,
        disable_tqdm=True,
        dataloader_pin_memory=False,
        seed=0,
        **plain,
    )
    times: list[float] = []

    class Stop(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            times.append(time.process_time())
            control.should_training_stop = state.global_step == case.steps

    trainer = DPOTrainer(peft, args=args, train_dataset=data, processing_class=processor, callbacks=[Stop()])
    setattr(trainer, "_get_train_sampler", lambda *_: torch.utils.data.SequentialSampler(data))  # noqa: B010
    loaded, begin = peak_mb(), time.process_time()
    trainer.train()
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    return {
        "speed": case.batch * case.steps / (times[-1] - begin),
        "losses": losses,
        "peak": peak_mb() - loaded,
    }


def in_process(side: str, folder: str, case: Case) -> dict[str, Any]:
    """Run one side in a fresh interpreter with one thread, so that its peak memory is its own."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-m", "benchmarks.training", "--side", side, folder, json.dumps(asdict(case))]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{side}: {done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


# --- what sharing can give ------------------------------------------------------------------------


def body(model: Model, rows: int, length: int) -> float:
    """FLOPs of the language model's layers, attention over the whole row."""
    linear = 2 * rows * length * model.layers * (4 * model.width**2 + 3 * model.width * model.inner)
    return linear + 4 * rows * length**2 * model.width * model.layers


def head(model: Model, tokens: int) -> float:
    return 2.0 * tokens * model.width * model.vocabulary


def tower(model: Model, case: Case) -> float:
    n, d = case.grid**2 + 1, model.vision_width
    return model.vision_layers * (2 * n * 12 * d**2 + 4 * n**2 * d)


def ceilings(model: Model, case: Case, checkpointing: bool = False) -> dict[str, float]:
    """FLOPs of TRL / FLOPs of ours. LoRA: backward = forward, and with checkpointing a further forward of the
    layers. The parts say what each saving is worth of TRL's first-epoch FLOPs.
    """
    step = 3 if checkpointing else 2
    k, sequence = case.per_image, case.prefix + case.answer
    plain_body, plain_head, answers = (
        body(model, 2 * k, sequence),
        head(model, 2 * k * sequence),
        head(model, 2 * k * case.answer),
    )
    prefix = case.prefix if case.same_prompt or k == 1 else case.grid**2 + k * case.prompt
    packed = body(model, 1, prefix + 2 * k * case.answer)
    vision = tower(model, case)
    trl = (step + 1) * plain_body + 3 * plain_head + 4 * k * vision
    parts = {
        "vision": (4 * k - 1) * vision,
        "prompt": (step + 1) * (plain_body - packed),
        "head": 3 * (plain_head - answers),
        "reference": packed + answers,
    }
    first, later = (step + 1) * packed + 3 * answers + vision, step * packed + 2 * answers
    triton = trl - parts["head"]
    found = {
        "first": trl / first,
        "later": trl / later,
        "first, answers' head only": triton / first,
        "later, answers' head only": triton / later,
    }
    return {**found, **{f"saves {name}": value / trl for name, value in parts.items()}}


EQUAL = {False: 1e-4, True: 2e-2}  # losses, relative: in float32, in bfloat16


def measure(model: Model, case: Case, defaults: bool = False) -> dict[str, Any]:
    """Both sides of a case, checked for equality first."""
    way = "-defaults" if defaults else ""
    with tempfile.TemporaryDirectory() as folder:
        path = build(model, case, Path(folder))
        ours, trl = in_process(f"ours{way}", path, case), in_process(f"trl{way}", path, case)
    worst = max(abs(a - b) / b for a, b in zip(ours["losses"], trl["losses"], strict=True))
    if worst > EQUAL[defaults]:
        raise RuntimeError(f"{case.name}: losses differ by {worst:.1e}: {ours['losses']}, {trl['losses']}")
    limit = ceilings(model, case, defaults)
    first, later = ours["first"] / trl["speed"], ours["later"] / trl["speed"]
    return {
        "case": case.name,
        "settings": "bfloat16, checkpointing" if defaults else "float32",
        "image_tokens": case.grid**2,
        "ours_first": ours["first"],
        "ours_later": ours["later"],
        "peer": trl["speed"],
        "ratio_first": first,
        "ratio_later": later,
        "ceiling_first": limit["first"],
        "ceiling_later": limit["later"],
        "of_ceiling_first": first / limit["first"],
        "of_ceiling_later": later / limit["later"],
        "memory_ours_mb": ours["peak"],
        "memory_peer_mb": trl["peak"],
        "memory_ratio": ours["peak"] / trl["peak"],
        "largest_loss_difference": worst,
        "tokens_shared": ours["shared"],
        "ceilings": limit,
    }


def features(model: Model, case: Case) -> dict[str, float]:
    """What it takes to make the features of an image again, and to read them from a file instead
    (`feature_cache_disk_mb`): milliseconds, medians of nine images.
    """
    from spr.models.loading import load_mllm
    from spr.training.encode import Encoder
    from spr.training.families import family_of
    from spr.training.features import FeatureStore
    from spr.training.policy import Images

    with tempfile.TemporaryDirectory() as folder:
        loaded, processor = load_mllm(build(model, case, Path(folder)))
        assert family_of(loaded).layout is not None
        encoder = Encoder(loaded, processor, load_image)
        store = FeatureStore(0, 1024, Path(folder, "features"))
        images = Images(loaded, encoder, store)
        times: dict[str, list[float]] = {"make": [], "write": [], "read": []}
        for name in (f"{i}@{case.grid * 14}" for i in range(9)):
            marks = [time.perf_counter()]
            made = images.encoded(name, "?")
            marks.append(time.perf_counter())
            store.put(name, made)
            marks.append(time.perf_counter())
            assert store.get(name) is not None
            marks.append(time.perf_counter())
            for what, begin, end in zip(times, marks, marks[1:], strict=False):
                times[what].append(1000 * (end - begin))
        size = sum(path.stat().st_size for path in Path(folder, "features").iterdir()) / 9
    found = {f"{what}_ms": median(values) for what, values in times.items()}
    return {**found, "kb": size / 1024}


def show(rows: Sequence[dict[str, Any]]) -> None:
    print(
        f"\n{rows[0]['settings']:<36}{'TRL':>8}{'first':>8}{'ratio':>8}{'ceiling':>9}{'of it':>7}"
        f"{'later':>8}{'ratio':>8}{'ceiling':>9}{'of it':>7}{'memory':>8}"
    )
    for r in rows:
        line = f"{r['case']:<36}{r['peer']:>8.3f}"
        for epoch in ("first", "later"):
            line += f"{r[f'ours_{epoch}']:>8.3f}{r[f'ratio_{epoch}']:>7.2f}x{r[f'ceiling_{epoch}']:>8.2f}x"
            line += f"{r[f'of_ceiling_{epoch}']:>7.0%}"
        print(f"{line}{r['memory_ratio']:>7.2f}x")
    print(
        "pairs per CPU second, one thread; ratio to TRL, FLOP ceiling and their quotient of the first epoch, "
        "then of later ones; memory: peak over what was loaded"
    )


def plot(rows: Sequence[dict[str, Any]]) -> str:
    """How the ratios move with the number of image tokens, as SVG."""
    width, height, left, bottom = 480, 260, 48, 36
    top = max(max(r["ratio_later"], r["ceiling_later"]) for r in rows) * 1.1
    right = max(r["image_tokens"] for r in rows)

    def at(tokens: float, value: float) -> str:
        x, y = (
            left + tokens / right * (width - left - 16),
            height - bottom - value / top * (height - bottom - 12),
        )
        return f"{x:.1f},{y:.1f}"

    lines = []
    for k, (key, label) in enumerate((("ratio_first", "first epoch"), ("ratio_later", "later epochs"))):
        colour = ("#4269d0", "#d0663b")[k]
        for name, dash in ((key, ""), (key.replace("ratio", "ceiling"), ' stroke-dasharray="4 4"')):
            points = " ".join(at(r["image_tokens"], r[name]) for r in rows)
            lines.append(
                f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"{dash}/>'
            )
        lines.append(
            f'<text x="{left + 10}" y="{24 + 16 * k}" fill="{colour}">{label} (dashed: FLOP ceiling)</text>'
        )
    ticks = [
        f'<text x="{left - 8}" y="{at(0, v).split(",")[1]}" text-anchor="end">{v}x</text>'
        for v in range(1, int(top) + 1)
    ]
    ticks += [
        f'<text x="{at(r["image_tokens"], 0).split(",")[0]}" y="{height - 18}" '
        f'text-anchor="middle">{r["image_tokens"]}</text>'
        for r in rows
    ]
    axis = f'<polyline points="{at(0, top)} {at(0, 0)} {at(right, 0)}" fill="none" stroke="#888"/>'
    title = (
        f'<text x="{width / 2}" y="{height - 3}" text-anchor="middle">image tokens; ours / TRL, pairs '
        "per CPU second</text>"
    )
    head_ = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="12">'
    )
    return (
        "\n".join(
            [
                head_,
                f'<rect width="{width}" height="{height}" fill="white"/>',
                axis,
                *ticks,
                *lines,
                title,
                "</svg>",
            ]
        )
        + "\n"
    )


def run(model: Model = SMALL, sweep: bool = False) -> dict[str, Any]:
    """All cases in float32, and the first and third as TRL comes; `sweep` adds the ratio by number of image
    tokens.
    """
    rows = [measure(model, case) for case in CASES]
    show(rows)
    as_it_comes = [measure(model, case, defaults=True) for case in CASES[::2]]
    show(as_it_comes)
    kept = features(model, CASES[0])
    print(
        f"\nfeatures of an image ({kept['kb']:.0f} KB): made in {kept['make_ms']:.1f} ms, written in "
        f"{kept['write_ms']:.1f} ms, read in {kept['read_ms']:.1f} ms"
    )
    swept = [*(measure(model, case) for case in SWEEP), rows[0]] if sweep else []
    if swept:
        show(swept)
    return {
        "model": asdict(model),
        "cases": rows,
        "as_it_comes": as_it_comes,
        "features": kept,
        "sweep": swept,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--sweep", action="store_true", help="also by number of image tokens")
    parser.add_argument("--side", nargs=3, metavar=("SIDE", "FOLDER", "CASE"), help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path, help="write the figures there")
    parser.add_argument("--plot", type=Path, help="with --sweep: draw it there, as SVG")
    args = parser.parse_args()
    if args.side:
        side, folder, case = args.side[0], args.side[1], Case(**json.loads(args.side[2]))
        with tempfile.TemporaryDirectory() as out:
            run_side = run_ours if side.startswith("ours") else run_trl
            print(json.dumps(run_side(folder, case, out, side.endswith("-defaults"))))
        return
    found = run(LARGE if args.large else SMALL, args.sweep)
    if args.plot and found["sweep"]:
        args.plot.write_text(plot(found["sweep"]), encoding="utf-8")
    if args.json:
        args.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
