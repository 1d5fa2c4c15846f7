"""The parts of an image-text-to-text model, by the names of their linear layers."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from transformers import AutoModelForImageTextToText

# names of the module between tower and language model, in the classes of transformers
PROJECTORS = frozenset(
    {"multi_modal_projector", "connector", "merger", "deepstack_merger_list", "image_to_text_projection"}
)


def skeleton(model_config: Any, trust_remote_code: bool = False) -> Any:
    """An image-text-to-text model without numbers, on the meta device: the names and shapes of its parts."""
    with torch.device("meta"):
        return AutoModelForImageTextToText.from_config(  # type: ignore[no-untyped-call]
            model_config, trust_remote_code=trust_remote_code
        )


def linear_layers(model: Any) -> dict[str, dict[str, nn.Linear]]:
    """The linear layers of each part of a model (language, projector, tower), by name; the head is in none,
    nor is the output layer of torch's own attention, which is never called.
    """
    language = {id(module) for module in model.get_decoder().modules()}
    tower = {id(module) for module in model.get_encoder(modality="image").modules()}
    layers: dict[str, dict[str, nn.Linear]] = {"language": {}, "projector": {}, "tower": {}}
    for name, module in model.named_modules():
        if not isinstance(module, nn.Linear) or isinstance(module, NonDynamicallyQuantizableLinear):
            continue
        if module is model.get_output_embeddings():
            continue
        if id(module) in language:
            layers["language"][name] = module
        elif PROJECTORS & set(name.split(".")):
            layers["projector"][name] = module
        elif id(module) in tower:
            layers["tower"][name] = module
    return layers
