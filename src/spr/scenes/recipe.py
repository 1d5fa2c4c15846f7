"""`python -m spr.scenes.recipe`: train the three embedded checkpoints from nothing, on two cores, resumable.

    detector (tower, dense)  ->  align  ->  instruct  ->  loose   = the MLLM
                             ->  clip

In: nothing but the art. Out: `OUT/checkpoints/{mllm,clip,detector}` (fp16 safetensors with processors), `OUT/recipe.log`, `OUT/curves/*.csv`. The
tower is trained once, as the detector, and copied into the other two (they then go their own ways): on a CPU that is most of the cost.
Boxes of the last stage are pushed outward as web-scale instruction data are (see objectives.LOOSE): a modelling choice, stated in the README.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from spr.scenes.architectures import PIXELS, build_clip, build_detector, build_mllm, copy_tower
from spr.scenes.language import description
from spr.scenes.loop import Schedule, say, train_stage
from spr.scenes.objectives import (
    AlignTrainer,
    ClipTrainer,
    DetectorTrainer,
    InstructTrainer,
    detector_targets,
    random_region,
    rng_of,
    turns_of,
)
from spr.scenes.pool import MEAN, STD, Pool, make_pool
from spr.scenes.world import SIZE

STAGES = ("detector", "align", "instruct", "loose", "clip")
SCHEDULES = {
    "detector": Schedule(1600, 1.5e-3, 160),
    "align": Schedule(600, 1.2e-3, 60, weight_decay=0.0),
    "instruct": Schedule(1600, 1.2e-3, 100),
    "loose": Schedule(250, 4e-4, 30),
    "clip": Schedule(600, 8e-4, 60),
}
SEED = 7
SCENES, EASY = 26_000, 6_000


class Recipe:
    """The stages, each a method that trains from where its file stands and returns its model."""

    def __init__(self, out: Path, pools: Path, schedules: dict[str, Schedule], scenes: int = SCENES, easy: int = EASY, batch: int = 64) -> None:
        self.out, self.schedules, self.batch = out, schedules, batch
        out.mkdir(parents=True, exist_ok=True)
        say(out / "recipe.log", "drawing scenes")
        self.full = make_pool(pools, f"train-{scenes}", "train", 0, scenes, SEED)
        self.easy = make_pool(pools, f"easy-{easy}", "train", 10_000_000, easy, SEED, (1, 3))

    def indices(self, stage: str, step: int, count: int, pool: Pool) -> list[int]:
        """Scenes of a step: epochs of a permutation."""
        per_epoch = pool.size // count
        order = np.random.default_rng([sum(map(ord, stage)), step // per_epoch, 1]).permutation(pool.size)
        at = (step % per_epoch) * count
        return [int(i) for i in order[at : at + count]]

    def detector(self) -> tuple[Any, Any]:
        """Stage `detector`."""
        torch.manual_seed(SEED)
        model, processor = build_detector()
        trainer = DetectorTrainer(model, processor.tokenizer)

        def loss_at(step: int) -> Any:
            chosen = self.indices("detector", step, self.batch, self.full)
            return trainer(self.full.images(chosen), detector_targets(self.full, chosen), trainer.queries(rng_of("detector", step)))

        train_stage("detector", trainer, loss_at, self.schedules["detector"], self.out)
        return trainer, processor

    def align(self) -> tuple[Any, Any]:
        """Stage `align`: tower, projector and embeddings; the language model stands still."""
        torch.manual_seed(SEED + 1)
        mllm, processor = build_mllm()
        copy_tower(self.detector()[0].model.owlv2.vision_model, mllm.model.vision_tower)
        trainer = AlignTrainer(mllm, processor.tokenizer)
        for name, p in mllm.named_parameters():
            p.requires_grad = any(part in name for part in ("vision_tower", "projector", "embed_tokens"))

        def loss_at(step: int) -> Any:
            chosen = self.indices("align", step, self.batch, self.full)
            return trainer(self.full.images(chosen), detector_targets(self.full, chosen))

        train_stage("align", trainer, loss_at, self.schedules["align"], self.out)
        return trainer, processor

    def _talk(self, stage: str, trainer: InstructTrainer, loose: bool, easy_until: float, counts: tuple[int, int, int] = (2, 4, 1)) -> None:
        schedule, batch = self.schedules[stage], max(2, self.batch // 4)

        def loss_at(step: int) -> Any:
            rng = rng_of(stage, step)
            share = max(0.0, 0.9 * (1 - step / (easy_until * schedule.steps))) if easy_until else 0.0
            pool = self.easy if rng.random() < share else self.full
            chosen = self.indices(stage, step, batch, pool)
            turns = [turns_of(pool.objects[i], rng, loose, counts) for i in chosen]
            return trainer(pool.images(chosen), trainer.rows(turns))

        train_stage(stage, trainer, loss_at, schedule, self.out)

    def instruct(self) -> tuple[Any, Any]:
        """Stage `instruct`: the language model learns to talk; scenes of 1-3 objects fade out over the first 35 %.

        Tower and projector stand still: trained along, a language model that began at random wiped the boxes out of them within 2000 steps.
        """
        align, processor = self.align()
        for name, p in align.mllm.named_parameters():
            p.requires_grad = not any(part in name for part in ("vision_tower", "projector"))
        trainer = InstructTrainer(align.mllm, processor.tokenizer, blur=4.0, pointing=0.5)
        self._talk("instruct", trainer, loose=False, easy_until=0.35, counts=(1, 6, 1))
        return trainer, processor

    def loose(self) -> tuple[Any, Any]:
        """Stage `loose`: the shipped base."""
        before, processor = self.instruct()
        trainer = InstructTrainer(before.mllm, processor.tokenizer, blur=0.0)
        self._talk("loose", trainer, loose=True, easy_until=0.0)
        return trainer, processor

    def clip(self) -> tuple[Any, Any]:
        """Stage `clip`: two crops of each scene against their descriptions."""
        torch.manual_seed(SEED + 2)
        model, processor = build_clip()
        copy_tower(self.detector()[0].model.owlv2.vision_model, model.vision_model)
        trainer = ClipTrainer(model, processor.tokenizer)

        def loss_at(step: int) -> Any:
            rng = rng_of("clip", step)
            pixels, texts = crops(self.full, self.indices("clip", step, self.batch // 2, self.full), rng)
            return trainer(pixels, texts)

        train_stage("clip", trainer, loss_at, self.schedules["clip"], self.out)
        return trainer, processor


def crops(pool: Pool, indices: list[int], rng: np.random.Generator) -> tuple[torch.Tensor, list[str]]:
    """Two random regions per scene as 112 px pictures, with the plain text of their descriptions; every tenth is the whole image."""
    pictures, texts = [], []
    for i in indices:
        image, objects = Image.fromarray(np.asarray(pool.pixels[i])), pool.objects[i]
        for _ in range(2):
            region = random_region([o.box for o in objects], rng) if rng.random() > 0.1 else (0.0, 0.0, float(SIZE), float(SIZE))
            scale = PIXELS / SIZE
            x1, y1, x2, y2 = (v * scale for v in region)
            pictures.append(np.asarray(image.resize((PIXELS, PIXELS), Image.Resampling.BICUBIC, box=(x1, y1, x2, y2))))
            parts = description(objects, region, rng)
            texts.append("".join(p if isinstance(p, str) else p[0] for p in parts))
    raw = torch.from_numpy(np.stack(pictures))
    return (raw.permute(0, 3, 1, 2).float() / 255 - MEAN) / STD, texts


def export(recipe: Recipe, out: Path) -> None:
    """fp16 safetensors and processors, in shards below 3 MB."""
    for name, (trainer, processor) in {"detector": recipe.detector(), "clip": recipe.clip(), "mllm": recipe.loose()}.items():
        model = trainer.mllm if name == "mllm" else trainer.model
        model.half().save_pretrained(out / name, max_shard_size="2900KB")
        processor.save_pretrained(out / name)


def main() -> None:
    """Command line of the recipe."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/recipe"))
    parser.add_argument("--resume", action="store_true", help="go on where OUT stands (without it, OUT must be empty)")
    parser.add_argument("--stage", choices=STAGES, help="train up to this stage only; the default trains and exports all")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--scale", type=float, default=1.0, help="share of the steps (for trials)")
    args = parser.parse_args()
    if any(args.out.glob("*.pt")) and not args.resume:
        parser.error(f"{args.out} holds a recipe already: add --resume to go on")
    torch.set_num_threads(args.threads)
    schedules = {name: replace(s, steps=max(2, round(s.steps * args.scale))) for name, s in SCHEDULES.items()}
    recipe = Recipe(args.out, args.out / "pools", schedules)
    stages: dict[str, Callable[[], object]] = {name: getattr(recipe, name) for name in STAGES}
    if args.stage:
        stages[args.stage]()
        return
    recipe.loose()
    recipe.clip()
    export(recipe, args.out / "checkpoints")
    say(args.out / "recipe.log", "exported")


if __name__ == "__main__":
    main()
