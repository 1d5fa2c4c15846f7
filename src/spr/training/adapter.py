"""The LoRA adapter: where it goes, and the folder that it becomes.

In: a model. Out: a PEFT model whose LoRA sits on the linear layers of the language model, and of the other
parts that the configuration names; later
`adapter_model.safetensors`, `adapter_config.json` and a model card, which `PeftModel.from_pretrained` reads.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from spr.errors import ConfigError, unknown_name
from spr.models.parts import linear_layers
from spr.store.identity import versions
from spr.training.config import LoraPart, TrainConfig


def target_pattern(model: Any, parts: Sequence[LoraPart] = ("language",), names: Sequence[str] = ()) -> str:
    """A regular expression for the names of linear layers: all of the given parts of a model, never its head,
    or those whose last part is one of `names`. Raises ConfigError for a name that no layer has, and for a
    part without linear layers.
    """
    layers = linear_layers(model)
    for part in parts:
        if not layers[part]:
            have = ", ".join(p for p, names in layers.items() if names) or "another model"
            raise ConfigError(
                f"train.lora_parts: found {part}, in which {type(model).__name__} has no linear layers; "
                f"expected {have}"
            )
    known = {_last(name) for part in parts for name in layers[part]}
    for name in names:
        if name not in known:
            raise ConfigError("train.target_modules: " + unknown_name("layer", name, sorted(known)))
    wanted = set(names) or known
    found = []
    if language := sorted({_last(n) for n in layers["language"]} & wanted if "language" in parts else ()):
        decoder = next(name for name, module in model.named_modules() if module is model.get_decoder())
        found.append(rf"{re.escape(decoder)}\..*\.({'|'.join(language)})")
    others = [n for part in parts if part != "language" for n in layers[part] if _last(n) in wanted]
    found += dict.fromkeys(re.sub(r"\.\d+(?=\\)", r".\\d+", re.escape(name)) for name in others)
    return "|".join(found)


def _last(name: str) -> str:
    return name.rsplit(".", 1)[-1]


def _without_dropout(model: Any) -> None:
    """Switch off all dropout, as TRL does by default. The share is a dropout module's `p`, or any attribute
    with "drop" in its name.
    """
    for module in model.modules():
        for attribute, value in list(vars(module).items()):
            if isinstance(value, float) and (
                "drop" in attribute or (attribute == "p" and isinstance(module, nn.Dropout))
            ):
                setattr(module, attribute, 0.0)


def attach(model: Any, config: TrainConfig, adapter: str | None = None) -> Any:
    """The model with a fresh LoRA (seeded by torch's global generator), or with the trainable adapter of a
    folder.

    Everything else is frozen, and without dropout: the base must be able to answer as it did for the
    reference.
    """
    from peft import LoraConfig, PeftModel, get_peft_model

    _without_dropout(model)
    if adapter is not None:
        return PeftModel.from_pretrained(model, adapter, is_trainable=True)
    lora = LoraConfig(
        r=config.lora_r,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules=target_pattern(model, config.lora_parts, config.target_modules),
        use_rslora=config.lora_variant == "rslora",
        use_dora=config.lora_variant == "dora",
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, lora)


CARD = """---
base_model: {base}
library_name: peft
tags: [lora, spatial-preference-rewarding]
---
# LoRA adapter trained by Spatial Preference Rewarding

Trained on {pairs} preference pairs over region descriptions (chosen: best refined answer; \
rejected: worst answer), {steps} steps, loss `{loss}`.
Reference of the loss: {reference}. Layout of the rows: {layout}. Dropped pairs: {dropped}.

```python
from peft import PeftModel
model = PeftModel.from_pretrained(base_model, "path/to/this/folder")
```

## Last figures
{figures}

## Pairs of images that were not trained on
{held_out}

## Warnings
{warnings}

## Configuration
```json
{config}
```

## Versions
{versions}
"""


def _list(values: Mapping[str, object]) -> str:
    return "\n".join(f"- {k}: {v}" for k, v in values.items()) or "- none"


def write_card(out: Path, base: str, config: TrainConfig, result: Mapping[str, Any]) -> None:
    """README.md of the adapter's folder: data, configuration, figures, versions."""
    text = CARD.format(
        base=base,
        pairs=result["pairs"],
        steps=result["steps"],
        loss=config.loss,
        reference=result["reference"],
        layout=result["layout"],
        dropped=", ".join(f"{k} {v}" for k, v in result["dropped"].items()) or "none",
        figures=_list(result["figures"]),
        held_out=_list(result["held_out"]),
        warnings="\n".join(f"- {text}" for text in result["warnings"]) or "- none",
        config=json.dumps(dataclasses.asdict(config), indent=2, default=str),
        versions=_list(versions()),
    )
    (out / "README.md").write_text(text, encoding="utf-8")
