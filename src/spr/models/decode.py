"""Rows -> sampled answers, as token ids, for every decoder-only family: one prefill per prompt, then one
light step per token.

The tokens that all rows of a batch begin with (image and all) go through the model once; the rest of each
prompt follows as one left-padded batch; the n samples of a prompt continue from its key-value cache. Rows
that have ended leave the batch when half of it has. The shape of every forward depends on the rows and the
sampling only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache, PreTrainedModel

from spr.models.inputs import Encoder, Row
from spr.models.sampling import choose, row_keys
from spr.types import Sampling

# Families whose language model is causal throughout: what stands before a token never depends on what
# follows.
CAUSAL = frozenset(
    { "llava", "llava_next", "llava_onevision", "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe",
    "internvl", "idefics3", "smolvlm", "glm4v", "glm4v_moe", "glm46v", }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Tokens:
    """One sampled answer, without its stop token. `stopped` False: cut by the token limit. `not_a_number`:
    the model gave no logits to choose from.
    """

    ids: tuple[int, ...]
    stopped: bool
    not_a_number: bool = False


@dataclass(slots=True)
class _State:
    """A batch after its prefill: cache, last logits (B, V), next position of each row (B,), mask (B, T) or
    None when nothing is padded.
    """

    cache: Any
    logits: torch.Tensor
    next_position: torch.Tensor
    mask: torch.Tensor | None
    axes: int


def common_prefix(rows: Sequence[Row], image_tokens: frozenset[int]) -> int:
    """How many first tokens all rows share, when they share their picture and all its tokens; else 0. Leaves
    at least one token to each.
    """
    first = rows[0]
    if len(rows) < 2 or any(row.picture is not first.picture for row in rows):
        return 0
    length = min(len(row.ids) for row in rows) - 1
    for row in rows[1:]:
        same = next((i for i, (a, b) in enumerate(zip(first.ids, row.ids, strict=False)) if a != b), length)
        length = min(length, same)
    return length if not image_tokens.intersection(*[first.ids[length:]]) else 0


class Decoder:
    """Answers rows with one model."""

    def __init__(self, model: PreTrainedModel, encoder: Encoder, stops: frozenset[int], pad: int):
        self.model, self.encoder, self.stops, self.pad = model, encoder, stops, pad
        self.shares_prefix = model.config.model_type in CAUSAL

    @torch.inference_mode()
    def answer(self, rows: Sequence[Row], sampling: Sampling, limits: Sequence[int]) -> list[list[Tokens]]:
        """`sampling.n` answers per row, each of at most its row's limit of tokens."""
        greedy = sampling.temperature == 0
        n = 1 if greedy else sampling.n
        state = self._prefill(rows)
        if n > 1:
            state.cache.batch_repeat_interleave(n)
            state.logits = state.logits.repeat_interleave(n, dim=0)
            state.next_position = state.next_position.repeat_interleave(n, dim=0)
            state.mask = state.mask.repeat_interleave(n, dim=0) if state.mask is not None else None
        keys = row_keys(sampling.seed, [row.item_id for row in rows], n, state.logits.device)
        found = self._decode(state, keys, sampling, [limit for limit in limits for _ in range(n)])
        per_row = [found[i : i + n] for i in range(0, len(found), n)]
        return [answers * sampling.n for answers in per_row] if greedy else per_row

    # --- prefill ----------------------------------------------------------------------------------

    def _prefill(self, rows: Sequence[Row]) -> _State:
        shared = common_prefix(rows, self.encoder.image_tokens) if self.shares_prefix else 0
        cache = DynamicCache(config=self.model.config)
        if shared:
            self._forward(rows[:1], 0, shared, cache, with_images=True)
            cache.batch_repeat_interleave(len(rows))
        logits, mask = self._forward(rows, shared, None, cache, with_images=not shared)
        after = torch.stack([row.positions.max() + 1 for row in rows])
        return _State(cache, logits, after, mask, rows[0].positions.shape[0])

    def _forward(
        self, rows: Sequence[Row], start: int, end: int | None, cache: Any, with_images: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Tokens start:end of the rows, left-padded, after what is cached. Returns the last logits and the
        mask over everything so far.
        """
        device = self.model.device
        parts = [row.ids[start:end] for row in rows]
        width = max(map(len, parts))
        pads = [width - len(part) for part in parts]
        ids = torch.tensor(
            [(self.pad,) * p + part for p, part in zip(pads, parts, strict=True)], device=device
        )
        places = torch.stack(
            [
                torch.nn.functional.pad(row.positions[:, start:end], (p, 0))
                for p, row in zip(pads, rows, strict=True)
            ],
            dim=1,
        )
        mask = None
        if any(pads):
            mask = torch.ones(len(rows), start + width, dtype=torch.long, device=device)
            for row, p in enumerate(pads):
                mask[row, start : start + p] = 0
        extra: dict[str, Any] = {}
        for name in rows[0].values:
            if name in self.encoder.forward_arguments and name != "mm_token_type_ids":
                padded = [(0,) * p + row.values[name][start:end] for p, row in zip(pads, rows, strict=True)]
                extra[name] = torch.tensor(padded, device=device)
        if with_images:
            extra["mm_encoder_outputs"] = self.encoder.features(rows)
        positions = places if places.shape[0] > 1 else places[0]
        out = self.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
            **extra,
        )
        return out.logits[:, -1], mask

    # --- one token after another ------------------------------------------------------------------

    def _decode(
        self, state: _State, keys: torch.Tensor, sampling: Sampling, limits: Sequence[int]
    ) -> list[Tokens]:
        written: list[list[int]] = [[] for _ in limits]
        stopped = [False] * len(limits)
        # answer of each row of the batch; ended ones stay until half the batch has ended
        alive = list(range(len(limits)))
        logits = state.logits
        places = torch.arange(len(limits), device=logits.device)
        not_numbers = torch.zeros(len(limits), dtype=torch.bool, device=logits.device)
        for step in range(max(limits)):
            not_numbers[places] |= logits.isnan().any(-1)
            tokens = choose(logits, keys, step, sampling)
            for answer, token in zip(alive, tokens.tolist(), strict=True):
                if not stopped[answer] and step < limits[answer]:
                    if token in self.stops:
                        stopped[answer] = True
                    else:
                        written[answer].append(token)
            going = [i for i, a in enumerate(alive) if not stopped[a] and step + 1 < limits[a]]
            if not going:
                break
            if 2 * len(going) <= len(alive):
                chosen = torch.tensor(going, device=logits.device)
                self._select(state, chosen)
                keys, tokens, alive = keys[chosen], tokens[chosen], [alive[i] for i in going]
                places = places[chosen]
            logits = self._step(state, tokens, step)
        return [
            Tokens(tuple(ids), end, lost)
            for ids, end, lost in zip(written, stopped, not_numbers.tolist(), strict=True)
        ]

    def _select(self, state: _State, rows: torch.Tensor) -> None:
        state.cache.batch_select_indices(rows)
        state.next_position = state.next_position[rows]
        state.mask = state.mask[rows] if state.mask is not None else None

    def _step(self, state: _State, tokens: torch.Tensor, step: int) -> torch.Tensor:
        """Logits (B, V) after one more token in each row."""
        positions = (state.next_position + step)[:, None]
        if state.axes > 1:
            positions = positions.expand(state.axes, -1, -1)
        if state.mask is not None:
            state.mask = torch.nn.functional.pad(state.mask, (0, 1), value=1)
        out = self.model(
            input_ids=tokens[:, None],
            attention_mask=state.mask,
            position_ids=positions,
            past_key_values=state.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits: torch.Tensor = out.logits[:, -1]
        return logits
