"""Before the first step: does the packed row say what the plain one says, and does the model see the image?

In: the policy and the pairs. Out: the largest difference. A few forward passes more. A family or
a version of transformers that takes a mask of ours in another way than the table says stops here, and not
in a result that is silently wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from spr.errors import FoundWrongError
from spr.training.config import TrainConfig
from spr.training.encode import Encoded
from spr.training.families import Family
from spr.training.plan import batches_of, units_of
from spr.training.policy import Policy

LOOKED_AT = 4  # ours: so many pairs of the first image
EXACT = {torch.float64: 1e-6, torch.float32: 1e-2}  # ours, nats: no token may differ by more
# ours: in coarser types the mean difference, as a share of what blanking the image changes. In random models
# of four families a wrong mask had 0.26 and more, the right one in bfloat16 less than 0.01 (once, on a CPU).
COARSE = 0.25
UNSEEN = 1e-6  # ours: blank features change less than this only when nothing looks at them


@torch.no_grad()
def check_rows(
    model: Any, policy: Policy, family: Family, pairs: Sequence[Encoded], config: TrainConfig
) -> float | None:
    """Largest difference per token between the rows that are trained and plain ones, of the first image's
    pairs; None for a family on plain rows. Raises FoundWrongError when they are not the same, or when the
    model does not see the image.
    """
    pairs = [pair for pair in pairs if pair.image_path == pairs[0].image_path][:LOOKED_AT]

    def answers(family: Family, blank: bool = False) -> Tensor:
        found: dict[tuple[int, bool], Tensor] = {}
        for units in batches_of(units_of(pairs, family, config.share, config.tokens), config.tokens):
            values = policy.log_probs(model, units, family, blank)
            found |= dict(zip([key for unit in units for key in unit.answers], values, strict=True))
        return torch.cat([found[key] for key in sorted(found)])

    rows = answers(family)
    seen = (rows - answers(family, blank=True)).abs()
    if float(seen.max()) < UNSEEN:
        raise FoundWrongError(
            "train: the model does not see the image: blanking it changes no log-probability of an answer; "
            "look at the prompt's image token, and whether the checkpoint has all its weights"
        )
    if family.layout is None:
        return None
    differences = (rows - answers(replace(family, layout=None))).abs()
    largest, mean = float(differences.max()), float(differences.mean())
    exact = EXACT.get(policy.dtype)
    if (largest > exact) if exact else (mean > COARSE * float(seen.mean())):
        raise FoundWrongError(
            f"train: packed rows differ from plain ones by {largest:.3g} nats per token at most, "
            f"{mean:.3g} on average: this version of {family.model_type} takes masks or positions in another "
            "way than ours are made for; set train.share: none, which trains on plain rows, and report it"
        )
    return largest
