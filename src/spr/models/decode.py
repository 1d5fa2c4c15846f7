"""Rows -> sampled answers, as token ids, for every decoder-only family: one prefill per prompt, then one
light step per token.

The tokens that the prompts of a picture begin with (image and all) go through the model once, and are kept
once (spr.models.starts); the rest of each prompt follows as one left-padded batch, and the n samples of a
prompt continue from there. Rows leave a batch when they have ended, and others may be put beside those that
go on (spr.models.flow). What was chosen stays on the device for `look` steps. The shape of every forward
depends on the rows and the sampling only.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import DynamicCache, PreTrainedModel

from spr.models.cache import is_roomy, joined, new_cache
from spr.models.inputs import Encoder, Row
from spr.models.sampling import choose, row_keys
from spr.models.starts import NAME, Starts, joined_starts, starts_in
from spr.types import Sampling

# Families whose language model is causal throughout: what stands before a token never depends on what
# follows.
CAUSAL = frozenset(
    { "llava", "llava_next", "llava_onevision", "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe",
    "internvl", "idefics3", "smolvlm", "glm4v", "glm4v_moe", "glm46v", }
)  # fmt: skip
LOOK = 8  # ours: steps between two looks at what an accelerator has written; a CPU hides nothing


@dataclass(frozen=True, slots=True)
class Tokens:
    """One sampled answer, without its stop token. `stopped` False: cut by the token limit. `not_a_number`:
    the model gave no logits to choose from.
    """

    ids: tuple[int, ...]
    stopped: bool
    not_a_number: bool = False


@dataclass(frozen=True, slots=True)
class Task:
    """A prompt that is to be answered with at most `limit` tokens."""

    name: int
    row: Row
    limit: int


@dataclass(slots=True)
class Batch:
    """Answers that are being written, one row each; n rows of a task stand together."""

    names: list[tuple[int, int]]  # task and number of the sample
    limits: list[int]
    starts: Starts | None  # what rows begin with; None: all is in the cache
    cache: DynamicCache
    logits: torch.Tensor  # (B, V), of the next token
    mask: torch.Tensor | None  # (B, columns): 0 where a row is padded; None when none is
    first: torch.Tensor  # (B,): position of the answer's first token
    last: torch.Tensor  # (B,): position of its last one
    keys: torch.Tensor  # (B,): of the noise
    steps: torch.Tensor  # (B,): tokens written so far
    axes: int  # of positions
    written: list[list[int]]
    ended: list[bool]
    unseen: list[tuple[torch.Tensor, torch.Tensor]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.names)

    @property
    def tokens(self) -> int:
        """Columns that are kept, over all rows."""
        return len(self) * self.cache.get_seq_length() + (self.starts.tokens if self.starts else 0)

    @property
    def going_on(self) -> list[int]:
        """Rows that have not ended."""
        return [row for row, ended in enumerate(self.ended) if not ended]


def common_prefix(rows: Sequence[Row], image_tokens: frozenset[int]) -> int:
    """How many first tokens all rows share, with all their image tokens; else 0. Leaves at least one token to
    each.
    """
    first = rows[0]
    length = min(len(row.ids) for row in rows) - 1
    for row in rows[1:]:
        same = next((i for i, (a, b) in enumerate(zip(first.ids, row.ids, strict=False)) if a != b), length)
        length = min(length, same)
    return length if image_tokens.isdisjoint(first.ids[length:]) else 0


def after_image(row: Row, image_tokens: frozenset[int]) -> int:
    """Where the tokens after the last image token begin; at least 1."""
    return 1 + max((i for i, token in enumerate(row.ids) if token in image_tokens), default=0)


def starts_of(rows: Sequence[Row], image_tokens: frozenset[int]) -> list[tuple[list[int], int]]:
    """Rows that begin with the same tokens, and how many those are: (numbers of the rows, tokens). Each row
    is in one of them, with at least one token left.
    """
    pictures: dict[int, list[int]] = {}
    for number, row in enumerate(rows):
        pictures.setdefault(id(row.picture), []).append(number)
    shared, alone = [], []
    for numbers in pictures.values():
        same = [rows[n] for n in numbers]
        length = common_prefix(same, image_tokens) if len(same) > 1 and same[0].picture is not None else 0
        if length:
            shared.append((numbers, length))
        else:
            alone += numbers
    # the others are cut where their rests are no longer than those
    rest = max((len(rows[n].ids) - length for numbers, length in shared for n in numbers), default=1)
    cuts = ((n, max(len(rows[n].ids) - rest, after_image(rows[n], image_tokens))) for n in alone)
    return shared + [([n], min(cut, len(rows[n].ids) - 1)) for n, cut in cuts]


class Decoder:
    """Answers rows with one model."""

    def __init__(self, model: PreTrainedModel, encoder: Encoder, stops: frozenset[int], pad: int):
        self.model, self.encoder, self.stops, self.pad = model, encoder, stops, pad
        self.joins = is_roomy(model.config)
        text = model.config.get_text_config(decoder=True)
        self.shares = (
            self.joins and model.config.model_type in CAUSAL and text._attn_implementation in ("sdpa", NAME)
        )
        if self.shares:
            text._attn_implementation = NAME
        self.look = 1 if model.device.type == "cpu" else LOOK

    @torch.inference_mode()
    def answer(self, rows: Sequence[Row], sampling: Sampling, limits: Sequence[int]) -> list[list[Tokens]]:
        """The different answers to each row, each of at most its row's limit of tokens."""
        found: dict[tuple[int, int], Tokens] = {}
        batch = self.prefill([Task(i, row, limits[i]) for i, row in enumerate(rows)], sampling)
        while batch.going_on:
            self.drop_ended(batch)
            found.update(self.step(batch, sampling))
        return [[found[i, k] for k in range(samples_of(sampling))] for i in range(len(rows))]

    # --- prefill ----------------------------------------------------------------------------------

    @torch.inference_mode()
    def prefill(self, tasks: Sequence[Task], sampling: Sampling) -> Batch:
        """A batch with n rows per task, before their first tokens."""
        n, device = samples_of(sampling), self.model.device
        rows = [task.row for task in tasks]
        starts, cache, logits, mask = self._read(rows)
        if n > 1:
            order = torch.arange(len(rows)).repeat_interleave(n)
            starts = starts.take(order.tolist()) if starts is not None else None
            cache.batch_select_indices(order.to(device))
            logits = logits.repeat_interleave(n, dim=0)
            mask = mask.repeat_interleave(n, dim=0) if mask is not None else None
        limits = [task.limit for task in tasks for _ in range(n)]
        first = torch.stack([row.positions.max() + 1 for row in rows]).repeat_interleave(n)
        return Batch(
            names=[(task.name, k) for task in tasks for k in range(n)],
            limits=limits,
            starts=starts,
            cache=cache,
            logits=logits,
            mask=mask,
            first=first.to(device),
            last=(first + torch.tensor(limits) - 1).to(device),
            keys=row_keys(sampling.seed, [row.item_id for row in rows], n, device),
            steps=torch.zeros(len(limits), dtype=torch.int64, device=device),
            axes=rows[0].positions.shape[0],
            written=[[] for _ in limits],
            ended=[False for _ in limits],
        )

    def _read(
        self, rows: Sequence[Row]
    ) -> tuple[Starts | None, DynamicCache, torch.Tensor, torch.Tensor | None]:
        """What prompts begin with, the cache of their rests, their last logits and the mask."""
        config = self.model.config
        if not self.shares:
            cache = new_cache(config)
            whole = [(0, len(row.ids)) for row in rows]
            return None, cache, *self._forward(rows, whole, cache, with_images=True)
        found = starts_of(rows, self.encoder.image_tokens)
        firsts, cuts = [rows[numbers[0]] for numbers, _ in found], [cut for _, cut in found]
        cache = DynamicCache(config=config)
        _, mask = self._forward(firsts, [(0, cut) for cut in cuts], cache, with_images=True)
        group_of = {number: k for k, (numbers, _) in enumerate(found) for number in numbers}
        groups = [group_of[number] for number in range(len(rows))]
        starts = starts_in(cache, mask, groups)
        rests = [(cuts[group], len(row.ids)) for group, row in zip(groups, rows, strict=True)]
        cache = new_cache(config)
        with starts.used():
            return starts, cache, *self._forward(rows, rests, cache, with_images=False)

    def _forward(
        self,
        rows: Sequence[Row],
        spans: Sequence[tuple[int, int]],
        cache: DynamicCache,
        with_images: bool,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Put the rows' tokens of these spans, left-padded, into an empty cache. Returns the last logits and
        the mask.
        """
        device = self.model.device
        width = max(end - start for start, end in spans)
        pads = [width - (end - start) for start, end in spans]

        def padded(values: Sequence[Sequence[int]], pad: int) -> torch.Tensor:
            parts = [
                (pad,) * p + tuple(v[start:end])
                for v, p, (start, end) in zip(values, pads, spans, strict=True)
            ]
            return torch.tensor(parts, device=device)

        positions = torch.stack(
            [
                torch.nn.functional.pad(row.positions[:, start:end], (p, 0))
                for row, p, (start, end) in zip(rows, pads, spans, strict=True)
            ],
            dim=1,
        ).to(device)
        mask = None
        if any(pads):
            mask = (torch.arange(width)[None] >= torch.tensor(pads)[:, None]).long().to(device)
        extra: dict[str, Any] = {
            name: padded([row.values[name] for row in rows], 0)
            for name in rows[0].values
            if name in self.encoder.forward_arguments and name != "mm_token_type_ids"
        }
        if with_images:
            extra["mm_encoder_outputs"] = self.encoder.features(rows)
        out = self.model(
            input_ids=padded([row.ids for row in rows], self.pad),
            attention_mask=mask,
            position_ids=positions if positions.shape[0] > 1 else positions[0],
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
            **extra,
        )
        return out.logits[:, -1], mask

    # --- one token after another ------------------------------------------------------------------

    @torch.inference_mode()
    def step(self, batch: Batch, sampling: Sampling) -> dict[tuple[int, int], Tokens]:
        """One more token in each row. Returns the answers that are seen to have ended."""
        tokens = choose(batch.logits, batch.keys, batch.steps, sampling)
        batch.unseen.append((tokens, batch.logits.isnan().any(-1)))
        found = self._seen(batch) if len(batch.unseen) >= self.look else {}
        if all(batch.ended):
            return found
        positions = torch.minimum(batch.first + batch.steps, batch.last)[:, None]
        if batch.axes > 1:
            positions = positions.expand(batch.axes, -1, -1)
        if batch.mask is not None:
            batch.mask = torch.nn.functional.pad(batch.mask, (0, 1), value=1)
        with batch.starts.used() if batch.starts is not None else contextlib.nullcontext():
            out = self.model(
                input_ids=tokens[:, None],
                attention_mask=batch.mask,
                position_ids=positions,
                past_key_values=batch.cache,
                use_cache=True,
                logits_to_keep=1,
            )
        batch.logits = out.logits[:, -1]
        batch.steps += 1
        return found

    def _seen(self, batch: Batch) -> dict[tuple[int, int], Tokens]:
        """Look at what was chosen since the last look."""
        tokens, lost = (torch.stack(parts).tolist() for parts in zip(*batch.unseen, strict=True))
        batch.unseen.clear()
        found = {}
        for row in batch.going_on:
            not_a_number = stopped = False
            for step in range(len(tokens)):
                not_a_number |= lost[step][row]
                stopped = tokens[step][row] in self.stops
                if not stopped:
                    batch.written[row].append(tokens[step][row])
                if stopped or not_a_number or len(batch.written[row]) == batch.limits[row]:
                    found[batch.names[row]] = Tokens(tuple(batch.written[row]), stopped, not_a_number)
                    batch.ended[row] = True
                    break
        return found

    # --- rows that come and go --------------------------------------------------------------------

    @torch.inference_mode()
    def drop_ended(self, batch: Batch) -> None:
        """Go on without the rows that have ended, once they are half of the batch."""
        rows = batch.going_on
        if 2 * len(rows) > len(batch):
            return
        chosen = torch.tensor(rows, device=self.model.device)
        batch.starts = batch.starts.take(rows) if batch.starts is not None else None
        batch.cache.batch_select_indices(chosen)
        batch.mask = batch.mask[chosen] if batch.mask is not None else None
        _gather(batch, [batch], [rows])

    @torch.inference_mode()
    def join(self, batches: Sequence[Batch]) -> Batch:
        """What goes on of several batches, as one: the first. Only where the decoder `joins`."""
        if len(batches) == 1:
            return batches[0]
        rows = [batch.going_on for batch in batches]
        chosen = [torch.tensor(r, device=self.model.device) for r in rows]
        masks = [_mask_of(batch)[r] for batch, r in zip(batches, chosen, strict=True)]
        starts = [int(mask.argmax(1).min()) for mask in masks]
        masks = [mask[:, start:] for mask, start in zip(masks, starts, strict=True)]
        columns = max(mask.shape[1] for mask in masks)
        whole = torch.cat([torch.nn.functional.pad(m, (columns - m.shape[1], 0)) for m in masks])
        result = batches[0]
        begun = [(b.starts, r) for b, r in zip(batches, rows, strict=True) if b.starts is not None]
        result.starts = joined_starts(begun) if begun else None
        parts = [(batch.cache, r, start) for batch, r, start in zip(batches, chosen, starts, strict=True)]
        result.cache = joined(parts, columns)
        result.mask = None if bool(whole.all()) else whole
        _gather(result, batches, rows)
        return result


def _gather(result: Batch, batches: Sequence[Batch], rows: Sequence[Sequence[int]]) -> None:
    """What else is known of the rows that go on, of all batches, as that of one."""
    for name in ("logits", "first", "last", "keys", "steps"):
        taken = [getattr(batch, name)[list(some)] for batch, some in zip(batches, rows, strict=True)]
        setattr(result, name, torch.cat(taken))
    for name in ("names", "limits", "written", "ended"):
        whole = [getattr(batch, name)[r] for batch, some in zip(batches, rows, strict=True) for r in some]
        setattr(result, name, whole)


def samples_of(sampling: Sampling) -> int:
    """How many different answers a prompt gets: greedy ones are all the same."""
    return 1 if sampling.temperature == 0 else sampling.n


def _mask_of(batch: Batch) -> torch.Tensor:
    if batch.mask is not None:
        return batch.mask
    shape = len(batch), batch.cache.get_seq_length()
    return torch.ones(shape, dtype=torch.long, device=batch.logits.device)
