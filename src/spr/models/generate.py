"""The general road for families whose forward takes no image features (Kosmos-2, Florence-2, unknown ones):
transformers' own generate().

One prompt at a time, its samples as one batch, each with its own copy of the image: right, not fast. The
checkpoint's generation settings that force or forbid tokens stay in force; the choice of the token is ours
(`spr.models.sampling`), put in as the last logits processor.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import LogitsProcessor, LogitsProcessorList, PreTrainedModel

from spr.models.decode import Tokens, samples_of
from spr.models.inputs import Row, placed
from spr.models.sampling import choose, row_keys
from spr.types import Sampling


class _Chooser(LogitsProcessor):
    """Leaves the chosen token as the only possible one."""

    def __init__(self, keys: torch.Tensor, start: int, sampling: Sampling) -> None:
        self.keys, self.start, self.sampling = keys, start, sampling
        self.not_numbers = torch.zeros(len(keys), dtype=torch.bool, device=keys.device)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.not_numbers |= scores.isnan().any(-1)
        chosen = choose(scores, self.keys, input_ids.shape[1] - self.start, self.sampling)
        return torch.full_like(scores, -torch.inf).scatter(1, chosen[:, None], 0.0)


class GenerateDecoder:
    """Answers rows with `model.generate`, one row at a time."""

    def __init__(self, model: PreTrainedModel, stops: frozenset[int], pad: int) -> None:
        self.model: Any = model
        self.stops, self.pad = stops, pad

    @torch.inference_mode()
    def answer(self, rows: Sequence[Row], sampling: Sampling, limits: Sequence[int]) -> list[list[Tokens]]:
        """The different answers to each row, each of at most its row's limit of tokens."""
        return [self._answer(row, sampling, limit) for row, limit in zip(rows, limits, strict=True)]

    def _answer(self, row: Row, sampling: Sampling, limit: int) -> list[Tokens]:
        assert row.raw is not None
        n = samples_of(sampling)
        inputs = {
            name: placed(tensor, self.model).repeat_interleave(n, dim=0) for name, tensor in row.raw.items()
        }
        start = 1 if self.model.config.is_encoder_decoder else len(row.ids)
        chooser = _Chooser(row_keys(sampling.seed, [row.item_id], n, self.model.device), start, sampling)
        out = self.model.generate(
            **inputs,
            do_sample=False,
            num_beams=1,
            max_new_tokens=limit,
            pad_token_id=self.pad,
            logits_processor=LogitsProcessorList([chooser]),
        )
        lost = chooser.not_numbers.tolist()
        return [self._cut(ids[start:], no) for ids, no in zip(out.tolist(), lost, strict=True)]

    def _cut(self, ids: list[int], not_a_number: bool) -> Tokens:
        end = next((i for i, token in enumerate(ids) if token in self.stops), None)
        return Tokens(tuple(ids[:end]), end is not None, not_a_number)
