"""Which layout a model family takes. The contract tests check every packed entry: packed = plain, with
images.

In: a model of transformers. Out: a `Family`. A family that is not in the table, or whose attention takes no
mask of our own, gets plain rows: correct, nothing shared, and reported as `fallback` with the reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

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
