"""One Describer for the image-text-to-text models of transformers, in process.

In: queries (image, question, perhaps a crop). Out: sampled answers. The checkpoint's own processor and chat
template write the prompt; image tokens are never cut: a prompt that does not fit is a failed answer with its
reason.
`per_item`: all queries of a group are one batch, so its shape, hence every bit of the answers, depends on the
group alone. `throughput`: queries of a call are sorted by length and batched by size; a batch that does not
fit into memory is halved, and said so.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from PIL import Image

from spr.errors import ConfigError, DataError, unknown_name
from spr.models.chat import prompt_text
from spr.models.decode import Decoder, Tokens
from spr.models.generate import GenerateDecoder
from spr.models.inputs import Ask, Encoder, Row
from spr.models.loading import context_length, load_mllm, with_adapter
from spr.models.pictures import LoadImage, crop
from spr.types import Answer, Checkpoint, Query, Sampling

log = logging.getLogger(__name__)
BATCHINGS = ("per_item", "throughput")
BATCH = 16  # ours: prompts per batch that `throughput` begins with
WINDOW = 8  # ours: batches that are sorted by length together
ONE_IMAGE = frozenset({"kosmos-2", "florence2"})  # their processors take one image per prompt
T = TypeVar("T")
R = TypeVar("R")


def in_halves(work: Callable[[Sequence[T]], list[R]], items: Sequence[T], size: int) -> tuple[list[R], int]:
    """`work` over batches of at most `size` items; where memory does not suffice the size is halved, logged
    and kept. Returns the size, too.
    """
    found: list[R] = []
    while len(found) < len(items):
        try:
            found += work(items[len(found) : len(found) + size])
        except (torch.OutOfMemoryError, MemoryError):
            if size == 1:
                raise
            size = max(1, size // 2)
            torch.cuda.empty_cache()
            log.warning("a batch did not fit into memory: going on with batches of %d prompts", size)
    return found, size


def _stop_tokens(model: Any, tokenizer: Any) -> frozenset[int]:
    """All tokens that end an answer: the checkpoint's generation settings and its tokenizer's end token."""
    named = getattr(model.generation_config, "eos_token_id", None)
    several = named if isinstance(named, list | tuple) else [named]
    return frozenset(int(t) for t in (*several, tokenizer.eos_token_id) if t is not None)


class HFDescriber:
    """A checkpoint behind the port `Describer`. Raises ConfigError for what cannot be loaded."""

    def __init__(
        self,
        model: str | Checkpoint,
        load_image: LoadImage,
        device: str = "cpu",
        batching: str = "per_item",
        adapter: str | None = None,
        check: Callable[[Any], None] | None = None,
    ) -> None:
        if batching not in BATCHINGS:
            raise ConfigError("model.batching: " + unknown_name("batching", batching, BATCHINGS))
        base, self.processor = load_mllm(model, device, check)
        self.model = with_adapter(base, adapter) if adapter else base
        self.load_image, self.batching = load_image, batching
        self.model_type: str = self.model.config.model_type
        self.context = context_length(self.model)
        self.encoder = Encoder(
            self.model, self.processor, remember=4 if batching == "per_item" else BATCH * WINDOW
        )
        self._batch = BATCH
        tokenizer = self.processor.tokenizer
        self.stops = _stop_tokens(self.model, tokenizer)
        self.pad = int(
            tokenizer.pad_token_id if tokenizer.pad_token_id is not None else min(self.stops, default=0)
        )
        self._hidden = self.stops | {
            t for t in (tokenizer.pad_token_id, tokenizer.bos_token_id) if t is not None
        }
        self._decoder: Decoder | GenerateDecoder
        if self.encoder.takes_features and not self.model.config.is_encoder_decoder:
            self._decoder = Decoder(self.model, self.encoder, self.stops, self.pad)
        else:
            self._decoder = GenerateDecoder(self.model, self.stops, self.pad)

    # --- the port ---------------------------------------------------------------------------------

    def answer(self, queries: Sequence[Query], sampling: Sampling) -> list[list[Answer]]:
        """`sampling.n` answers per query, in order. A query without readable image or with too long a prompt
        gives failed answers.
        """
        found: dict[int, list[Answer]] = {}
        for group in self._groups(queries):
            rows: list[tuple[int, Row]] = []
            for i in group:
                row = self._row(queries[i], sampling)
                if isinstance(row, str):
                    found[i] = [Answer("", failed=row)] * sampling.n
                else:
                    rows.append((i, row))
            if rows:
                found.update(
                    zip([i for i, _ in rows], self._answers([row for _, row in rows], sampling), strict=True)
                )
        return [found[i] for i in range(len(queries))]

    def _groups(self, queries: Sequence[Query]) -> list[list[int]]:
        """Indices of queries that are prepared together."""
        if self.batching == "throughput":
            size = self._batch * WINDOW
            return [list(range(i, min(i + size, len(queries)))) for i in range(0, len(queries), size)]
        groups: dict[str, list[int]] = {}
        for i, query in enumerate(queries):
            groups.setdefault(query.group or f"\0{i}", []).append(i)
        return list(groups.values())

    # --- prompts ----------------------------------------------------------------------------------

    def prompt(self, query: Query) -> str:
        """The text of a query as it goes to the processor: after the chat template, before image tokens are
        put in.
        """
        return prompt_text(self.processor, self.model_type, query.prompt, 1 if query.crop is None else 2)

    def images(self, query: Query) -> tuple[Image.Image, ...]:
        """The pictures of a query: the whole image, then the crop."""
        image = self.load_image(query.image)
        return (image,) if query.crop is None else (image, crop(image, query.crop))

    def row(self, query: Query) -> Row:
        """The query as tokens, with its picture. Raises what loading the image raises."""
        return self.encoder.row(
            Ask(query.item_id, self.prompt(query), (query.image, query.crop), lambda: self.images(query))
        )

    def _row(self, query: Query, sampling: Sampling) -> Row | str:
        if query.crop is not None and self.model_type in ONE_IMAGE:
            return f"one_image: {self.model_type} takes one image, the prompt brings a crop as well"
        try:
            row = self.row(query)
        except (OSError, DataError) as e:
            return f"image: {e}"
        if self.context is not None and len(row.ids) >= self.context:
            return (
                f"prompt_too_long: found {len(row.ids)} tokens, expected fewer than the model's "
                f"{self.context}"
            )
        return row

    # --- answers ----------------------------------------------------------------------------------

    def _answers(self, rows: Sequence[Row], sampling: Sampling) -> list[list[Answer]]:
        if self.batching == "per_item":
            try:
                return self._batch_answers(rows, sampling)
            except (torch.OutOfMemoryError, MemoryError):
                reason = (
                    f"out_of_memory: a group of {len(rows)} prompts x {sampling.n} samples; batching: "
                    "throughput splits it"
                )
                return [[Answer("", failed=reason)] * sampling.n for _ in rows]
        order = sorted(range(len(rows)), key=lambda i: len(rows[i].ids))
        answers, self._batch = in_halves(
            lambda batch: self._batch_answers(batch, sampling), [rows[i] for i in order], self._batch
        )
        by_row = dict(zip(order, answers, strict=True))
        return [by_row[i] for i in range(len(rows))]

    def _batch_answers(self, rows: Sequence[Row], sampling: Sampling) -> list[list[Answer]]:
        prompt = 1 if self.model.config.is_encoder_decoder else max(len(row.ids) for row in rows)
        room = self.context - prompt if self.context is not None else sampling.max_new_tokens
        answers = self._decoder.answer(rows, sampling, min(sampling.max_new_tokens, room))
        return [[self._read(tokens) for tokens in samples] for samples in answers]

    def _read(self, tokens: Tokens) -> Answer:
        """The answer's text: every tag is kept (boxes are made of them), only the start, padding and stop
        tokens are left out.
        """
        ids = [t for t in tokens.ids if t not in self._hidden]
        text: str = self.processor.tokenizer.decode(
            ids, skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        return Answer(text.strip(), tokens.stopped)
