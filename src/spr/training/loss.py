"""Preference losses as pure functions. All tensors have the shape (pairs,), results too. The paper's form is
`dpo`.

`Ratios` are sums over answer tokens of w (log pi - log ref); the caller subtracts per token, before summing,
because two sums of several hundred nats would lose in float32 what the loss is about. w is 1 unless
coordinate tokens are weighted. `Lengths` are the sums of w: token counts when w = 1.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import logsigmoid

from spr.training.config import LossName


@dataclass(frozen=True, slots=True)
class Ratios:
    """Log-probability of each pair's answers under the policy minus that under the reference."""

    chosen: Tensor
    rejected: Tensor


@dataclass(frozen=True, slots=True)
class Lengths:
    """Weighted token counts of each pair's answers."""

    chosen: Tensor
    rejected: Tensor


def reward_margin(ratios: Ratios, beta: float) -> Tensor:
    """Implicit reward of the chosen answer minus that of the rejected one: beta (chosen - rejected)."""
    return beta * (ratios.chosen - ratios.rejected)


def dpo(ratios: Ratios, beta: float, offset: Tensor | float = 0.0) -> Tensor:
    """-log sigmoid(margin - offset) (arXiv 2305.18290; the offset: arXiv 2402.10571)."""
    return -logsigmoid(reward_margin(ratios, beta) - offset)


def robust(ratios: Ratios, beta: float, smoothing: float, offset: Tensor | float = 0.0) -> Tensor:
    """Unbiased when a share `smoothing` < 0.5 of the pairs is flipped (arXiv 2403.00409)."""
    x = reward_margin(ratios, beta) - offset
    return (smoothing * logsigmoid(-x) - (1 - smoothing) * logsigmoid(x)) / (1 - 2 * smoothing)


def _per_token(ratios: Ratios, lengths: Lengths) -> Ratios:
    return Ratios(ratios.chosen / lengths.chosen, ratios.rejected / lengths.rejected)


def ipo(ratios: Ratios, lengths: Lengths, beta: float, offset: Tensor | float = 0.0) -> Tensor:
    """(h - 1 / (2 beta) - offset)^2 on means per token (arXiv 2310.12036; its authors confirmed the means to
    TRL's).
    """
    h = _per_token(ratios, lengths)
    return (h.chosen - h.rejected - 1 / (2 * beta) - offset) ** 2


def length_normalized(ratios: Ratios, lengths: Lengths, beta: float, offset: Tensor | float = 0.0) -> Tensor:
    """DPO on means per token (arXiv 2411.15124, with beta 5 there)."""
    return dpo(_per_token(ratios, lengths), beta, offset)


def sft(chosen: Tensor, length: Tensor) -> Tensor:
    """Mean negative log-probability per token of the chosen answer; `chosen` sums log pi."""
    return -chosen / length


def preference_loss(
    name: LossName,
    ratios: Ratios,
    chosen: Tensor,
    lengths: Lengths,
    *,
    beta: float,
    offset: Tensor,
    smoothing: float,
    sft_weight: float,
) -> Tensor:
    """The loss of that name, plus `sft_weight` times `sft` (form of arXiv 2404.19733). `chosen` sums log pi
    of the chosen answers.
    """
    loss = _preference(name, ratios, chosen, lengths, beta, offset, smoothing)
    return loss + sft_weight * sft(chosen, lengths.chosen) if sft_weight else loss


def _preference(
    name: LossName,
    ratios: Ratios,
    chosen: Tensor,
    lengths: Lengths,
    beta: float,
    offset: Tensor,
    smoothing: float,
) -> Tensor:
    match name:
        case "dpo":
            return dpo(ratios, beta, offset)
        case "robust":
            return robust(ratios, beta, smoothing, offset)
        case "ipo":
            return ipo(ratios, lengths, beta, offset)
        case "length_normalized":
            return length_normalized(ratios, lengths, beta, offset)
        case "sft":
            return sft(chosen, lengths.chosen)
