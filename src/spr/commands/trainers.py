"""A run's own training in the words of another trainer: what TRL, LLaMA-Factory and ms-swift are told so that
they train as `spr train` would, and what they cannot be told.

In: a `Training`. Out: a `Start`: the file that is run, the command, and what is not carried over. The names
of settings are those of the versions in `TRIED`, with which `make check-exports` runs every command.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, TypeAlias

import yaml

from spr.errors import ConfigError
from spr.models.chat import BARE
from spr.training.config import TrainConfig
from spr.types import Checkpoint

Format: TypeAlias = Literal["trl", "llamafactory", "ms-swift"]
# format -> its maker's name, its package, the version that was tried
TRIED: Mapping[Format, tuple[str, str, str]] = {
    "trl": ("TRL", "trl", "1.16.0"),
    "llamafactory": ("LLaMA-Factory", "llamafactory", "0.9.5"),
    "ms-swift": ("ms-swift", "ms-swift", "4.6.0"),
}
# model_type -> templates. Several: the model_type alone does not say which one.
LLAMAFACTORY: Mapping[str, tuple[str, ...]] = {
    "qwen2_vl": ("qwen2_vl",),
    "qwen2_5_vl": ("qwen2_vl",),
    "qwen3_vl": ("qwen3_vl_nothink",),
    "qwen3_vl_moe": ("qwen3_vl_nothink",),
    "qwen3_5": ("qwen3_5_nothink",),
    "llava": ("llava", "pixtral"),
    "internvl": ("intern_vl",),
    "paligemma": ("paligemma", "paligemma_chat"),
    "gemma3": ("gemma3",),
    "glm4v": ("glm4v",),
    "glm4v_moe": ("glm4_5v",),
}
# its templates for models whose prompt begins or skips a thought
THINKING: Mapping[str, str] = {"qwen3_vl_nothink": "qwen3_vl", "qwen3_5_nothink": "qwen3_5"}
ALWAYS_THINKING = frozenset({"glm4v", "glm4v_moe"})  # it has no other template for them
MS_SWIFT: Mapping[str, tuple[str, ...]] = {
    "qwen2_vl": ("qwen2_vl",),
    "qwen2_5_vl": ("qwen2_5_vl",),
    "qwen3_vl": ("qwen3_vl",),
    "qwen3_vl_moe": ("qwen3_vl",),
    "qwen3_5": ("qwen3_5",),
    "llava": ("llava1_5_hf", "llava_llama3_hf", "pixtral"),
    "llava_onevision": ("llava_onevision_hf",),
    "internvl": ("internvl_hf",),
    "idefics3": ("idefics3",),
    "paligemma": ("paligemma",),
    "gemma3": ("gemma3_vision",),
    "glm4v": ("glm4v",),
    "glm4v_moe": ("glm4_5v",),
}
TEMPLATES: Mapping[str, Mapping[str, tuple[str, ...]]] = {"llamafactory": LLAMAFACTORY, "ms-swift": MS_SWIFT}
# What ms-swift calls a model, where that is not its model_type.
MODEL_TYPES: Mapping[str, str] = {"llava_onevision": "llava_onevision_hf", "gemma3": "gemma3_vision"}
LOSSES: Mapping[Format, Mapping[str, str]] = {
    "trl": {
        "dpo": "sigmoid",
        "ipo": "ipo",
        "robust": "robust",
        "length_normalized": "sigmoid_norm",
        "sft": "sft",
    },
    "llamafactory": {"dpo": "sigmoid", "ipo": "ipo"},
    "ms-swift": {"dpo": "sigmoid", "ipo": "ipo", "robust": "robust", "sft": "sft"},
}
# What every trainer can be told.
# fmt: off
EVERYWHERE = frozenset({
    "seed", "loss", "beta", "sft_weight", "lora_r", "lora_alpha", "lora_dropout", "lora_variant",
    "lora_parts", "target_modules", "quantize", "learning_rate", "weight_decay", "warmup",
    "max_grad_norm", "epochs", "batch", "save_steps", "log_steps", "trainer",
})
# fmt: on
# What changes memory and speed, and not what is learned: every trainer has its own way.
OWN_WAY = frozenset(
    {"attention", "autocast", "device", "tokens", "share", "feature_cache_mb", "feature_cache_disk_mb"}
)
PARTS = {"language": "the language model", "projector": "the projector", "tower": "the image tower"}
UNKNOWN_CONTEXT = 131072  # tokens, for a model that does not say it


@dataclass(frozen=True, slots=True)
class Training:
    """What is trained, from what on, and how.

    `targets`: a regular expression for the names of the layers that get LoRA. `context`: how many tokens the
    language model was built for. `adapter`: the one to start from. `template`: as the other trainer names it,
    where the user said it. `pixels`: to how many, at least and at most, a Qwen model's processor resizes an
    image. Of the model's own chat template: `gap` is what stands between an image and the question, `system`
    the message that it puts in front ("" for none; None where it takes none), and `thinks` says that the
    prompt begins or skips a thought.
    """

    name: str
    checkpoint: Checkpoint
    model_type: str
    config: TrainConfig
    seed: int
    targets: str
    context: int | None = None
    adapter: str | None = None
    template: str = ""
    pixels: tuple[int, int] | None = None
    gap: str = ""
    system: str | None = None
    thinks: bool = False


@dataclass(frozen=True, slots=True)
class Start:
    """How a training is started elsewhere: `file` is written as `text` and run by `command`, which needs
    `packages` beside the trainer's.

    `said`: what it is told, for people. `missing`: what of the configuration it cannot be told.
    """

    file: str
    text: str
    command: str
    packages: tuple[str, ...]
    said: Mapping[str, str]
    missing: tuple[str, ...]


def check_start(kind: Format, training: Training) -> None:
    """Raise ConfigError for a loss that the other trainer does not have, for a model without a chat template
    where it needs one, and where only the user can say the template.
    """
    if kind == "trl" and training.model_type in BARE:
        raise ConfigError(
            f"--format trl: found a {training.model_type!r} model, which has no chat template, without which "
            "TRL cannot build a prompt; expected another --format"
        )
    loss, losses, maker = training.config.loss, LOSSES[kind], TRIED[kind][0]
    if loss not in losses:
        raise ConfigError(
            f"train.loss: found {loss}, which {maker} does not have, expected one of {', '.join(losses)}, or "
            "another --format"
        )
    template_for(kind, training)


def template_for(kind: Format, training: Training) -> str:
    """The other trainer's template for a model; empty for TRL, which asks the checkpoint. Raises ConfigError
    where only the user can say it.
    """
    if training.template or kind == "trl":
        return training.template
    maker, _, version = TRIED[kind]
    known = TEMPLATES[kind].get(training.model_type, ())
    if len(known) == 1:
        return THINKING.get(known[0], known[0]) if training.thinks else known[0]
    found = f"--template: found none, and the model_type {training.model_type!r} does not say"
    if known:
        raise ConfigError(f"{found} which one of {maker}'s it is, expected one of {', '.join(known)}")
    raise ConfigError(
        f"{found} what {maker} {version} calls it, expected the name of a template that you have there, or "
        "another --format"
    )


def start(kind: Format, training: Training, pairs: int, largest: int) -> Start:
    """How so many `pairs` are trained on by another trainer. `largest`: pixels of the largest image."""
    config, checkpoint, template = training.config, training.checkpoint, template_for(kind, training)
    steps = math.ceil(pairs / config.batch) * config.epochs
    common = {
        "num_train_epochs": config.epochs,
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": config.batch,
        "learning_rate": config.learning_rate,
        "lr_scheduler_type": "cosine",
        "warmup_steps": math.ceil(config.warmup * steps),
        "weight_decay": config.weight_decay,
        "max_grad_norm": config.max_grad_norm,
        "seed": training.seed,
        "bf16": config.autocast or config.dtype == "bfloat16",
        "logging_steps": config.log_steps,
        "save_steps": config.save_steps,
        "report_to": "none",
        "output_dir": "adapter",
        **config.trainer,
    }
    if kind == "trl":
        file, command = "train.py", "python train.py"
        text = _trl(training, common)
    elif kind == "llamafactory":
        file, command = "train.yaml", "llamafactory-cli train train.yaml"
        text = _llamafactory(training, common, template, largest)
    else:
        file, command = "train.yaml", "swift rlhf train.yaml"
        text = _ms_swift(training, common, template)
    said = {
        "model": checkpoint.folder,
        "revision": checkpoint.revision,
        "template": template,
        "starts from": training.adapter,
        "loss": f"{config.loss}, beta {config.beta:g}",
        "LoRA": f"{config.lora_variant}, rank {config.lora_r}, alpha {config.lora_alpha}, on "
        + (", ".join(config.target_modules) or "all linear layers")
        + f" of {' and '.join(PARTS[part] for part in config.lora_parts)}",
        "learning rate": f"{config.learning_rate:g}",
        "epochs": str(config.epochs),
        "pairs per step": f"{config.batch}, with one device; with n devices divide "
        "gradient_accumulation_steps by n",
    }
    told = {name: value for name, value in said.items() if value}
    return Start(file, text, command, _packages(kind, training), told, _missing(kind, training))


def _packages(kind: Format, training: Training) -> tuple[str, ...]:
    """What a model needs there beside the trainer's own requirements."""
    needed = {"trl": ["peft", "torchvision"], "llamafactory": [], "ms-swift": []}[kind]
    if kind == "ms-swift" and training.model_type.startswith("qwen"):
        needed = ["torchvision", "qwen-vl-utils"]
    elif training.model_type == "smolvlm":
        needed.append("num2words")
    return (*needed, *(["bitsandbytes"] if training.config.quantize == "4bit" else []))


def _missing(kind: Format, training: Training) -> tuple[str, ...]:
    """What differs from the defaults and is not carried over, as `train.name: value`."""
    config, plain, checkpoint = training.config, TrainConfig(), training.checkpoint
    carried = EVERYWHERE | OWN_WAY | {"label_smoothing"}  # of a loss that is refused where it is unknown
    if kind == "trl" or config.dtype != "float64":
        carried |= {"dtype"}
    if kind == "ms-swift":
        carried |= {"max_length"}
    missing: dict[str, Any] = {
        f"train.{f.name}": getattr(config, f.name)
        for f in fields(config)
        if f.name not in carried and getattr(config, f.name) != getattr(plain, f.name)
    }
    if kind != "trl" and not _thinking(checkpoint):
        missing["model.chat_template_kwargs"] = dict(checkpoint.chat_template_kwargs)
    if not _takes_processor(kind, training):
        missing["model.processor"] = dict(checkpoint.processor)
    if kind == "llamafactory" and training.model_type in ALWAYS_THINKING:
        missing["model.folder"] = "its template puts an empty thought before every answer without one"
    return tuple(f"{name}: {value}" for name, value in missing.items() if value != {})


def _takes_processor(kind: Format, training: Training) -> bool:
    """Whether the trainer can be told the configuration's changes of the image processor."""
    changes = set(training.checkpoint.processor)
    if kind == "ms-swift":
        return training.pixels is not None and changes <= {"size", "min_pixels", "max_pixels"}
    return kind == "trl" and "image_processor_type" not in changes


TRL = """# Preference training with TRL {version}. Run it in this folder: python train.py
{imports}
MODEL = {model!r}
load = {load}
settings = DPOConfig(
{settings})
data = load_dataset("parquet", data_files="train.parquet", split="train")
{data}processor = AutoProcessor.from_pretrained(MODEL{source})
{processor}{policy}
trainer = DPOTrainer(model, args=settings, train_dataset=data, processing_class=processor, peft_config=lora)
trainer.train()
trainer.save_model()
"""
TRL_FRESH = """settings.model_init_kwargs = load
model = MODEL
lora = LoraConfig(
{lora})"""
TRL_FROM = """base = AutoModelForImageTextToText.from_pretrained(MODEL, **load)
model = PeftModel.from_pretrained(base, {adapter!r}, is_trainable=True)
lora = None"""
TRL_DATA = 'data = data.map(lambda row: {{"chat_template_kwargs": {variables!r}}})\n'
TRL_PROCESSOR = """images = processor.image_processor
processor.image_processor = type(images).from_dict({{**images.to_dict(), **{changes!r}}})
"""
TRL_FOUR = """BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype={dtype!r},
    )"""


def _trl(training: Training, common: Mapping[str, Any]) -> str:
    """A script: TRL's own command line takes neither settings of a processor nor a pattern of layers."""
    config, checkpoint = training.config, training.checkpoint
    source = {
        **({"revision": checkpoint.revision} if checkpoint.revision else {}),
        **({"trust_remote_code": True} if checkpoint.trust_remote_code else {}),
    }
    load = "dict(\n" + _lines({"dtype": config.dtype, "attn_implementation": config.attention, **source})
    if config.quantize == "4bit":
        load += f"    quantization_config={TRL_FOUR.format(dtype=config.dtype)},\n"
    settings = {
        **common,
        "max_length": None,  # the default of 1,024 tokens would cut images and answers
        "loss_type": [LOSSES["trl"][config.loss], *(["sft"] if config.sft_weight else [])],
        **({"loss_weights": [1.0, config.sft_weight]} if config.sft_weight else {}),
        "beta": config.beta,
        "label_smoothing": config.label_smoothing,
    }
    classes = ["AutoProcessor"]
    if training.adapter:
        classes.insert(0, "AutoModelForImageTextToText")
        policy = TRL_FROM.format(adapter=training.adapter)
    else:
        policy = TRL_FRESH.format(lora=_lines({**_lora(config), "target_modules": training.targets}))
    if config.quantize == "4bit":
        classes.append("BitsAndBytesConfig")
    imports = [
        "from datasets import load_dataset",
        f"from peft import {'PeftModel' if training.adapter else 'LoraConfig'}",
        f"from transformers import {', '.join(classes)}",
        "from trl import DPOConfig, DPOTrainer",
    ]
    variables, changes = dict(checkpoint.chat_template_kwargs), dict(checkpoint.processor)
    told = changes and _takes_processor("trl", training)
    return TRL.format(
        version=TRIED["trl"][2],
        imports="\n".join(imports) + "\n",
        model=checkpoint.folder,
        load=load + ")",
        settings=_lines(settings),
        data=TRL_DATA.format(variables=variables) if variables else "",
        source="".join(f", {name}={value!r}" for name, value in source.items()),
        processor=TRL_PROCESSOR.format(changes=changes) if told else "",
        policy=policy,
    )


def _lines(values: Mapping[str, Any]) -> str:
    return "".join(f"    {name}={value!r},\n" for name, value in values.items())


def _lora(config: TrainConfig) -> dict[str, Any]:
    """PEFT's names, where all agree."""
    return {
        "r": config.lora_r,
        "lora_alpha": config.lora_alpha,
        "lora_dropout": config.lora_dropout,
        "use_rslora": config.lora_variant == "rslora",
        "use_dora": config.lora_variant == "dora",
    }


def _llamafactory(training: Training, common: Mapping[str, Any], template: str, largest: int) -> str:
    config, checkpoint = training.config, training.checkpoint
    settings = {
        "stage": "dpo",
        "do_train": True,
        "model_name_or_path": checkpoint.folder,
        **({"model_revision": checkpoint.revision} if checkpoint.revision else {}),
        "trust_remote_code": checkpoint.trust_remote_code,
        "template": template,
        # else its templates put one of their own
        **({} if training.system is None else {"default_system": training.system}),
        **_thinking(checkpoint),
        "dataset_dir": ".",
        "media_dir": ".",
        "dataset": "spr_pairs",
        # its default of 589,824 would shrink larger images before the model's own resize
        "image_max_pixels": largest,
        "image_min_pixels": 1,
        # its default of 2,048 would cut prompts and answers
        "cutoff_len": training.context or UNKNOWN_CONTEXT,
        "pref_loss": LOSSES["llamafactory"][config.loss],
        "pref_beta": config.beta,
        "pref_ftx": config.sft_weight,
        "finetuning_type": "lora",
        **_renamed(_lora(config)),
        "lora_target": ",".join(config.target_modules) or "all",
        "freeze_language_model": "language" not in config.lora_parts,
        "freeze_multi_modal_projector": "projector" not in config.lora_parts,
        "freeze_vision_tower": "tower" not in config.lora_parts,
        **({"quantization_bit": 4, "quantization_method": "bnb"} if config.quantize == "4bit" else {}),
        **common,
    }
    if "gradient_checkpointing" in settings:
        settings["disable_gradient_checkpointing"] = not settings.pop("gradient_checkpointing")
    if training.adapter:
        settings |= {
            "adapter_name_or_path": training.adapter,
            "ref_model": checkpoint.folder,
            "ref_model_adapters": training.adapter,
        }
    return _yaml(settings)


def _ms_swift(training: Training, common: Mapping[str, Any], template: str) -> str:
    config, checkpoint, kind = training.config, training.checkpoint, training.model_type
    if kind == "llava":
        kind = template
    settings = {
        "rlhf_type": "dpo",
        "model": checkpoint.folder,
        **({"model_revision": checkpoint.revision} if checkpoint.revision else {}),
        "use_hf": True,  # its own hub is another one
        **({"model_type": MODEL_TYPES.get(kind, kind)} if training.model_type in MS_SWIFT else {}),
        "template": template,
        **({} if training.system is None else {"system": training.system}),
        **_thinking(checkpoint),
        "torch_dtype": "float32" if config.dtype == "float64" else config.dtype,
        "dataset": "pairs.jsonl",
        "max_length": config.max_length or training.context or UNKNOWN_CONTEXT,
        "truncation_strategy": "delete",
        "loss_type": LOSSES["ms-swift"][config.loss],
        "beta": config.beta,
        "label_smoothing": config.label_smoothing,
        **({"rpo_alpha": config.sft_weight} if config.sft_weight else {}),
        "tuner_type": "lora",
        **_renamed(_lora(config)),
        "target_regex": training.targets,
        **({"quant_method": "bnb", "quant_bits": 4} if config.quantize == "4bit" else {}),
        **common,
    }
    if training.adapter:
        settings |= {"adapters": training.adapter, "ref_adapters": training.adapter}
    if training.pixels is not None:  # it does not ask the checkpoint
        settings["ENV"] = dict(zip(("MIN_PIXELS", "MAX_PIXELS"), training.pixels, strict=True))
    return _yaml(settings)


def _renamed(lora: Mapping[str, Any]) -> dict[str, Any]:
    """PEFT's `r` is `lora_rank` in both."""
    return {"lora_rank" if name == "r" else name: value for name, value in lora.items()}


def _thinking(checkpoint: Checkpoint) -> dict[str, Any]:
    """`enable_thinking`, where it is the only variable of the chat template."""
    said = checkpoint.chat_template_kwargs
    return dict(said) if set(said) == {"enable_thinking"} else {}


def _yaml(settings: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(settings), sort_keys=False, allow_unicode=True, width=10**6)
