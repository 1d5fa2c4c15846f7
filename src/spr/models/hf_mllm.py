"""One Describer for the image-text-to-text models of transformers, in process.

In: queries (image, question, perhaps a crop). Out: sampled answers. The checkpoint's own processor and chat
template write the prompt; image tokens are never cut: a prompt that does not fit is a failed answer with its
reason.
`per_item`: all queries of a group are one batch, so its shape, hence every bit of the answers, depends on the
group alone. `throughput`: the queries of a call are a stream through one batch (spr.models.flow). Either way
pictures are decoded and preprocessed ahead, in threads. A batch that does not fit into memory is halved, and
said so; a prompt that does not fit alone, and a picture that the processor cannot show, are failed answers.
A model whose cache keeps other things than keys and values (linear attention), or whose forward takes no
image features, answers through transformers' generate(), one prompt at a time.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from PIL import Image

from spr.errors import DataError, why_no_picture
from spr.models.ahead import for_throughput
from spr.models.cache import is_known
from spr.models.chat import prompt_text, text_of
from spr.models.decode import Decoder, Task, Tokens
from spr.models.flow import Flow
from spr.models.generate import GenerateDecoder
from spr.models.inputs import Ask, Encoder, Row
from spr.models.loading import context_length, load_mllm, with_adapter
from spr.models.memory import in_halves, memory_errors
from spr.models.pictures import LoadImage, pictures_of
from spr.store.ahead import Ahead
from spr.types import Answer, Checkpoint, Query, Sampling

log = logging.getLogger(__name__)
PICTURE_ERRORS = (OSError, DataError, ValueError, MemoryError)  # that cost the queries of one picture
THREADS, IMAGES_AHEAD = 4, 8  # ours: that load images, and how many of them at most wait to be described
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
        streams = for_throughput("model", batching)
        base, self.processor = load_mllm(model, device, check)
        self._template = Checkpoint.of(model).chat_template_kwargs
        self.model = with_adapter(base, adapter) if adapter else base
        self.load_image, self.batching = load_image, batching
        self.model_type: str = self.model.config.model_type
        self.context = context_length(self.model)
        self.encoder = Encoder(self.model, self.processor)
        self._preparing = threading.RLock()  # tokenizers take one thread at a time
        self._image: tuple[str, Image.Image] | None = None  # the last one
        tokenizer = self.processor.tokenizer
        self.stops = _stop_tokens(self.model, tokenizer)
        self.pad = int(
            tokenizer.pad_token_id if tokenizer.pad_token_id is not None else min(self.stops, default=0)
        )
        self._hidden = self.stops | {
            t for t in (tokenizer.pad_token_id, tokenizer.bos_token_id) if t is not None
        }
        self._decoder: Decoder | GenerateDecoder
        self._flow: Flow | None = None
        config = self.model.config
        if self.encoder.takes_features and not is_known(config):
            log.warning(
                "%s: its cache keeps more than keys and values: generate() answers, one prompt at a time",
                Checkpoint.of(model).folder,
            )
        self.encoder.keeps_raw |= config.is_encoder_decoder or not is_known(config)
        if not self.encoder.keeps_raw:
            self._decoder = Decoder(self.model, self.encoder, self.stops, self.pad)
            self._flow = Flow(self._decoder) if streams else None
        else:
            self._decoder = GenerateDecoder(self.model, self.stops, self.pad)

    # --- the port ---------------------------------------------------------------------------------

    def answer(self, queries: Sequence[Query], sampling: Sampling) -> list[list[Answer]]:
        """`sampling.n` answers per query, in order. A query without readable image or with too long a prompt
        gives failed answers.
        """
        answers = self._stream if self._flow is not None else self._group_by_group
        found = dict(answers(queries, sampling))
        return [found[i] for i in range(len(queries))]

    def _group_by_group(
        self, queries: Sequence[Query], sampling: Sampling
    ) -> Iterator[tuple[int, list[Answer]]]:
        """Answers with the number of their query; each group is one batch, whatever stands beside it."""
        groups: dict[str, list[int]] = {}
        for i, query in enumerate(queries):
            groups.setdefault(query.group or f"\0{i}", []).append(i)

        def prepare(group: Sequence[int]) -> list[tuple[int, Row | str]]:
            with self._preparing:
                return [(i, self._row(queries[i])) for i in group]

        with Ahead(prepare, groups.values()) as prepared:
            for group in prepared:
                yield from ((i, _no_answers(row, sampling)) for i, row in group if isinstance(row, str))
                rows = [(i, row) for i, row in group if isinstance(row, Row)]
                if rows:
                    answers = self._answers([row for _, row in rows], sampling)
                    yield from zip([i for i, _ in rows], answers, strict=True)

    def _stream(self, queries: Sequence[Query], sampling: Sampling) -> Iterator[tuple[int, list[Answer]]]:
        """Answers with the number of their query, as they end."""
        assert self._flow is not None
        images: dict[str, list[int]] = {}
        for i, query in enumerate(queries):
            images.setdefault(query.image, []).append(i)
        failed: dict[int, str] = {}

        def prepare(path: str) -> list[Task]:
            """Several threads load images; one after the other they ask the processor."""
            try:
                with memory_errors():
                    image = self.load_image(path)
            except PICTURE_ERRORS as e:
                failed.update(dict.fromkeys(images[path], self._why_not(e)))
                return []
            tasks = []
            with self._preparing:
                for i in images[path]:
                    row = self._row(queries[i], image)
                    if isinstance(row, str):
                        failed[i] = row
                    else:
                        tasks.append(Task(i, row, self._room(row, sampling.max_new_tokens)))
                self.encoder.forget()
            return tasks

        with Ahead(prepare, images, THREADS, IMAGES_AHEAD) as tasks:
            for task, answers in self._flow.answers(tasks, sampling):
                if isinstance(answers, MemoryError):
                    failed[task.name] = self._no_memory(answers)
                else:
                    yield task.name, self._read_all(answers, task.limit, sampling)
        yield from ((i, _no_answers(why, sampling)) for i, why in failed.items())

    # --- prompts ----------------------------------------------------------------------------------

    def prompt(self, query: Query) -> str:
        """The text of a query as it goes to the processor: after the chat template, before image tokens are
        put in.
        """
        images = 1 if query.crop is None else 2
        return prompt_text(self.processor, self.model_type, query.prompt, images, self._template)

    def images(self, query: Query, image: Image.Image | None = None) -> tuple[Image.Image, ...]:
        """The pictures of a query: the whole image (loaded, unless it is given), then the crop."""
        return pictures_of(query, image or self._last_image(query.image))

    def _last_image(self, path: str) -> Image.Image:
        """The image of a path; the last one is remembered."""
        if self._image is None or self._image[0] != path:
            self._image = (path, self.load_image(path))
        return self._image[1]

    def row(self, query: Query, image: Image.Image | None = None) -> Row:
        """The query as tokens, with its picture. Raises what loading the image raises, unless it is given."""
        key = (query.image, query.crop)
        return self.encoder.row(
            Ask(query.item_id, self.prompt(query), key, lambda: self.images(query, image))
        )

    def _row(self, query: Query, image: Image.Image | None = None) -> Row | str:
        if query.crop is not None and self.model_type in ONE_IMAGE:
            return f"one_image: {self.model_type} takes one image, the prompt brings a crop as well"
        try:
            with memory_errors():
                row = self.row(query, image)
        except PICTURE_ERRORS as e:
            return self._why_not(e)
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
            return _no_answers(self._no_memory(e), sampling)

        return in_halves(answer, rows, len(rows), alone)[0]

    def _why_not(self, e: Exception) -> str:
        """Why there is no picture to ask about."""
        return self._no_memory(e) if isinstance(e, MemoryError) else why_no_picture(e)

    def _no_memory(self, e: MemoryError) -> str:
        """Make room, and say why there is no answer."""
        with self._preparing:
            self.encoder.forget()
        return f"out_of_memory: the prompt does not fit alone ({str(e)[:120]})"

    def _batch_answers(self, rows: Sequence[Row], sampling: Sampling) -> list[list[Answer]]:
        limits = [self._room(row, sampling.max_new_tokens) for row in rows]
        answers = self._decoder.answer(rows, sampling, limits)
        return [
            self._read_all(samples, limit, sampling) for samples, limit in zip(answers, limits, strict=True)
        ]

    def _read_all(self, samples: Sequence[Tokens], limit: int, sampling: Sampling) -> list[Answer]:
        """The answers to a prompt; greedy ones are all the same."""
        found = [self._read(tokens, limit, sampling.max_new_tokens) for tokens in samples]
        return found * (sampling.n // len(found))

    def _room(self, row: Row, wanted: int) -> int:
        """Tokens that an answer to this prompt may have."""
        prompt = 1 if self.model.config.is_encoder_decoder else len(row.ids)
        return wanted if self.context is None else min(wanted, self.context - prompt)

    def _read(self, tokens: Tokens, limit: int, wanted: int) -> Answer:
        """The answer: only the start, padding and stop tokens are left out."""
        if tokens.not_a_number:
            return Answer("", failed="not_a_number: the model's logits are none; another model.dtype?")
        text = text_of(self.processor, tokens.ids, self._hidden)
        cause = None
        if not tokens.stopped and limit < wanted:
            cause = f"the context of {self.context} tokens leaves room for {limit}"
        return Answer(text, tokens.stopped, cause=cause)


def _no_answers(why: str, sampling: Sampling) -> list[Answer]:
    return [Answer("", failed=why)] * sampling.n
