"""Online reinforcement learning with the spatial reward: TRL's GRPOTrainer on the regions of a run, for a few
steps.

    python examples/grpo.py                         # the embedded model, on a CPU, minutes
    python examples/grpo.py CONFIG --steps 200      # your own configuration, as for `spr run`

Describe a region, score the description with the very code of stage `score`, and push the policy towards the
better ones of each group.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from datasets import Dataset, Image
from peft import LoraConfig
from trl import GRPOConfig, GRPOTrainer

from spr.lab.demo import CONFIG
from spr.models.loading import load_mllm
from spr.rewards import SpatialReward
from spr.run.pipeline import run_pipeline
from spr.run.wiring import build_detector, build_scorer, dialect_of, image_store, load_config
from spr.stages.prompts import CANONICAL, question
from spr.store.progress import Progress
from spr.training.adapter import target_pattern
from spr.types import Region


def data_of(regions: list[Region], dialect: Any, load_image: Any) -> Dataset:
    """One row per region: the canonical question, the picture, and the region for the reward."""
    rows = [
        {
            "prompt": [{"role": "user", "content": question(CANONICAL, r, dialect)}],
            "image": load_image(r.image),
            "region": json.dumps(asdict(r)),
        }
        for r in regions
    ]
    return Dataset.from_list(rows).cast_column("image", Image())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", nargs="?", type=Path, default=CONFIG)
    parser.add_argument("--out", type=Path, default=Path("runs/grpo"))
    parser.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="A.B=C",
        help="override a value of the configuration",
    )
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--regions", type=int, default=16)
    parser.add_argument("--group", type=int, default=4, help="descriptions per region and step")
    args = parser.parse_args()

    config = load_config(
        args.config, [f"run={args.out.absolute()}", f"regions.max_images={args.regions}", *args.overrides]
    )
    run = run_pipeline(config, Progress(), until="regions")
    store, dialect = image_store(config), dialect_of(config)
    reward = SpatialReward(
        build_scorer(config, store), build_detector(config, store), dialect, config.pair.lam, config.score
    )

    model, processor = load_mllm(config.model.checkpoint, config.model.device)
    settings = GRPOConfig(
        output_dir=str(args.out / "grpo"),
        max_steps=args.steps,
        per_device_train_batch_size=args.group,
        num_generations=args.group,
        max_completion_length=config.describe.max_new_tokens,
        temperature=config.describe.temperature,
        learning_rate=1e-5,
        bf16=False,
        use_cpu=config.model.device == "cpu",
        report_to="none",
        logging_steps=1,
        seed=config.seed,
    )
    trainer = GRPOTrainer(
        model,
        reward_funcs=reward.as_trl_reward(),
        args=settings,
        train_dataset=data_of(run.read_stage(Region, "regions"), dialect, store.load),
        processing_class=processor,
        peft_config=LoraConfig(
            target_modules=target_pattern(model), r=16, lora_alpha=32, task_type="CAUSAL_LM"
        ),
    )
    trainer.train()
    for line in trainer.state.log_history:
        if "reward" in line:
            shown = (
                "none: no description had a score"
                if line["reward"] is None
                else f"{line['reward']:.4f}, spread in a group {line['reward_std']:.4f}"
            )
            print(f"step {line['step']}: reward {shown}")


if __name__ == "__main__":
    main()
