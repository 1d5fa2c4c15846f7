"""One Describer for the image-text-to-text models of transformers, in process.

In: queries (image, question, perhaps a crop). Out: sampled answers. The checkpoint's own processor and chat
template write the prompt; image tokens are never cut: a prompt that does not fit is a failed answer with its
reason.
`per_item`: all queries of a group are one batch, so its shape, hence every bit of the answers, depends on the
group alone. `throughput`: queries of a call are sorted by length and batched by size. A batch that does not
fit into memory is halved, and said so; a prompt that does not fit alone, and a picture that the processor
cannot show, are failed answers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from PIL import Image

from spr.errors import ConfigError, DataError, unknown_name, why_no_picture
from spr.models.chat import prompt_text
from spr.models.decode import Decoder, Tokens
from spr.models.generate import GenerateDecoder
from spr.models.inputs import Ask, Encoder, Row
from spr.models.loading import context_length, load_mllm, with_adapter
from spr.models.memory import in_halves, memory_errors
from spr.models.pictures import LoadImage, crop
from spr.types import Answer, Checkpoint, Query, Sampling

BATCHINGS = ("per_item", "throughput")
BATCH = 16  # ours: prompts per batch that `throughput` begins with
WINDOW = 8  # ours: batches that are sorted by length together
ONE_IMAGE = frozenset({"kosmos-2", "florence2"})  # their processors take one image per prompt


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
        device: str = "auto",
        batching: str = "per_item",
        adapter: str | None = None,
        check: Callable[[Any], None] | None = None,
    ) -> None:
        if batching not in BATCHINGS:
            raise ConfigError("model.batching: " + unknown_name("batching", batching, BATCHINGS))
        base, self.processor = load_mllm(model, device, check)
        self._template = Checkpoint.of(model).chat_template_kwargs
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
        images = 1 if query.crop is None else 2
        return prompt_text(self.processor, self.model_type, query.prompt, images, self._template)

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
            with memory_errors():
                row = self.row(query)
        except (OSError, DataError, ValueError) as e:
            return why_no_picture(e)
        except MemoryError as e:
            return self._no_memory(e)
        if self.context is not None and len(row.ids) >= self.context:
            return (
                f"prompt_too_long: found {len(row.ids)} tokens, expected fewer than the model's "
                f"{self.context}"
            )
        return row

    # --- answers ----------------------------------------------------------------------------------

    def _answers(self, rows: Sequence[Row], sampling: Sampling) -> list[list[Answer]]:
        def answer(batch: Sequence[Row]) -> list[list[Answer]]:
            return self._batch_answers(batch, sampling)

        def alone(row: Row, e: MemoryError) -> list[Answer]:
            return [Answer("", failed=self._no_memory(e))] * sampling.n

        if self.batching == "per_item":  # each group begins whole, so that it depends on no other
            return in_halves(answer, rows, len(rows), alone)[0]
        order = sorted(range(len(rows)), key=lambda i: len(rows[i].ids))
        answers, self._batch = in_halves(answer, [rows[i] for i in order], self._batch, alone)
        by_row = dict(zip(order, answers, strict=True))
        return [by_row[i] for i in range(len(rows))]

    def _no_memory(self, e: MemoryError) -> str:
        """Make room, and say why there is no answer."""
        self.encoder.forget()
        return f"out_of_memory: the prompt does not fit alone ({str(e)[:120]})"

    def _batch_answers(self, rows: Sequence[Row], sampling: Sampling) -> list[list[Answer]]:
        limits = [self._room(row, sampling.max_new_tokens) for row in rows]
        answers = self._decoder.answer(rows, sampling, limits)
        return [
            [self._read(tokens, limit, sampling.max_new_tokens) for tokens in samples]
            for samples, limit in zip(answers, limits, strict=True)
        ]

    def _room(self, row: Row, wanted: int) -> int:
        """Tokens that an answer to this prompt may have."""
        prompt = 1 if self.model.config.is_encoder_decoder else len(row.ids)
        return wanted if self.context is None else min(wanted, self.context - prompt)

    def _read(self, tokens: Tokens, limit: int, wanted: int) -> Answer:
        """The answer's text: every tag is kept (boxes are made of them), only the start, padding and stop
        tokens are left out.
        """
        if tokens.not_a_number:
            return Answer("", failed="not_a_number: the model's logits are none; another model.dtype?")
        ids = [t for t in tokens.ids if t not in self._hidden]
        text: str = self.processor.tokenizer.decode(
            ids, skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        cause = None
        if not tokens.stopped and limit < wanted:
            cause = f"the context of {self.context} tokens leaves room for {limit}"
        return Answer(text.strip(), tokens.stopped, cause=cause)
