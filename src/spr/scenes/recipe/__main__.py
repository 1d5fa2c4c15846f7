"""`python -m spr.scenes.recipe`: train the three embedded checkpoints from nothing. Run it again to go on
where a kill left it.

In: nothing. Out, under `--out`: data/ (2.5 GB), a state per stage, recipe.log, curves/,
checkpoints/{mllm,mllm_tight,clip,owl} and measures.json: the new checkpoints beside the shipped ones on `val`
(`spr.scenes.recipe.measure`). Nothing is replaced: copy a checkpoint into the package where it is better.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from spr.errors import ConfigError
from spr.models.loading import save_checkpoint
from spr.scenes.embedded import CHECKPOINTS, checkpoint_folder
from spr.scenes.recipe.architectures import build_clip, build_mllm, build_owl
from spr.scenes.recipe.clip import train_clip
from spr.scenes.recipe.data import write_sets
from spr.scenes.recipe.dense import train_dense
from spr.scenes.recipe.loop import Workshop, say
from spr.scenes.recipe.measure import measure
from spr.scenes.recipe.mllm import train_align, train_answers
from spr.scenes.recipe.owl import train_owl
from spr.store.files import whole


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage: its steps at scale 1, and what does it."""

    steps: int
    train: Callable[[Workshop, int], None]


def _answers(
    name: str, start: str, rate: float, fade: float = 0.0, loose: bool = False
) -> Callable[[Workshop, int], None]:
    return lambda shop, steps: train_answers(shop, name, steps, start, rate, fade, loose)


STAGES: Mapping[str, Stage] = {
    "dense": Stage(2400, train_dense),
    "align": Stage(900, train_align),
    "instruct": Stage(3000, _answers("instruct", "align", 1e-3, fade=0.35)),
    "refine": Stage(2100, _answers("refine", "instruct", 7e-4)),
    "loosen": Stage(430, _answers("loosen", "refine", 4e-4, loose=True)),
    "clip": Stage(600, train_clip),
    "owl": Stage(1200, train_owl),
}
# checkpoint: the stage that makes it, and how it is built
SAVED: Mapping[str, tuple[str, Callable[[], tuple[torch.nn.Module, object]]]] = {
    "mllm_tight": ("refine", build_mllm),
    "mllm": ("loosen", build_mllm),
    "clip": ("clip", build_clip),
    "owl": ("owl", build_owl),
}


def save(shop: Workshop, name: str) -> Path:
    """Write a checkpoint as a folder for from_pretrained, in float16, unless it is there."""
    stage, build = SAVED[name]
    folder = shop.folder / "checkpoints" / name
    if not folder.exists():
        model, processor = build()
        model.load_state_dict(shop.part(stage))
        folder.parent.mkdir(parents=True, exist_ok=True)
        with whole(folder) as temporary:
            save_checkpoint(model.half(), processor, temporary)  # type: ignore[arg-type]
    return folder


def run(folder: Path, scale: float, limit: int) -> None:
    """All that is missing of a run of the recipe."""
    folder.mkdir(parents=True, exist_ok=True)
    made = {"scale": scale, "steps": {name: stage.steps for name, stage in STAGES.items()}}
    about = folder / "recipe.json"
    if about.exists() and json.loads(about.read_text(encoding="utf-8")) != made:
        raise ConfigError(f"{about}: found a run of another recipe, expected {made}; choose another --out")
    about.write_text(json.dumps(made) + "\n", encoding="utf-8")
    shop, log = Workshop(folder, scale), folder / "recipe.log"
    write_sets(folder / "data", scale, torch.get_num_threads())
    for stage in STAGES.values():
        stage.train(shop, stage.steps)
    figures: dict[str, dict[str, object]] = {}
    for name in SAVED:
        figures[name] = {"new": measure(str(save(shop, name)), name, limit)}
        if name in CHECKPOINTS:
            figures[name]["shipped"] = measure(str(checkpoint_folder(name)), name, limit)
        say(log, f"{name} on val: {json.dumps(figures[name])}")
    (folder / "measures.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m spr.scenes.recipe",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, default=Path("runs/recipe"))
    parser.add_argument(
        "--scale", type=float, default=1.0, help="share of data and steps, e.g. 0.01 for a smoke run"
    )
    parser.add_argument(
        "--limit",
        type=int,
        default=1200,
        help="expressions and regions of val that the checkpoints are measured on",
    )
    args = parser.parse_args(arguments)
    run(args.out, args.scale, args.limit)


if __name__ == "__main__":
    main()
