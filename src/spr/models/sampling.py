"""Which token comes next: greedy, or temperature and top-p with counter-based Gumbel noise.

In: logits of some rows, a 64-bit key per row, the step. Out: one token per row. The noise of a token is a
pure function of (key, step, token), and a row's key of (run seed, item id, index of the sample): never of the
batch, of the order of calls or of a global generator. Adding it to the filtered log-probabilities and taking
the largest draws exactly from them (the Gumbel-max trick).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch

from spr.types import Sampling

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as int64: the increment of SplitMix64
_MIX1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MIX2 = -7723592293110705685  # 0x94D049BB133111EB
# most top-p sets are smaller (sorting 150,000 takes 100 times longer)
_SHORT_LIST = 64


def row_key(seed: int, item_id: str, sample: int) -> int:
    """64 signed bits that name a sampled answer."""
    digest = hashlib.blake2b(f"{seed}\0{item_id}\0{sample}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def row_keys(seed: int, item_ids: Sequence[str], samples: int, device: torch.device) -> torch.Tensor:
    """Keys of `samples` answers to each item, items outermost. Shape (len(item_ids) * samples,), int64."""
    return torch.tensor(
        [row_key(seed, item, k) for item in item_ids for k in range(samples)],
        dtype=torch.int64,
        device=device,
    )


def _shift_right(x: torch.Tensor, bits: int) -> torch.Tensor:
    """Logical (unsigned) shift of int64."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix(x: torch.Tensor) -> torch.Tensor:
    """The finaliser of SplitMix64 on int64 (products wrap)."""
    x = (x ^ _shift_right(x, 30)) * _MIX1
    x = (x ^ _shift_right(x, 27)) * _MIX2
    return x ^ _shift_right(x, 31)


def gumbel(keys: torch.Tensor, steps: torch.Tensor | int, tokens: torch.Tensor) -> torch.Tensor:
    """Standard Gumbel noise of tokens (B, K) or (K,) in rows with keys (B,) at their steps (B,). float32,
    deterministic on every device up to rounding of log.
    """
    state = _mix(keys + (torch.as_tensor(steps) + 1) * _GOLDEN)[:, None]
    bits = _shift_right(_mix(state + (tokens + 1) * _GOLDEN), 11)
    uniform = (bits.double() + 0.5) * 2.0**-53
    return (-torch.log(-torch.log(uniform))).float()


def _from_nucleus(
    log_probs: torch.Tensor, keys: torch.Tensor, steps: torch.Tensor, top_p: float, count: int
) -> torch.Tensor:
    """A token of each row (B,) out of the smallest set of likeliest ones whose mass reaches `top_p`. It is
    looked for among the `count` likeliest; in rows where these do not suffice, among more.
    """
    count = min(count, log_probs.shape[-1])
    values, tokens = torch.topk(log_probs, count, dim=-1)
    mass = values.exp().cumsum(-1)
    values = values.masked_fill(mass - values.exp() >= top_p, -torch.inf)
    best = (values + gumbel(keys, steps, tokens)).argmax(-1, keepdim=True)
    chosen = tokens.gather(-1, best)[:, 0]
    short = mass[:, -1] < top_p
    if count < log_probs.shape[-1] and bool(short.any()):
        chosen[short] = _from_nucleus(log_probs[short], keys[short], steps[short], top_p, 32 * count)
    return chosen


def nucleus_by_halving(log_probs: torch.Tensor, top_p: float) -> torch.Tensor:
    """Log-probs (B, V) with -inf outside the set of `_from_nucleus`, or of a little more where tokens at its
    edge are equally likely. Neither sorts nor asks the device anything: the least probability is found bit
    by bit.
    """
    probs = log_probs.exp()
    bits = probs.view(torch.int32)  # of numbers that are not negative, in the same order as they
    least = torch.zeros_like(bits[:, :1])
    for bit in reversed(range(30)):  # 1.0 is 0x3f800000
        higher = least + (1 << bit)
        mass = (probs * (bits >= higher)).sum(-1, keepdim=True)
        least = torch.where(mass >= top_p, higher, least)
    return log_probs.masked_fill(bits < least, -torch.inf)


def choose(
    logits: torch.Tensor, keys: torch.Tensor, steps: torch.Tensor | int, sampling: Sampling
) -> torch.Tensor:
    """The next token of each row. logits (B, V), keys (B,), steps (B,): its number in the answer -> (B,)
    int64.
    """
    if sampling.temperature == 0:
        return logits.argmax(-1)
    log_probs = torch.log_softmax(logits.float() / sampling.temperature, dim=-1)
    steps = torch.as_tensor(steps, device=keys.device).expand(len(keys))
    if sampling.top_p < 1 and logits.device.type == "cpu":
        return _from_nucleus(log_probs, keys, steps, sampling.top_p, _SHORT_LIST)
    if sampling.top_p < 1:
        log_probs = nucleus_by_halving(log_probs, sampling.top_p)
    tokens = torch.arange(logits.shape[-1], device=logits.device)
    return (log_probs + gumbel(keys, steps, tokens)).argmax(-1)
