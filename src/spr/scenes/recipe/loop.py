"""One resumable training loop for all stages of the recipe, and the folder that they share.

In: a module, a function step -> (loss, figures), how many steps. Out: the trained module, a CSV of figures, a
log. Every few minutes weights, optimiser and step are written in one atomic file; data and noise depend on
(stage, step) only, so that a killed stage goes on as if nothing had happened.
"""

from __future__ import annotations

import csv
import math
import signal
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from spr.scenes.recipe.data import TrainingSet, read_set
from spr.store.files import whole

StepLoss = Callable[[int], tuple[torch.Tensor, Mapping[str, float]]]


@dataclass(frozen=True)
class Schedule:
    """How a stage is trained. Rates are for AdamW: linear warm-up, then cosine down to a hundredth."""

    steps: int
    rate: float
    warmup: int = 100
    weight_decay: float = 0.02
    clip: float = 1.0
    slow: str = ""  # parameters with this in their name learn at half the rate; "" = none

    def factor(self, step: int) -> float:
        """The share of the peak rate at a step."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done))


@dataclass
class Workshop:
    """The folder of a run of the recipe. `scale` < 1 makes everything smaller: data, steps and, below a
    tenth, batches.
    """

    folder: Path
    scale: float = 1.0
    _sets: dict[str, TrainingSet] = field(default_factory=dict)

    def steps(self, full: int) -> int:
        """Steps of a stage that has `full` at scale 1."""
        return max(2, round(full * self.scale))

    def set(self, name: str) -> TrainingSet:
        """A set of training data; read once."""
        if name not in self._sets:
            self._sets[name] = read_set(self.folder / "data", name)
        return self._sets[name]

    def draw(self, stage: str, step: int, population: int, batch: int) -> NDArray[np.int64]:
        """Which scenes a step sees: a function of stage and step, sorted."""
        size = min(batch, population, max(2, round(batch * min(1.0, 10 * self.scale))))
        rng = np.random.default_rng([zlib.crc32(stage.encode()), step])
        return np.sort(rng.choice(population, size, replace=False))

    def part(self, stage: str, prefix: str = "") -> dict[str, torch.Tensor]:
        """The trained weights of a finished stage whose names begin with `prefix`, without it."""
        weights: dict[str, torch.Tensor] = torch.load(self.folder / f"{stage}.pt", weights_only=True)["model"]
        return {
            name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)
        }


def say(log: Path, text: str) -> None:
    """A line to the screen and to the log, with the time of day."""
    line = f"{time.strftime('%H:%M:%S')} {text}"
    print(line, flush=True)
    with log.open("a", encoding="utf-8") as f:
        f.write(line + "\n")


class _Stop:
    """Remembers that SIGTERM arrived, so that the state can be saved first."""

    def __init__(self) -> None:
        self.asked = False
        self._before = signal.signal(signal.SIGTERM, self._ask)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.asked = True

    def close(self) -> None:
        signal.signal(signal.SIGTERM, self._before)


def save_state(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer | None, step: int) -> None:
    """Write weights, optimiser and step, whole or not at all."""
    state = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict() if optimizer else None,
        "step": step,
    }
    with whole(path) as temporary:
        torch.save(state, temporary)


def train_stage(
    name: str,
    model: nn.Module,
    loss_at: StepLoss,
    schedule: Schedule,
    folder: Path,
    save_seconds: float = 180.0,
    stop_after: int | None = None,
) -> None:
    """Train in place, from where `folder/<name>.pt` stands. `stop_after` ends early, as a kill would (for the
    test).
    """
    folder.mkdir(parents=True, exist_ok=True)
    state_path, log, curve = folder / f"{name}.pt", folder / "recipe.log", folder / "curves" / f"{name}.csv"
    curve.parent.mkdir(exist_ok=True)
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    trained, groups = [p for _, p in named], []
    for scale, slow in ((1.0, False), (0.5, True)):
        mine = [p for n, p in named if (bool(schedule.slow) and schedule.slow in n) == slow]
        groups += [
            {
                "params": [p for p in mine if (p.ndim > 1) == matrix],
                "weight_decay": schedule.weight_decay if matrix else 0.0,
                "scale": scale,
            }
            for matrix in (True, False)
        ]
    optimizer = torch.optim.AdamW([g for g in groups if g["params"]], betas=(0.9, 0.98))
    step = 0
    if state_path.exists():
        state = torch.load(state_path, weights_only=True)
        model.load_state_dict(state["model"])
        step = state["step"]
        if state["optimizer"] is not None:
            optimizer.load_state_dict(state["optimizer"])
    if step >= schedule.steps:
        return
    say(log, f"{name}: step {step} of {schedule.steps}")
    stop, last, begin = _Stop(), time.monotonic(), time.monotonic()
    model.train()
    while step < schedule.steps and not stop.asked and step != stop_after:
        for group in optimizer.param_groups:
            group["lr"] = schedule.rate * schedule.factor(step) * group["scale"]
        loss, figures = loss_at(step)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(trained, schedule.clip)
        optimizer.step()
        step += 1
        if step % 25 == 0 or step == schedule.steps:
            _record(
                curve,
                {
                    "step": step,
                    "seconds": round(time.monotonic() - begin, 1),
                    "loss": round(loss.item(), 4),
                    **figures,
                },
            )
        if step % 100 == 0:
            shown = " ".join(f"{k} {v:.3f}" for k, v in figures.items())
            say(
                log,
                f"{name}: {step}/{schedule.steps} loss {loss.item():.4f} {shown} "
                f"({(time.monotonic() - begin) / 60:.1f} min)",
            )
        if time.monotonic() - last > save_seconds:
            save_state(state_path, model, optimizer, step)
            last = time.monotonic()
    save_state(state_path, model, optimizer if step < schedule.steps else None, step)
    stop.close()
    if stop.asked:
        say(log, f"{name}: stopped at step {step}; the same command goes on")
        raise SystemExit(143)


def _record(path: Path, row: Mapping[str, float]) -> None:
    new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as f:
        writer = csv.DictWriter(f, list(row))
        if new:
            writer.writeheader()
        writer.writerow(row)
