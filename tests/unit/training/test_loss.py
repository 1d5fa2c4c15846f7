"""Losses on numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from spr.training.loss import Lengths, Ratios, dpo, ipo, length_normalized, preference_loss, robust, sft


def t(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


# Two pairs. Ratios (log pi - log ref): chosen +2 and 0, rejected -1 and 0. Lengths: chosen 4 and 2, rejected
# 2 and 2.
RATIOS = Ratios(t(2.0, 0.0), t(-1.0, 0.0))
LENGTHS = Lengths(t(4.0, 2.0), t(2.0, 2.0))


def neg_log_sigmoid(x: float) -> float:
    return math.log1p(math.exp(-x))


def test_dpo_by_hand() -> None:
    """h = 3 and 0; beta 0.1: -log sigmoid(0.3), ln 2."""
    assert dpo(RATIOS, 0.1).tolist() == pytest.approx([neg_log_sigmoid(0.3), math.log(2)])


def test_offset_moves_the_point_of_indifference() -> None:
    """beta h = 0.3, so with an offset of 0.3 the first pair costs ln 2."""
    assert dpo(RATIOS, 0.1, t(0.3, 0.0)).tolist() == pytest.approx([math.log(2)] * 2)


def test_robust_by_hand() -> None:
    """x = 0.3, smoothing 0.1: (0.9 * f(0.3) - 0.1 * f(-0.3)) / 0.8 with f = -log sigmoid; at x = 0 it is ln 2
    again.
    """
    want = (0.9 * neg_log_sigmoid(0.3) - 0.1 * neg_log_sigmoid(-0.3)) / 0.8
    assert robust(RATIOS, 0.1, 0.1).tolist() == pytest.approx([want, math.log(2)])


def test_robust_is_unbiased() -> None:
    """The mean over flips (share e) of the robust loss is the clean DPO loss: what its paper promises."""
    e, flipped = 0.2, Ratios(RATIOS.rejected, RATIOS.chosen)
    mean = (1 - e) * robust(RATIOS, 0.5, e) + e * robust(flipped, 0.5, e)
    torch.testing.assert_close(mean, dpo(RATIOS, 0.5))


def test_ipo_by_hand() -> None:
    """Per token: 2/4 - (-1/2) = 1; 1 / (2 * 0.1) = 5: (1 - 5)^2 = 16; without a difference 25."""
    assert ipo(RATIOS, LENGTHS, 0.1).tolist() == pytest.approx([16.0, 25.0])


def test_length_normalized_by_hand() -> None:
    """Per token the gap is 1, with beta 5: -log sigmoid(5)."""
    assert length_normalized(RATIOS, LENGTHS, 5.0).tolist() == pytest.approx(
        [neg_log_sigmoid(5.0), math.log(2)]
    )


def test_sft_by_hand() -> None:
    """-(-8) / 4 = 2 nats per token."""
    assert sft(t(-8.0), t(4.0)).tolist() == [2.0]


@pytest.mark.parametrize("name", ["dpo", "robust", "ipo", "length_normalized", "sft"])
def test_every_loss_falls_when_the_chosen_answer_becomes_likelier(name: str) -> None:
    chosen = t(-8.0, -9.0).requires_grad_()
    ratios = Ratios(chosen + 8.0, t(0.0, 0.0))
    smoothing = 0.1 if name == "robust" else 0.0
    loss = preference_loss(
        name, ratios, chosen, LENGTHS, beta=0.1, offset=t(0.0, 0.0), smoothing=smoothing, sft_weight=0.0
    )  # type: ignore[arg-type]
    loss.sum().backward()
    assert loss.shape == (2,)
    assert (chosen.grad < 0).all()


def test_an_sft_term_is_added() -> None:
    chosen = t(-8.0, -4.0)
    both = preference_loss(
        "dpo", RATIOS, chosen, LENGTHS, beta=0.1, offset=t(0.0, 0.0), smoothing=0.0, sft_weight=0.5
    )
    torch.testing.assert_close(both, dpo(RATIOS, 0.1) + 0.5 * t(2.0, 2.0))
