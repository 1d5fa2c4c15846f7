"""The parts of an image-text-to-text model, by the names of their linear layers."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

# names of the module between tower and language model, in the classes of transformers
PROJECTORS = frozenset(
    {"multi_modal_projector", "connector", "merger", "deepstack_merger_list", "image_to_text_projection"}
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
