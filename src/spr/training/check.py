"""Before the first step: does the packed row say what the plain one says, and does the model see the image?

In: the policy and one pair. Out: the largest difference, and warnings. Three extra forward passes of one
pair. A family or a version of transformers that takes a mask of ours in another way than the table says is
found here, and not in a result that is silently wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from spr.training.encode import Encoded
from spr.training.families import Family
from spr.training.plan import units_of
from spr.training.policy import Policy

TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-2}  # ours, nats per token; coarser types: half a nat
UNSEEN = 1e-6  # ours: blank features change less than this only when nothing looks at them


@torch.no_grad()
def check_rows(model: Any, policy: Policy, family: Family, pair: Encoded) -> tuple[float | None, list[str]]:
    """Largest difference per token between packed and plain rows (None for a family on plain rows), and
    warnings.
    """
    if family.layout is None:
        return None, [f"plain rows, nothing is shared: {family.why}"]
    units = units_of([pair], family, "pair", 1)
    packed = policy.log_probs(model, units)
    plain_family = replace(family, layout=None)
    plain = policy.log_probs(model, units_of([pair], plain_family, "none", 1), plain_family)
    blank = policy.log_probs(model, units, blank=True)
    found = []
    difference = _largest(packed, plain)
    if difference > TOLERANCE.get(packed[0].dtype, 0.5):
        found.append(
            f"packed rows differ from plain ones by {difference:.3g} nats per token: this version of "
            f"{family.model_type} takes masks or positions "
            "in another way than ours are made for; set train.share to none and report it"
        )
    if _largest(packed, blank) < UNSEEN:
        found.append(
            "the model does not see the image: blanking its features changes no log-probability; look at "
            "the prompt's image token"
        )
    return difference, found


def _largest(a: Sequence[Tensor], b: Sequence[Tensor]) -> float:
    return max(float((x - y).abs().max()) for x, y in zip(a, b, strict=True))
