"""Log-probabilities of answers, from the model's own forward, on packed or on plain rows.

The language-model head is the model's own, but it is asked only about the nodes that are answers, in pieces:
its `forward` receives the hidden states of all nodes, picks those that predict an answer token, and returns
that token's log-probability. Everything still happens inside the model's forward, so wrappers (PEFT, DDP,
FSDP) see a normal call.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812
from torch.utils.checkpoint import checkpoint

from spr.models.inputs import joined_features
from spr.training.encode import REMEMBERED, THREADS, Encoded, Encoder, tensors_of
from spr.training.families import Family
from spr.training.features import FeatureStore, blanked, encoder_states, image_features, moved, side_by_side
from spr.training.masks import masks_of, padded
from spr.training.packing import Ints, Row
from spr.training.plan import Unit

CHUNK = 1024  # ours: answer tokens whose logits exist at the same time


@dataclass(frozen=True, slots=True)
class Batch:
    """Some rows, padded: what the forward takes, and where the answers are.

    `predict` (n,): flat (row, node) index whose hidden state predicts; `target` (n,): the token. `paths[k]`
    (m_k,): indices into those n for answer k, in the order of the rows' branches.
    """

    inputs: dict[str, Any]
    predict: Tensor
    target: Tensor
    paths: tuple[Ints, ...]


def to_batch(rows: Sequence[Row], family: Family, length: int) -> Batch:
    """Rows side by side, padded to `length` tokens. In a plain row there is one branch, and the model makes
    its mask and positions itself; the mask of packed rows is `masks_of`.
    """
    axes = len(rows[0].positions)
    ids = np.zeros((len(rows), length), dtype=np.int64)
    positions = np.zeros((axes, len(rows), length), dtype=np.int64)
    predict, target, paths = [], [], []
    count = 0
    for i, row in enumerate(rows):
        n = len(row)
        ids[i, :n], positions[:, i, :n] = row.ids, row.positions
        answers = np.flatnonzero(~row.prompt)
        number = np.full(n, -1, dtype=np.int64)
        number[answers] = count + np.arange(len(answers))
        predict.append(i * length + row.parents[answers])
        target.append(row.ids[answers])
        paths += [number[p] for p in row.paths]
        count += len(answers)
    inputs: dict[str, Any] = {"input_ids": torch.from_numpy(ids), "use_cache": False}
    if family.layout is None:
        inputs["attention_mask"] = torch.from_numpy(
            np.stack([np.arange(length) < len(r) for r in rows]).astype(np.int64)
        )
    else:
        inputs["position_ids"] = torch.from_numpy(positions if axes > 1 else positions[0])
    return Batch(
        inputs,
        torch.from_numpy(np.concatenate(predict)),
        torch.from_numpy(np.concatenate(target)),
        tuple(paths),
    )


class AnswerHead:
    """Replaces the forward of a model's language-model head while a batch is `asked`."""

    def __init__(self, model: Any) -> None:
        self._head = model.get_output_embeddings()
        self._forward: Callable[[Tensor], Tensor] = self._head.forward
        self._asked: tuple[Tensor, Tensor] | None = None
        self.install()

    def install(self) -> None:
        """Answer instead of the head."""
        self._head.forward = self._log_probs

    def remove(self) -> None:
        """Give the head its own forward back."""
        del self._head.forward  # the instance's; its class has its own

    @contextmanager
    def asked(self, batch: Batch) -> Iterator[None]:
        """Within: the model's `logits` are the log-probabilities (n,) of the batch's answer tokens."""
        self._asked = (batch.predict, batch.target)
        try:
            yield
        finally:
            self._asked = None

    def _log_probs(self, hidden: Tensor) -> Tensor:
        if self._asked is None:
            return self._forward(hidden)
        predict, target = self._asked
        picked = hidden.reshape(-1, hidden.shape[-1])[predict.to(hidden.device)]
        target = target.to(hidden.device)
        if len(target) <= CHUNK:
            return self._piece(picked, target)
        pieces = zip(torch.split(picked, CHUNK), torch.split(target, CHUNK), strict=True)
        return torch.cat([checkpoint(self._piece, h, t, use_reentrant=False) for h, t in pieces])

    def _piece(self, hidden: Tensor, target: Tensor) -> Tensor:
        logits = self._forward(hidden)
        if logits.dtype != torch.float64:
            logits = logits.float()
        return -F.cross_entropy(logits, target, reduction="none")


class Images:
    """Image features, encoded once, as far as the store keeps them. Replaces the forward of a model, so that
    its tower and projector work inside it: where weights are sharded they are only there. Where tower or
    projector are `trained`, features have gradients, and none are kept.
    """

    def __init__(self, model: Any, encoder: Encoder, store: FeatureStore, trained: bool = False) -> None:
        self._model, self._encoder, self._trained, self.store = model, encoder, trained, store
        self._forward: Callable[..., Any] = model.forward
        self._asked: _Shown | None = None
        self._reads: bool = model.config.is_encoder_decoder
        self._threads: ThreadPoolExecutor | None = None
        self.install()

    def install(self) -> None:
        """Encode in the model's forward."""

        @functools.wraps(self._forward)
        def forward(*args: Any, **inputs: Any) -> Any:
            return self._with_features(*args, **inputs)

        self._model.forward = forward

    def remove(self) -> None:
        """Give the model its own forward back."""
        self._model.__dict__.pop("forward", None)
        if self._threads is not None:
            self._threads.shutdown(cancel_futures=True)
            self._threads = None

    @contextmanager
    def shown(self, units: Sequence[Unit], blank: bool = False, encodes: int | None = None) -> Iterator[None]:
        """Within: the model's forward sees the images of all rows of these units. `blank`: as zeros.
        `encodes`: how often the tower runs at least, for the sake of other processes.
        """
        self._asked = _Shown([unit for unit in units for _ in unit.rows], blank, encodes or 0)
        try:
            yield
        finally:
            self._asked = None

    def expect(self, pairs: Iterable[Encoded]) -> None:
        """Have the pictures of these pairs made ready, in threads, as far as they will be encoded. A picture
        that cannot be had says so when it is needed.
        """
        missing = {self._key_of(p.image_path, p.question): p for p in pairs}
        asked = [pair for key, pair in missing.items() if not self.store.has(key)]
        if asked and self._threads is None:
            self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="pictures")
        for pair in asked[: REMEMBERED // 2]:
            assert self._threads is not None
            self._threads.submit(self._encoder.ask, pair.question, pair.image_path)

    def missing(self, units: Sequence[Unit]) -> int:
        """How many images would be encoded for these units now."""
        return sum(not self.store.has(key) for key in {self._key(unit) for unit in units})

    def _with_features(self, *args: Any, **inputs: Any) -> Any:
        if self._asked is None:
            return self._forward(*args, **inputs)
        asked, found = self._asked, dict[str, Any]()
        before = self.store.encoded
        for unit in asked.units:
            if self._key(unit) not in found:
                found[self._key(unit)] = moved(self._features(unit, asked.blank), self._model.device)
        for _ in range(asked.encodes - (self.store.encoded - before)):
            self.encoded(asked.units[0].image, asked.units[0].question)
        features = [found[self._key(unit)] for unit in asked.units]
        if self._reads:
            return self._forward(*args, **{**inputs, **side_by_side(features)})
        return self._forward(*args, **inputs, mm_encoder_outputs={"image": joined_features(features)})

    def _key(self, unit: Unit) -> str:
        return self._key_of(unit.image, unit.question)

    def _key_of(self, image: str, question: str) -> str:
        shown = f"{image}\0{self._encoder.pictures.get(image)}"
        return f"{shown}\0{question}" if self._reads else shown

    def _features(self, unit: Unit, blank: bool) -> Any:
        kept = self.store.get(self._key(unit))
        if kept is None or (blank and self._reads):
            kept = self.encoded(unit.image, unit.question, blank)
            if not blank:
                self.store.put(self._key(unit), kept, keep=not self._trained)
        return blanked(kept) if blank and not self._reads else kept

    def encoded(self, image: str, question: str, blank: bool = False) -> Any:
        """What tower and projector make of an image; the question only completes what the processor is
        asked. Of an encoder-decoder: what its encoder makes of image and question, without the image where it
        is `blank`.
        """
        with torch.set_grad_enabled(self._trained and torch.is_grad_enabled()):
            if self._reads:
                return encoder_states(self._model, self._encoder.plain_inputs(question, image), blank)
            tensors = tensors_of(self._encoder.ask(question, image))
            return image_features(self._model, tensors, self._encoder.feature_arguments)


@dataclass(frozen=True, slots=True)
class _Shown:
    """What the next forward sees: the image of each row, by its unit."""

    units: Sequence[Unit]
    blank: bool
    encodes: int


class Policy:
    """Log-probabilities of the answers of some units under a model (which may be wrapped by PEFT, DDP,
    FSDP).
    """

    def __init__(self, base: Any, family: Family, encoder: Encoder, images: Images) -> None:
        self._base, self._family, self._encoder, self.images = base, family, encoder, images
        self._head = AnswerHead(base)

    def log_probs(
        self,
        model: Any,
        units: Sequence[Unit],
        family: Family | None = None,
        blank: bool = False,
        encodes: int | None = None,
    ) -> list[Tensor]:
        """One tensor (tokens,) per answer, in the order of the units' `answers`. `blank`: with image features
        (of plain rows: pictures) of zero, for a check. `encodes`: see `Images.shown`.
        """
        family = family or self._family
        rows = [(row, unit) for unit in units for row in unit.rows]
        packed = [row for row, _ in rows]
        length = max(map(len, packed))
        if family.layout is not None:
            length = padded(length, self.attention)
        batch = to_batch(packed, family, length)
        inputs = batch.inputs
        shown: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
        if family.layout is not None or self._base.config.is_encoder_decoder:
            shown = self.images.shown(units, blank, encodes)
        if family.layout is None and self._base.config.is_encoder_decoder:
            inputs = {"use_cache" if k == "use_cache" else f"decoder_{k}": v for k, v in inputs.items()}
        elif family.layout is None:
            inputs |= self._plain(rows, blank, length)
        inputs = _placed(inputs, self._base.device)
        if family.layout is not None:
            inputs["attention_mask"] = masks_of(
                packed, length, family, self.attention, self._base.dtype, self._base.device
            )
        with self._head.asked(batch), shown:
            found: Tensor = model(**inputs).logits
        return [found[torch.from_numpy(path).to(found.device)] for path in batch.paths]

    @property
    def dtype(self) -> torch.dtype:
        """The type that the model computes in."""
        found: torch.dtype = self._base.dtype
        return found

    @property
    def attention(self) -> str:
        """The implementation of attention of the language model, by transformers' name."""
        return str(self._base.config.get_text_config()._attn_implementation)

    def _plain(self, rows: Sequence[tuple[Row, Unit]], blank: bool, length: int) -> dict[str, Tensor]:
        """What the processor makes of each row's prompt beside ids and mask. Values per token are padded with
        zeros to `length`.
        """
        asked = [self._encoder.plain_inputs(unit.question, unit.image) for _, unit in rows]
        prompts = [a["input_ids"].shape for a in asked]
        extra: dict[str, Tensor] = {}
        for name in set(asked[0]) - {"input_ids", "attention_mask"}:
            values = [a[name] for a in asked]
            if all(v.shape == p and not v.is_floating_point() for v, p in zip(values, prompts, strict=True)):
                values = [F.pad(v, (0, length - v.shape[1])) for v in values]
            extra[name] = torch.cat(values)
            if blank and extra[name].is_floating_point():
                extra[name] = torch.zeros_like(extra[name])
        return extra

    def close(self) -> None:
        """Give the model its head and its forward back."""
        self._head.remove()
        self.images.remove()

    def open(self) -> None:
        """After `close`: answer again."""
        self._head.install()
        self.images.install()


def _placed(value: Any, device: Any) -> Any:
    if isinstance(value, Tensor):
        return value.to(device)
    return {k: _placed(v, device) for k, v in value.items()} if isinstance(value, dict) else value
