"""Which layout a model family takes. The contract tests check every packed entry: packed = plain, with
images.

In: a model of transformers. Out: a `Family`. A family that is not in the table, or whose attention takes no
mask of our own, gets plain rows: correct, nothing shared, and reported as `fallback` with the reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812
from transformers.modeling_outputs import BaseModelOutput, BaseModelOutputWithPooling

from spr.models.inputs import joined_features, placed
from spr.training.config import Share
from spr.training.packing import Layout

FLEX = "flex_attention"
MASKED = ("sdpa", "eager", FLEX)  # implementations of attention that take a mask of our own
_CAUSAL = "the language model is causal: a mask and positions of our own are taken as they are"
# model_type -> layout, and why. None = plain rows.
TABLE: Mapping[str, tuple[Layout | None, str]] = {
    "llava": ("causal", _CAUSAL),
    "llava_next": (None, "its image tokens depend on the image's size in ways that are not tested here"),
    "llava_onevision": ("causal", _CAUSAL),
    "qwen2_vl": ("causal", _CAUSAL + "; three position axes"),
    "qwen2_5_vl": ("causal", _CAUSAL + "; three position axes"),
    "qwen3_vl": ("causal", _CAUSAL + "; three position axes, deepstack features"),
    "internvl": ("causal", _CAUSAL),
    "idefics3": ("causal", _CAUSAL),
    "smolvlm": ("causal", _CAUSAL),
    "glm4v": ("causal", _CAUSAL + "; three position axes"),
    "gemma3": (
        "image_block",
        "image tokens see each other, some layers see a window of positions: one mask per kind of layer",
    ),
    "paligemma": ("prefix", "image and prompt see each other, so prompts cannot be shared; answers can"),
    "kosmos-2": (None, "its attention takes no mask of four dimensions"),
    "florence2": (
        None,
        "encoder-decoder: image and prompt are read once, by the encoder; the decoder's rows are the answers",
    ),
}


@dataclass(frozen=True, slots=True)
class Family:
    """How rows of one model are built. `layout` None = plain rows; `why` says why, for people.

    `window`: how many positions the layers of kind "sliding_attention" see; None when all layers see
    everything.
    """

    model_type: str
    layout: Layout | None
    why: str
    window: int | None = None

    @property
    def name(self) -> str:
        """What reports say."""
        return self.layout or "fallback"


def family_of(model: Any, share: Share = "tree") -> Family:
    """The family of a model. Facts of its configuration that the layout cannot carry turn it into a
    fallback, as does the wish to share nothing.
    """
    kind = str(model.config.model_type)
    layout, why = TABLE.get(kind, (None, f"model_type {kind!r} is not in the table"))
    family = Family(kind, layout, why)
    if share == "none":
        return replace(family, layout=None, why="train.share is none")
    text = model.config.get_text_config()
    if layout is not None and text._attn_implementation not in MASKED:
        return replace(
            family,
            layout=None,
            why=f"attention {text._attn_implementation!r} takes no mask of ours, only {', '.join(MASKED)} do",
        )
    if layout is not None and getattr(text, "final_logit_softcapping", None) is not None:
        return replace(
            family,
            layout=None,
            why="the logits are capped after the head, where only the answers' log-probabilities are left",
        )
    if layout is not None and "sliding_attention" in (getattr(text, "layer_types", None) or ()):
        if kind != "gemma3":
            return replace(
                family,
                layout=None,
                why="some layers see a window, and the model takes one mask for all of them",
            )
        return replace(family, window=int(text.sliding_window))
    return family


# --- image features -------------------------------------------------------------------------------


class FeatureStore:
    """Image features by path, kept in memory up to a size; tower and projector are frozen, so they never
    change.
    """

    def __init__(self, limit_mb: int) -> None:
        self._limit = limit_mb * 2**20
        self._kept: dict[str, Any] = {}
        self._bytes = 0
        self.encoded = 0  # how often the tower ran

    def get(self, image: str) -> Any | None:
        """The features of an image, or None."""
        return self._kept.get(image)

    def put(self, image: str, features: Any) -> None:
        """Keep features if they fit."""
        self.encoded += 1
        size = sum(t.nbytes for part in features.values() for t in _tensors(part))
        if self._bytes + size <= self._limit:
            self._kept[image] = features
            self._bytes += size


def _tensors(value: Any) -> list[Tensor]:
    return [value] if isinstance(value, Tensor) else [t for part in value for t in _tensors(part)]


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

    made = BaseModelOutputWithPooling(pooler_output=zero(features.pooler_output))
    if features.get("deepstack_features") is not None:
        made["deepstack_features"] = zero(features["deepstack_features"])
    return made


# --- the encoder of an encoder-decoder ------------------------------------------------------------


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
