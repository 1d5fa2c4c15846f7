"""Texts and images -> what the model's forward takes, with each picture decoded, preprocessed and encoded
once.

In: prompt texts with their images. Out: `Row`s: token ids (unpadded, never truncated), values per token,
positions, and the `Picture` whose image tokens stand in the row. The processor is asked once per picture;
where it only puts a run of image tokens in the place of one placeholder, the other questions about the same
picture are tokenised alone and the run is put in (checked on the first question, else the processor is asked
again).
"""

from __future__ import annotations

import inspect
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

TOKEN_TYPES = ("token_type_ids", "mm_token_type_ids")


@dataclass(slots=True)
class Picture:
    """The image or images of a question: processor outputs, and the vision features once they are
    computed.
    """

    tensors: Mapping[str, torch.Tensor]
    features: Any = None
    run: tuple[int, ...] | None = None  # tokens that stand for the placeholder; None: ask the processor
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


class Encoder:
    """Prompts -> rows, for one model and its processor."""

    def __init__(self, model: PreTrainedModel, processor: Any, remember: int = 4) -> None:
        self.model, self.processor, self.remember = model, processor, remember
        self._pictures: OrderedDict[Hashable, Picture] = OrderedDict()
        self.tokenizer = processor.tokenizer
        base = model.base_model
        self._rope_index = getattr(base, "get_rope_index", None)
        self._encode_images = getattr(base, "get_image_features", None)
        self.takes_features = (
            self._encode_images is not None
            and "mm_encoder_outputs" in inspect.signature(model.forward).parameters
        )
        self._image_arguments = (
            inspect.signature(self._encode_images).parameters if self._encode_images is not None else {}
        )
        self.forward_arguments = inspect.signature(model.forward).parameters
        self._placeholder = self._image_token_id()
        self._special_ids = frozenset(self.tokenizer.added_tokens_decoder)
        named = (
            self._placeholder,
            getattr(model.config, "image_token_id", None),
            getattr(model.config, "image_token_index", None),
        )
        self.image_tokens = frozenset(t for t in named if isinstance(t, int))

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
        if not self.takes_features:
            raw = self.processed(ask.text, ask.load())
            return Row(ask.item_id, tuple(raw["input_ids"][0].tolist()), {}, torch.zeros(1, 0), None, raw)
        picture = self._pictures.get(ask.key)
        short = self._with_run(ask.text, picture) if picture is not None else None
        if short is None:
            images = ask.load()
            ids, values, tensors = self._ask_processor(ask.text, images)
            if picture is None:
                picture = Picture(tensors)
                if len(images) == 1:
                    self._learn_run(ask.text, ids, values, picture)
                self._pictures[ask.key] = picture
                while len(self._pictures) > self.remember:
                    self._pictures.popitem(last=False)
        else:
            ids, values = short
        return Row(ask.item_id, ids, values, self._positions(ids, values, picture), picture)

    def processed(self, text: str, images: tuple[Image.Image, ...]) -> dict[str, torch.Tensor]:
        """All tensors that the processor makes of a prompt, on the model's device."""
        out = ask_processor(self.processor, self.model.config.model_type, text, images)
        return {k: self._placed(v) for k, v in out.items()}

    def _ask_processor(
        self, text: str, images: tuple[Image.Image, ...]
    ) -> tuple[tuple[int, ...], dict[str, tuple[int, ...]], dict[str, torch.Tensor]]:
        out = self.processed(text, images)
        values = {k: tuple(out.pop(k)[0].tolist()) for k in TOKEN_TYPES if k in out}
        ids = tuple(out.pop("input_ids")[0].tolist())
        out.pop("attention_mask", None)
        return ids, values, out

    def _placed(self, tensor: torch.Tensor) -> torch.Tensor:
        return (
            tensor.to(self.model.device, self.model.dtype)
            if tensor.is_floating_point()
            else tensor.to(self.model.device)
        )

    def _plain_ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=adds_start(self.tokenizer, text))[
            "input_ids"
        ]
        return ids

    def _learn_run(
        self, text: str, ids: tuple[int, ...], values: Mapping[str, tuple[int, ...]], picture: Picture
    ) -> None:
        """Find the run of tokens that the processor put in for the placeholder, if that is all it did."""
        plain = self._plain_ids(text)
        if self._placeholder is None or plain.count(self._placeholder) != 1:
            return
        at, longer = plain.index(self._placeholder), len(ids) - len(plain)
        end = at + longer + 1
        if (
            longer < 0
            or [*ids[:at], self._placeholder, *ids[end:]] != plain
            or not {ids[at], ids[end - 1]} <= self._special_ids
        ):
            return  # ordinary tokens at its ends might melt into another question's
        rest = {name: {*v[:at], *v[end:]} for name, v in values.items()}
        if all(len(found) == 1 for found in rest.values()):
            picture.run = ids[at:end]
            picture.run_values = {name: v[at:end] for name, v in values.items()}
            picture.outside = {name: found.pop() for name, found in rest.items()}

    def _with_run(
        self, text: str, picture: Picture
    ) -> tuple[tuple[int, ...], dict[str, tuple[int, ...]]] | None:
        """The tokens of another question about the same picture, or None when it has not exactly one
        placeholder.
        """
        plain = self._plain_ids(text)
        if picture.run is None or self._placeholder is None or plain.count(self._placeholder) != 1:
            return None
        at = plain.index(self._placeholder)
        after = len(plain) - at - 1
        values = {
            n: (picture.outside[n],) * at + run + (picture.outside[n],) * after
            for n, run in picture.run_values.items()
        }
        return (*plain[:at], *picture.run, *plain[at + 1 :]), values

    def _positions(
        self, ids: tuple[int, ...], values: Mapping[str, tuple[int, ...]], picture: Picture | None
    ) -> torch.Tensor:
        """(axes, tokens): 0, 1, 2 … or, in families with a rotary embedding of three axes, theirs."""
        if self._rope_index is None or picture is None or "image_grid_thw" not in picture.tensors:
            return torch.arange(len(ids), device=self.model.device)[None]
        device = self.model.device
        types = torch.tensor([values["mm_token_type_ids"]], dtype=torch.int32, device=device)
        found, _ = self._rope_index(
            torch.tensor([ids], device=device),
            mm_token_type_ids=types,
            image_grid_thw=picture.tensors["image_grid_thw"],
            attention_mask=torch.ones(1, len(ids), dtype=torch.long, device=device),
        )
        positions: torch.Tensor = found[:, 0]
        return positions

    # --- vision -----------------------------------------------------------------------------------

    def features(self, rows: Sequence[Row]) -> dict[str, Any]:
        """The forward's `mm_encoder_outputs` for a batch of rows; every distinct picture is encoded once."""
        assert self._encode_images is not None
        found = []
        for picture in (row.picture for row in rows):
            if picture is None or not picture.tensors:
                continue
            if picture.features is None:
                arguments = {k: v for k, v in picture.tensors.items() if k in self._image_arguments}
                picture.features = self._encode_images(**arguments, return_dict=True)
            found.append(picture.features)
        return {"image": _joined(found)} if found else {}


def _joined(outputs: Sequence[Any]) -> Any:
    """Image features of several pictures as one output of the vision encoder."""
    if len(outputs) == 1:
        return outputs[0]
    joined = BaseModelOutputWithPooling(pooler_output=_cat([o.pooler_output for o in outputs]))
    deep = [o.deepstack_features for o in outputs if getattr(o, "deepstack_features", None) is not None]
    if deep:
        joined.deepstack_features = [_cat([d[layer] for d in deep]) for layer in range(len(deep[0]))]
    return joined


def _cat(parts: Sequence[Any]) -> Any:
    """Tensors joined along the first axis, lists and tuples joined as such."""
    if isinstance(parts[0], torch.Tensor):
        return torch.cat(list(parts), dim=0)
    return [x for part in parts for x in part]
