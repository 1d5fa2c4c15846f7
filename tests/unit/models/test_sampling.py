"""The noise must be a function of (seed, item, sample, step, token) only, and the draws must follow the
filtered distribution.
"""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spr.models.sampling import choose, gumbel, nucleus_by_halving, row_key, row_keys
from spr.types import Sampling


def test_a_row_draws_the_same_whatever_stands_beside_it() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 300, generator=generator)
    keys = row_keys(3, ["a", "b", "c", "d", "e"], 1, torch.device("cpu"))
    s = Sampling(temperature=1.3, top_p=0.9)
    together = choose(logits, keys, 7, s)
    for i in range(5):
        assert choose(logits[i : i + 1], keys[i : i + 1], 7, s) == together[i]


def test_the_global_generator_is_neither_read_nor_moved() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    logits, keys = torch.zeros(2, 50), row_keys(0, ["x"], 2, torch.device("cpu"))
    first = choose(logits, keys, 0, Sampling())
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(first, choose(logits, keys, 0, Sampling()))


def test_seed_item_sample_and_step_all_change_the_noise() -> None:
    tokens = torch.arange(40)[None]

    def noise(seed: int, item: str, sample: int, step: int) -> torch.Tensor:
        return gumbel(torch.tensor([row_key(seed, item, sample)]), step, tokens)

    base = noise(0, "a", 0, 0)
    for other in (noise(1, "a", 0, 0), noise(0, "b", 0, 0), noise(0, "a", 1, 0), noise(0, "a", 0, 1)):
        # independent: |r| < 0.5 at n = 40 but for 1 in 1000
        assert abs(torch.corrcoef(torch.cat([base, other]))[0, 1]) < 0.5


def test_gumbel_noise_has_the_moments_of_the_gumbel_distribution() -> None:
    """Mean = Euler's constant 0.5772, variance = pi^2 / 6 = 1.645; 200,000 draws, so errors of about 0.003
    and 0.008.
    """
    keys = row_keys(0, [str(i) for i in range(200)], 1, torch.device("cpu"))
    drawn = gumbel(keys, 0, torch.arange(1000).expand(200, -1)).double()
    assert drawn.mean().item() == pytest.approx(0.5772, abs=0.015)
    assert drawn.var().item() == pytest.approx(math.pi**2 / 6, abs=0.04)


def test_draws_follow_the_distribution() -> None:
    """P = (0.5, 0.3, 0.2), 20,000 draws: three standard errors are about 0.01."""
    keys = row_keys(0, [str(i) for i in range(20_000)], 1, torch.device("cpu"))
    logits = torch.log(torch.tensor([0.5, 0.3, 0.2])).expand(20_000, -1)
    drawn = torch.bincount(choose(logits, keys, 0, Sampling()), minlength=3) / 20_000
    assert torch.allclose(drawn, torch.tensor([0.5, 0.3, 0.2]), atol=0.011)


@pytest.mark.parametrize(
    ("top_p", "allowed"),
    [
        (0.49, {0}),  # 0.5 alone reaches it
        (0.51, {0, 1}),  # 0.5 does not, 0.5 + 0.3 does
        (0.79, {0, 1}),
        (0.81, {0, 1, 2}),
    ],
)
def test_top_p_keeps_the_smallest_set_that_reaches_the_mass(top_p: float, allowed: set[int]) -> None:
    keys = row_keys(0, [str(i) for i in range(500)], 1, torch.device("cpu"))
    drawn = choose(torch.log(torch.tensor([0.5, 0.3, 0.2])).expand(500, -1), keys, 0, Sampling(top_p=top_p))
    assert set(drawn.tolist()) == allowed


def test_the_short_list_and_the_long_one_agree() -> None:
    """A flat row has a nucleus of more than 256 tokens, which sends the whole batch down the slow road; the
    peaked row must not notice.
    """
    peaked, flat = torch.zeros(1, 500), torch.zeros(1, 500)
    peaked[0, :5] = torch.tensor([9.0, 8.5, 8.0, 7.5, 7.0])
    keys = row_keys(0, ["p", "f"], 1, torch.device("cpu"))
    s = Sampling(top_p=0.95)
    for step in range(20):
        alone = choose(peaked, keys[:1], step, s)
        assert choose(torch.cat([peaked, flat]), keys, step, s)[0] == alone


@settings(deadline=None, derandomize=True, max_examples=60)
@given(st.integers(0, 2**31), st.floats(0.01, 0.999), st.floats(0.05, 12), st.integers(2, 3000))
def test_the_nucleus_that_is_found_without_sorting_is_the_sorted_one(
    seed: int, top_p: float, spread: float, size: int
) -> None:
    """An accelerator neither sorts 150,000 tokens nor waits for the host; tokens at the edge may differ by
    rounding of the sum, no others.
    """
    logits = spread * torch.randn(4, size, generator=torch.Generator().manual_seed(seed))
    log_probs = torch.log_softmax(logits, -1)
    found = nucleus_by_halving(log_probs, top_p)
    probs, order = log_probs.double().exp().sort(-1, descending=True)
    before = probs.cumsum(-1) - probs
    for row in range(4):
        kept = found[row].isfinite()[order[row]]
        sure = (before[row] - top_p).abs() > 1e-5
        assert torch.equal(kept[sure], (before[row] < top_p)[sure])
        assert torch.equal(found[row][found[row].isfinite()], log_probs[row][found[row].isfinite()])


def test_steps_may_differ_from_row_to_row() -> None:
    """Rows of a batch may have begun at different times."""
    keys = row_keys(3, ["a", "b", "c"], 1, torch.device("cpu"))
    logits = torch.randn(3, 50, generator=torch.Generator().manual_seed(0))
    together = choose(logits, keys, torch.tensor([5, 0, 9]), Sampling())
    for row, step in enumerate((5, 0, 9)):
        assert choose(logits[row : row + 1], keys[row : row + 1], step, Sampling()) == together[row]


def test_temperature_zero_is_greedy() -> None:
    logits = torch.tensor([[0.0, 3.0, 1.0]])
    assert choose(logits, row_keys(0, ["a"], 1, torch.device("cpu")), 0, Sampling(temperature=0)).item() == 1
