"""Texts and images -> what the model's forward takes, with each picture decoded, preprocessed and encoded
once.

In: prompt texts with their images. Out: `Row`s: token ids (unpadded, never truncated), values per token,
positions, and the `Picture` whose image tokens stand in the row. The processor is asked once per picture (a
question's image, or its image and crop); where it only puts runs of image tokens in the place of
placeholders, the other questions about the same picture are tokenised alone and the runs are put in (checked
on the first question, else the processor is asked again).
Rows are made on the CPU, perhaps in another thread; pictures go to the device when they are encoded.
"""

from __future__ import annotations

import inspect
import math
import warnings
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from spr.models.chat import BARE
from spr.models.memory import in_halves

TOKEN_TYPES = ("token_type_ids", "mm_token_type_ids")
TOGETHER = 16  # ours: pictures that are encoded at once


@dataclass(slots=True)
class Picture:
    """The image or images of a question: processor outputs, and the vision features once they are
    computed.
    """

    tensors: Mapping[str, torch.Tensor]
    tokens: int = 0  # image tokens in a prompt
    features: Any = None
    run: tuple[int, ...] | None = None  # from the first image's tokens to the last's; None: ask the processor
    stands_for: tuple[int, ...] = ()  # the placeholders, and what is between them
    run_values: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    outside: Mapping[str, int] = field(default_factory=dict)  # value per token outside the run


@dataclass(frozen=True, slots=True)
class Ask:
    """A prompt text with its images. `key` names the images; they are loaded only when they are needed."""

    item_id: str
    text: str
    key: Hashable
    load: Callable[[], tuple[Image.Image, ...]]


@dataclass(frozen=True, slots=True)
class Row:
    """One prompt, unpadded. `values` are per token (token types), `positions` (axes, tokens) with 1 or 3
    axes.

    `raw` is all that the processor gave, for families whose forward does not take image features.
    """

    item_id: str
    ids: tuple[int, ...]
    values: Mapping[str, tuple[int, ...]]
    positions: torch.Tensor
    picture: Picture | None
    raw: Mapping[str, torch.Tensor] | None = None


def adds_start(tokenizer: Any, text: str) -> bool:
    """Whether the tokenizer may add its own start token: not when the template has written it already."""
    start = tokenizer.bos_token
    return not (start and text.startswith(start))


def ask_processor(
    processor: Any, model_type: str, text: str, images: tuple[Image.Image, ...]
) -> dict[str, torch.Tensor]:
    """All tensors that a processor makes of one prompt, except labels. Nothing is truncated."""
    settings = {} if model_type in BARE else {"add_special_tokens": adds_start(processor.tokenizer, text)}
    # some processors turn tensors into arrays in a way that numpy 2 warns about
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="__array__ implementation", category=DeprecationWarning)
        out = processor(text=[text], images=list(images), return_tensors="pt", **settings)
    return {k: v for k, v in out.items() if isinstance(v, torch.Tensor) and k != "labels"}


def placed(tensor: torch.Tensor, model: PreTrainedModel | torch.nn.Parameter) -> torch.Tensor:
    """A processor's tensor where the model, or one of its weights, is, and in its type."""
    dtype = model.dtype if tensor.is_floating_point() else None
    return tensor.to(model.device, dtype)


class Encoder:
    """Prompts -> rows, for one model and its processor."""

    def __init__(
        self, model: PreTrainedModel, processor: Any, remember: int = 4, remember_mb: float = math.inf
    ) -> None:
        self.model, self.processor, self.remember = model, processor, remember
        self._limit = remember_mb * 2**20
        self._pictures: OrderedDict[Hashable, Picture] = OrderedDict()
        self.tokenizer = processor.tokenizer
        base = model.base_model
        self._rope_index = getattr(base, "get_rope_index", None)
        self._encode_images = getattr(base, "get_image_features", None)
        self.takes_features = (
            self._encode_images is not None
            and "mm_encoder_outputs" in inspect.signature(model.forward).parameters
        )
        self.keeps_raw = not self.takes_features  # rows are all that the processor gave
        self._image_arguments = (
            inspect.signature(self._encode_images).parameters if self._encode_images is not None else {}
        )
        self.forward_arguments = inspect.signature(model.forward).parameters
        self._placeholder = self._image_token_id()
        self._special_ids = frozenset(self.tokenizer.added_tokens_decoder)
        named = (getattr(model.config, name, None) for name in ("image_token_id", "image_token_index"))
        # each stands for one feature of the image
        self._feature_tokens = frozenset(t for t in named if isinstance(t, int))
        placeholder = {self._placeholder} if self._placeholder is not None else set()
        self.image_tokens = self._feature_tokens | placeholder

    def _image_token_id(self) -> int | None:
        token = getattr(self.processor, "image_token", None)
        found = self.tokenizer.convert_tokens_to_ids(token) if isinstance(token, str) else None
        return found if isinstance(found, int) else None

    def forget(self) -> None:
        """Forget all pictures."""
        self._pictures.clear()

    # --- tokens -----------------------------------------------------------------------------------

    def row(self, ask: Ask) -> Row:
        """The prompt as tokens. The last few pictures are remembered, with their features."""
        if self.keeps_raw:
            raw = self.whole(ask)
            return Row(ask.item_id, tuple(raw["input_ids"][0].tolist()), {}, torch.zeros(1, 0), None, raw)
        picture = self._pictures.get(ask.key)
        short = self._with_run(ask.text, picture) if picture is not None else None
        if short is None:
            images = ask.load()
            ids, values, tensors = self._ask_processor(ask.text, images)
            if picture is None:
                picture = Picture(tensors, sum(token in self._feature_tokens for token in ids))
                self._learn_run(ask.text, ids, values, picture)
                self._remember(ask.key, picture)
        else:
            ids, values = short
        return Row(ask.item_id, ids, values, self._positions(ids, values, picture), picture)

    def whole(self, ask: Ask) -> Mapping[str, torch.Tensor]:
        """All tensors that the processor makes of the prompt. The last few are remembered."""
        key = (ask.key, ask.text)
        found = self._pictures.get(key)
        if found is None:
            found = Picture(self.processed(ask.text, ask.load()))
            self._remember(key, found)
        return found.tensors

    def remembers(self, ask: Ask) -> bool:
        """Whether `row` needs no image for this."""
        return ((ask.key, ask.text) if self.keeps_raw else ask.key) in self._pictures

    def _remember(self, key: Hashable, picture: Picture) -> None:
        self._pictures[key] = picture
        while len(self._pictures) > self.remember or (self._size() > self._limit and len(self._pictures) > 1):
            self._pictures.popitem(last=False)

    def _size(self) -> int:
        return sum(t.nbytes for picture in self._pictures.values() for t in picture.tensors.values())

    def processed(self, text: str, images: tuple[Image.Image, ...]) -> dict[str, torch.Tensor]:
        """All tensors that the processor makes of a prompt."""
        return ask_processor(self.processor, self.model.config.model_type, text, images)

    def _ask_processor(
        self, text: str, images: tuple[Image.Image, ...]
    ) -> tuple[tuple[int, ...], dict[str, tuple[int, ...]], dict[str, torch.Tensor]]:
        out = self.processed(text, images)
        values = {k: tuple(out.pop(k)[0].tolist()) for k in TOKEN_TYPES if k in out}
        ids = tuple(out.pop("input_ids")[0].tolist())
        out.pop("attention_mask", None)
        return ids, values, out

    def _plain_ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=adds_start(self.tokenizer, text))[
            "input_ids"
        ]
        return ids

    def _placeholders(self, plain: Sequence[int]) -> tuple[int, int] | None:
        """From where to where the placeholders stand, with what is between them; None when there is none."""
        places = [i for i, token in enumerate(plain) if token == self._placeholder]
        return (places[0], places[-1] + 1) if places else None

    def _learn_run(
        self, text: str, ids: tuple[int, ...], values: Mapping[str, tuple[int, ...]], picture: Picture
    ) -> None:
        """Find the run of tokens that the processor put in for the placeholders, if that is all it did."""
        plain = self._plain_ids(text)
        if (found := self._placeholders(plain)) is None:
            return
        at, after = found
        end = len(ids) - (len(plain) - after)
        if (
            end <= at
            or [*ids[:at], *plain[at:after], *ids[end:]] != plain
            or not {ids[at], ids[end - 1]} <= self._special_ids
        ):
            return  # ordinary tokens at its ends might melt into another question's
        rest = {name: {*v[:at], *v[end:]} for name, v in values.items()}
        if all(len(found) == 1 for found in rest.values()):
            picture.run, picture.stands_for = ids[at:end], tuple(plain[at:after])
            picture.run_values = {name: v[at:end] for name, v in values.items()}
            picture.outside = {name: found.pop() for name, found in rest.items()}

    def _with_run(
        self, text: str, picture: Picture
    ) -> tuple[tuple[int, ...], dict[str, tuple[int, ...]]] | None:
        """The tokens of another question about the same picture, or None when its placeholders stand
        otherwise.
        """
        plain = self._plain_ids(text)
        found = self._placeholders(plain)
        if picture.run is None or found is None:
            return None
        at, after = found
        if tuple(plain[at:after]) != picture.stands_for:
            return None
        values = {
            n: (picture.outside[n],) * at + run + (picture.outside[n],) * (len(plain) - after)
            for n, run in picture.run_values.items()
        }
        return (*plain[:at], *picture.run, *plain[after:]), values

    def _positions(
        self, ids: tuple[int, ...], values: Mapping[str, tuple[int, ...]], picture: Picture | None
    ) -> torch.Tensor:
        """(axes, tokens): 0, 1, 2 … or, in families with a rotary embedding of three axes, theirs."""
        if self._rope_index is None or picture is None or "image_grid_thw" not in picture.tensors:
            return torch.arange(len(ids))[None]
        found, _ = self._rope_index(
            torch.tensor([ids]),
            mm_token_type_ids=torch.tensor([values["mm_token_type_ids"]], dtype=torch.int32),
            image_grid_thw=picture.tensors["image_grid_thw"],
            attention_mask=torch.ones(1, len(ids), dtype=torch.long),
        )
        positions: torch.Tensor = found[:, 0]
        return positions

    # --- vision -----------------------------------------------------------------------------------

    def encode(self, pictures: Sequence[Picture]) -> None:
        """Encode what is not encoded yet, as many pictures at once as fit together."""
        missing = list({id(p): p for p in pictures if p.features is None and p.tensors}.values())
        alike: dict[Hashable, list[Picture]] = {}
        for picture in missing:
            shapes = ((k, v.dtype, v.shape[1:]) for k, v in picture.tensors.items())
            alike.setdefault(tuple(sorted(shapes, key=lambda s: s[0])), []).append(picture)
        for group in alike.values():
            in_halves(self._encode_together, group, TOGETHER)

    def _encode_together(self, pictures: Sequence[Picture]) -> Sequence[Picture]:
        assert self._encode_images is not None
        tensors = {
            name: placed(torch.cat([p.tensors[name] for p in pictures]), self.model)
            for name in pictures[0].tensors
            if name in self._image_arguments
        }
        found = _parts(self._encode_images(**tensors, return_dict=True), [p.tokens for p in pictures])
        if found is None:
            for picture in pictures:
                self._encode_together([picture])
        else:
            for picture, features in zip(pictures, found, strict=True):
                picture.features = features
        return pictures

    def features(self, rows: Sequence[Row]) -> dict[str, Any]:
        """The forward's `mm_encoder_outputs` for a batch of rows; every distinct picture is encoded once,
        alone unless `encode` was asked before.
        """
        found = []
        for picture in (row.picture for row in rows):
            if picture is None or not picture.tensors:
                continue
            if picture.features is None:
                self._encode_together([picture])
            found.append(picture.features)
        return {"image": joined_features(found)} if found else {}


def _parts(output: Any, tokens: Sequence[int]) -> list[Any] | None:
    """What the vision encoder made of several pictures, per picture, by the count of their tokens; None where
    it does not come apart like that.
    """
    layers: Sequence[Any] = getattr(output, "deepstack_features", None) or ()
    pooled, *deep = (
        [entries] if len(tokens) == 1 else _split(entries, tokens)
        for entries in (output.pooler_output, *layers)
    )
    if pooled is None or any(layer is None for layer in deep):
        return None
    found = []
    for number, features in enumerate(pooled):
        part = BaseModelOutputWithPooling(pooler_output=features)
        if deep:
            part.deepstack_features = [layer[number] for layer in deep if layer is not None]
        found.append(part)
    return found


def _split(entries: Any, tokens: Sequence[int]) -> list[Any] | None:
    """Consecutive entries (…, width), as many for each picture as hold its count of tokens; None where they
    do not.
    """
    found, begin = [], 0
    for wanted in tokens:
        end, held = begin, 0
        while held < wanted and end < len(entries):
            held += entries[end].shape[:-1].numel()
            end += 1
        if held != wanted:
            return None
        found.append(entries[begin:end])
        begin = end
    return found if begin == len(entries) else None


def joined_features(outputs: Sequence[Any]) -> Any:
    """Image features of several pictures as one output of the vision encoder, in order."""
    joined = BaseModelOutputWithPooling(pooler_output=_cat([o.pooler_output for o in outputs]))
    deep: list[Any] = [getattr(o, "deepstack_features", None) for o in outputs]
    if deep[0] is not None:
        joined["deepstack_features"] = [_cat([d[layer] for d in deep]) for layer in range(len(deep[0]))]
    return joined


def _cat(parts: Sequence[Any]) -> Any:
    """Tensors joined along the first axis, lists and tuples joined as such."""
    if len(parts) == 1:
        return parts[0]
    if isinstance(parts[0], torch.Tensor):
        return torch.cat(list(parts), dim=0)
    return [x for part in parts for x in part]
