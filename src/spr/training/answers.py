"""From log-probabilities per token to what the losses and the figures need, per pair.

In: the answers' log-probabilities in the order of the units, the pairs with their references. Out: tensors
(pairs of this forward pass,).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from spr.training.config import TrainConfig
from spr.training.loss import Lengths, Ratios, reward_margin
from spr.training.plan import Unit
from spr.training.prepare import Prepared


@dataclass(frozen=True, slots=True)
class Answers:
    """Weighted sums over tokens. Without rejected answers (plain SFT) `rejected` and `ratios` are zeros and
    mean nothing.
    """

    chosen: Tensor
    rejected: Tensor
    ratios: Ratios
    lengths: Lengths
    margins: Tensor


def gather(found: Sequence[Tensor], units: Sequence[Unit], pairs: Sequence[Prepared]) -> Answers:
    """Bring the answers of some units into the order of their pairs, and sum them over tokens in one
    operation.
    """
    keys = [a for unit in units for a in unit.answers]
    order = {i: k for k, i in enumerate(dict.fromkeys(i for i, _ in keys))}
    n = len(order)
    owner, weights, before = [], [], []
    for i, is_chosen in keys:
        p = pairs[i]
        answer, reference = (p.pair.chosen, p.chosen) if is_chosen else (p.pair.rejected, p.rejected)
        owner.append(np.full(len(answer.ids), order[i] + (0 if is_chosen else n)))
        weights.append(answer.weights)
        before.append(reference if len(reference) else np.zeros(len(answer.ids)))
    values = torch.cat(list(found))
    where = torch.from_numpy(np.concatenate(owner)).to(values.device)
    w, b = (torch.from_numpy(np.concatenate(parts)).to(values) for parts in (weights, before))

    def sums(tokens: Tensor) -> tuple[Tensor, Tensor]:
        total = values.new_zeros(2 * n).index_add(0, where, tokens)
        return total[:n], total[n:]

    chosen, rejected = sums(w * values)
    margins = values.new_tensor([pairs[i].pair.margin for i in order])
    return Answers(chosen, rejected, Ratios(*sums(w * (values - b))), Lengths(*sums(w)), margins)


def measure(
    loss: Tensor, answers: Answers, config: TrainConfig, units: Sequence[Unit]
) -> Mapping[str, Tensor | float]:
    """The sums of a forward pass that the figures are made of."""
    rows = [row for unit in units for row in unit.rows]
    counts = {
        "pairs": float(len(loss)),
        "tokens": float(sum(len(r) for r in rows)),
        "tokens_plain": float(sum(r.source for r in rows)),
    }
    values: dict[str, Tensor | float] = {
        "loss": loss.sum(),
        "chosen": answers.chosen.detach().sum(),
        **counts,
    }
    if config.loss != "sft":
        margin = reward_margin(answers.ratios, config.beta).detach()
        values |= {
            "margin": margin.sum(),
            "accuracy": (margin > 0).sum(),
            "rejected": answers.rejected.detach().sum(),
        }
        values |= {
            "chosen_shift": answers.ratios.chosen.detach().sum(),
            "rejected_shift": answers.ratios.rejected.detach().sum(),
        }
    return values
