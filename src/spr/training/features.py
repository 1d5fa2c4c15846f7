"""What a model makes of pictures before it answers: computed once, kept while it fits.

In: what the processor made of a picture. Out: in the form that the model's forward takes, the features of
tower and projector; of an encoder-decoder, the states of its encoder over picture and question.
Kept in the model's memory up to one size, then in files up to another; both change speed only.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F  # noqa: N812
from transformers.modeling_outputs import BaseModelOutput, BaseModelOutputWithPooling

from spr.models.inputs import joined_features, placed
from spr.store.files import whole


class FeatureStore:
    """Features by name: up to `limit_mb` in memory, then up to `disk_mb` in files of `folder`, but no more
    than half of what is free there. Any process may read them; what is there was made from the same picture
    by the same weights.
    """

    def __init__(
        self,
        limit_mb: int,
        disk_mb: int = 0,
        folder: Path | None = None,
        tell: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._limit, self._disk_limit = limit_mb * 2**20, disk_mb * 2**20 if folder else 0
        self._folder, self._tell = folder, tell
        self._kept: dict[str, Any] = {}
        self._bytes = self._on_disk = 0
        self.encoded = 0  # how often the tower ran

    def get(self, name: str) -> Any | None:
        """The features of that name, or None. Those in a file come to the CPU."""
        found = self._kept.get(name)
        if found is None and self._disk_limit and (path := self._path(name)).exists():
            return _unflat(load_file(path))
        return found

    def has(self, name: str) -> bool:
        """Whether `get` has them."""
        return name in self._kept or (self._disk_limit > 0 and self._path(name).exists())

    def put(self, name: str, features: Any, keep: bool = True) -> None:
        """Keep features if they fit, and are to be kept."""
        self.encoded += 1
        if not keep:
            return
        tensors = _flat(features)
        size = sum(tensor.nbytes for tensor in tensors.values())
        if self._bytes + size <= self._limit:
            self._kept[name] = features
            self._bytes += size
        elif self._on_disk + size <= self._disk_limit:
            path = self._path(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            if not self._on_disk:
                self._disk_limit = min(self._disk_limit, shutil.disk_usage(path.parent).free // 2)
                self._tell(
                    f"train: image features beyond {self._limit >> 20} MB go to {path.parent} (at most "
                    f"{self._disk_limit >> 20} MB, removed at the end)"
                )
            with whole(path) as temporary:
                save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, temporary)
            self._on_disk += size

    def _path(self, name: str) -> Path:
        assert self._folder is not None
        return self._folder / f"{hashlib.sha256(name.encode()).hexdigest()[:32]}.safetensors"


def _flat(value: Any, name: str = "") -> dict[str, Tensor]:
    """The tensors in nested lists and mappings, by their ways there ("deepstack_features.0")."""
    if isinstance(value, Tensor):
        return {name: value}
    items = value.items() if isinstance(value, Mapping) else enumerate(value)
    return {
        way: tensor
        for key, part in items
        for way, tensor in _flat(part, f"{name}.{key}" if name else str(key)).items()
    }


def _unflat(tensors: Mapping[str, Tensor]) -> BaseModelOutputWithPooling:
    """What `_flat` took apart."""
    tree: dict[str, Any] = {}
    for way, tensor in tensors.items():
        *above, last = way.split(".")
        node = tree
        for key in above:
            node = node.setdefault(key, {})
        node[last] = tensor
    return _output({name: _listed(value) for name, value in tree.items()})


def _listed(value: Any) -> Any:
    return [_listed(value[str(i)]) for i in range(len(value))] if isinstance(value, dict) else value


def _output(values: Mapping[str, Any]) -> BaseModelOutputWithPooling:
    made = BaseModelOutputWithPooling()
    for name, value in values.items():
        made[name] = value
    return made


def moved(features: Any, device: Any) -> Any:
    """Features on a device."""

    def move(value: Any) -> Any:
        return value.to(device) if isinstance(value, Tensor) else [move(part) for part in value]

    return _output({name: move(value) for name, value in features.items()})


def image_features(model: Any, tensors: Mapping[str, Tensor], arguments: Sequence[str]) -> Any:
    """What tower and projector make of one image, in the form that the model's forward takes; `arguments` of
    get_image_features.
    """
    weight = next(p for p in model.get_encoder(modality="image").parameters() if p.is_floating_point())
    taken = {name: placed(tensor, weight) for name, tensor in tensors.items() if name in arguments}
    return joined_features([model.get_image_features(**taken, return_dict=True)])


def blanked(features: Any) -> Any:
    """The same features, all zero."""

    def zero(value: Any) -> Any:
        return torch.zeros_like(value) if isinstance(value, Tensor) else [zero(part) for part in value]

    return _output({name: zero(value) for name, value in features.items()})


def encoder_states(model: Any, inputs: Mapping[str, Tensor], blank: bool = False) -> BaseModelOutput:
    """What the encoder makes of one image with its question, by the model's own forward over a single token;
    `blank`: with a picture of zeros.
    """
    if blank:
        inputs = {n: torch.zeros_like(t) if t.is_floating_point() else t for n, t in inputs.items()}
    start = torch.full((1, 1), model.config.get_text_config().decoder_start_token_id, device=model.device)
    found = model.base_model(**inputs, decoder_input_ids=start, use_cache=False)
    return BaseModelOutput(last_hidden_state=found.encoder_last_hidden_state)


def side_by_side(states: Sequence[BaseModelOutput]) -> dict[str, Any]:
    """What the decoder's forward takes: encoder states (rows, longest, width), and which of them count."""
    found = [state.last_hidden_state[0] for state in states]  # type: ignore[index]
    longest = max(map(len, found))
    counts = torch.tensor([[i < len(state) for i in range(longest)] for state in found])
    padded = torch.stack([F.pad(state, (0, 0, 0, longest - len(state))) for state in found])
    return {
        "encoder_outputs": BaseModelOutput(last_hidden_state=padded),
        "attention_mask": counts.long().to(padded.device),
    }
