"""What a step is judged by: loss, reward margin, accuracy, log-probabilities, speed; and warnings with the
usual cause.

In: sums over the pairs of a step. Out: one line of `history.jsonl` per logged step, its speed for
`times.jsonl`, and warnings.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from spr.training.config import TrainConfig

# The sums that every forward pass adds to; all over pairs, except the two counts of tokens.
SUMS = (
    "loss",
    "margin",
    "accuracy",
    "chosen",
    "rejected",
    "chosen_shift",
    "rejected_shift",
    "pairs",
    "tokens",
    "tokens_plain",
)
Line = dict[str, float | int | None]


class Meter:
    """Adds up sums until the next logged step."""

    def __init__(self) -> None:
        self._total = torch.zeros(len(SUMS), dtype=torch.float64)
        self._since = time.monotonic()

    def add(self, values: Mapping[str, Tensor | float]) -> None:
        """Add the sums of a forward pass."""
        self._total += torch.tensor([float(values.get(name, 0.0)) for name in SUMS], dtype=torch.float64)

    @property
    def total(self) -> Tensor:
        """The sums so far, in the order of SUMS."""
        return self._total

    def line(self, total: Tensor, preference: bool) -> Line:
        """Means per pair since the last line; starts the next one. `total`: the sums of all processes."""
        s = dict(zip(SUMS, total.tolist(), strict=True))
        n = max(s["pairs"], 1.0)
        line: Line = {"loss": s["loss"] / n, "chosen": s["chosen"] / n}
        names = ("margin", "accuracy", "rejected", "chosen_shift", "rejected_shift")
        line |= {name: s[name] / n if preference else None for name in names}
        line |= {"pairs": int(s["pairs"]), "tokens": int(s["tokens"])}
        line["tokens_shared"] = round(1 - s["tokens"] / s["tokens_plain"], 4) if s["tokens_plain"] else 0.0
        self._total = torch.zeros_like(self._total)
        return line

    def speed(self, line: Line) -> Line:
        """How fast the pairs of a line were, by the time since the last call. Equal runs differ."""
        now = time.monotonic()
        speed = round((line["pairs"] or 0) / max(now - self._since, 1e-9), 2)
        self._since = now
        return {"pairs_per_second": speed}


class History:
    """`history.jsonl`, `times.jsonl` and `held_out.jsonl`: one line per logged step. A resumed run first
    removes the lines after the step it resumes from.
    """

    def __init__(self, path: Path, step: int) -> None:
        self._path = path
        self.lines = [line for line in read_history(path) if int(line["step"] or 0) <= step]
        path.write_text("".join(json.dumps(line) + "\n" for line in self.lines), encoding="utf-8")

    def write(self, line: Line) -> None:
        """Append the line of a step that has none yet."""
        if self.lines and self.lines[-1]["step"] == line["step"]:
            return
        self.lines.append(line)
        with self._path.open("a", encoding="utf-8") as f:
            f.write(json.dumps(line) + "\n")


def read_history(path: Path) -> list[Line]:
    """The lines of a history; a last line that a kill cut in two is left out."""
    if not path.exists():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return lines


def warnings_of(history: Sequence[Line], config: TrainConfig, ended: bool = False) -> dict[str, str]:
    """What looks wrong, with the usual cause, by kind. In the order in which a person should look."""
    found: dict[str, str] = {}
    if not history:
        return found
    first, last = history[0], history[-1]
    expected = {"dpo": math.log(2), "length_normalized": math.log(2)}.get(config.loss)
    loss = first["loss"]
    if (
        expected is not None
        and config.margin_scale == config.sft_weight == 0
        and first["step"] == 1
        and loss is not None
        and abs(loss - expected) > 0.02
    ):
        found["start"] = (
            f"the loss starts at {loss:.4f}, not at ln 2 = {expected:.4f}: policy and reference differ "
            "before the first step "
            "(another precision, dropout, or a reference of another model)"
        )
    change, reference = last["chosen_shift"], first["chosen"]
    if change is not None and reference is not None and change < -max(10.0, 0.5 * abs(reference)):
        found["unlearning"] = (
            f"the chosen answers lost {-change:.1f} nats of log-probability: the policy unlearns both "
            "answers; "
            "lower learning_rate or raise beta, or set sft_weight: 1"
        )
    accuracy = last["accuracy"] if config.loss != "sft" else None
    if ended and accuracy is not None and accuracy < 0.5 and len(history) > 20:
        found["undecided"] = (
            "fewer than half of the pairs prefer the chosen answer at the end: the learning rate is too "
            "low, or the pairs contradict each other"
        )
    return found
