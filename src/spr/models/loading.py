"""Checkpoints -> model and processor, always explicitly: dtype, device, attention; every weight present; no
video part.

In: a folder (or a hub name that is in the local cache). Out: what `transformers` builds from it, in
evaluation mode, on its device. Without torchvision the processors of many families cannot be built, because
each has a part for video; here the same class is built without that part, and still saves and loads
(`save_checkpoint`). Nothing here uses video.
"""

from __future__ import annotations

import contextlib
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import torch
import transformers
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, PreTrainedModel
from transformers.models.auto.auto_mappings import PROCESSOR_MAPPING_NAMES
from transformers.utils.import_utils import is_torchvision_available

from spr.errors import ConfigError, unknown_name
from spr.models.devices import AUTO, SPREAD, device_named, make_current
from spr.models.quantized import four_bit, stay_trainable
from spr.types import Checkpoint

log = logging.getLogger(__name__)
hf_logging: Any = transformers.utils.logging  # some of its functions have no types
auto_processor: Any = AutoProcessor
DTYPES: Mapping[str, torch.dtype] = {
    "float32": torch.float32,
    "tf32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
}


def dtype_named(name: str) -> torch.dtype:
    """The torch dtype of that name. Raises ConfigError listing the known ones."""
    if name not in DTYPES:
        raise ConfigError("model.dtype: " + unknown_name("dtype", name, DTYPES))
    return DTYPES[name]


@contextlib.contextmanager
def precision(dtype: str) -> Iterator[None]:
    """Within: products of float32 are in TF32 where `dtype` says so and the device can, else exact."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if dtype == "tf32" else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def read_config(checkpoint: Checkpoint) -> Any:
    """The checkpoint's configuration. Raises ConfigError, one line, for a folder that holds none."""
    try:
        return AutoConfig.from_pretrained(checkpoint.folder, **_source(checkpoint))
    except (OSError, ValueError) as e:
        raise _unreadable(checkpoint.folder, e) from None


def _source(checkpoint: Checkpoint) -> dict[str, Any]:
    """What every `from_pretrained` is told beside the folder."""
    return {**_revision(checkpoint), "trust_remote_code": checkpoint.trust_remote_code}


def _revision(checkpoint: Checkpoint) -> dict[str, str]:
    return {"revision": checkpoint.revision} if checkpoint.revision else {}


def _unreadable(folder: str, error: Exception) -> ConfigError:
    if "trust_remote_code" in str(error):
        return ConfigError(
            f"{folder}: this checkpoint brings its own code; read it, then set trust_remote_code: true"
        )
    first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    kind = "folder" if Path(folder).is_dir() else "name"
    return ConfigError(f"{folder}: found a {kind} that transformers cannot load as a checkpoint ({first})")


def load_model(auto: Any, checkpoint: Checkpoint, device: str, quantization: Any = None) -> PreTrainedModel:
    """A model through one of transformers' auto classes, on a device of `spr.models.devices`; with a
    quantisation of transformers, its weights are made small on the way there. Raises ConfigError when it
    cannot be loaded or when weights are missing.
    """
    folder, dtype = checkpoint.folder, dtype_named(checkpoint.dtype)
    device = device_named(device)
    more: dict[str, Any] = {"device_map": "auto"} if device == SPREAD else {}
    if quantization is not None:
        more = {"quantization_config": quantization, "device_map": {"": device}}
    shown = hf_logging.is_progress_bar_enabled()
    hf_logging.disable_progress_bar()

    def load(attention: str | None) -> Any:
        return auto.from_pretrained(
            folder,
            dtype=dtype,
            attn_implementation=attention,
            output_loading_info=True,
            **_source(checkpoint),
            **more,
        )

    try:
        try:
            model, info = load(checkpoint.attention)
        except ValueError as e:
            if checkpoint.attention != "sdpa" or "scaled_dot_product_attention" not in str(e):
                raise
            log.warning("%s: its class has no sdpa attention: running with eager", folder)
            model, info = load("eager")
    except (OSError, ValueError, ImportError) as e:
        raise _unreadable(folder, e) from None
    finally:
        if shown:
            hf_logging.enable_progress_bar()
    if missing := sorted(info["missing_keys"]):
        raise ConfigError(
            f"{folder}: {len(missing)} weights are missing, the first is {missing[0]!r}; expected a "
            "complete checkpoint"
        )
    if device != SPREAD:
        make_current(device)
        if quantization is None:
            model.to(device)
    loaded: PreTrainedModel = model.eval()
    return loaded


def _processor_class(folder: str, config: Any) -> Any:
    """The class that the folder names, or the one of its model_type; None when it must be left to
    AutoProcessor.
    """
    for file in ("processor_config.json", "preprocessor_config.json", "tokenizer_config.json"):
        path = Path(folder) / file
        if path.is_file():
            name = json.loads(path.read_text(encoding="utf-8")).get("processor_class")
            if name and hasattr(transformers, name):
                return getattr(transformers, name)
    name = PROCESSOR_MAPPING_NAMES.get(config.model_type)
    return getattr(transformers, name, None) if name else None


def without_video(cls: Any) -> Any:
    """The processor class `cls` without its video part: a subclass of the same name, which also saves without
    it.
    """

    class WithoutVideo(cls):  # type: ignore[misc]
        # asked for by templates of processors with video
        video_processor = SimpleNamespace(num_frames=None, fps=None)

        @classmethod
        def get_attributes(cls) -> list[str]:
            return [a for a in super().get_attributes() if a != "video_processor"]

        @classmethod
        def from_args_and_dict(cls, args: Any, processor_dict: dict[str, Any], **kwargs: Any) -> Any:
            return super().from_args_and_dict(args, {**processor_dict, "video_processor": None}, **kwargs)

    WithoutVideo.__name__ = WithoutVideo.__qualname__ = cls.__name__
    return WithoutVideo


def load_processor(model: str | Checkpoint) -> Any:
    """The checkpoint's processor: image part and tokenizer; the video part only where torchvision is
    installed.

    Of its `processor` settings, `image_processor_type` replaces the class of the image processor, too. Raises
    ConfigError for an unknown one.
    """
    checkpoint = Checkpoint.of(model)
    processor, changes = _load_processor(checkpoint), checkpoint.processor
    if changes:
        settings = {**processor.image_processor.to_dict(), **changes}
        images = (
            _image_processor_class(changes["image_processor_type"])
            if "image_processor_type" in changes
            else type(processor.image_processor)
        )
        known = {
            *images.valid_kwargs.__annotations__,
            *settings.keys() - changes.keys(),
            "image_processor_type",
        }
        for name in changes:
            if name not in known:
                raise ConfigError("model.processor: " + unknown_name("setting", name, sorted(known)))
        processor.image_processor = images.from_dict(settings)
    return processor


def _image_processor_class(name: str) -> Any:
    """The image processor of that name, in the form that runs here. Raises ConfigError for an unknown one."""
    plain = name.removesuffix("Fast").removesuffix("Pil")
    found = getattr(transformers, plain if is_torchvision_available() else f"{plain}Pil", None)
    if found is None:
        raise ConfigError(
            f"model.processor.image_processor_type: found {name!r}, expected an image processor of "
            "transformers"
        )
    return found


def _load_processor(checkpoint: Checkpoint) -> Any:
    config, folder = read_config(checkpoint), checkpoint.folder
    cls = (
        None
        if checkpoint.trust_remote_code and getattr(config, "auto_map", None)
        else _processor_class(folder, config)
    )
    try:
        if cls is not None and "video_processor" in cls.get_attributes() and not is_torchvision_available():
            return without_video(cls).from_pretrained(folder, **_revision(checkpoint))
        return auto_processor.from_pretrained(folder, **_source(checkpoint))
    except (OSError, ValueError, ImportError) as e:
        raise _unreadable(folder, e) from None


def load_mllm(
    model: str | Checkpoint,
    device: str = AUTO,
    check: Callable[[Any], None] | None = None,
    quantize: Literal["none", "4bit"] = "none",
) -> tuple[PreTrainedModel, Any]:
    """An image-text-to-text model in evaluation mode, and its processor. Raises ConfigError, one line each.

    `check` sees the processor before the weights are read, which takes long. `quantize`: see
    `spr.models.quantized`.
    """
    checkpoint = Checkpoint.of(model)
    processor = load_processor(checkpoint)
    if check is not None:
        check(processor)
    if quantize == "none":
        return load_model(AutoModelForImageTextToText, checkpoint, device), processor
    dtype = dtype_named(checkpoint.dtype)
    quantization = four_bit(read_config(checkpoint), dtype, checkpoint.trust_remote_code)
    loaded = load_model(AutoModelForImageTextToText, checkpoint, device, quantization)
    stay_trainable(loaded)
    return loaded, processor


@contextlib.contextmanager
def quiet_peft() -> Iterator[None]:
    """PEFT asks transformers for `is_gradient_checkpointing` by its old name, which only PEFT can change; and
    loads bitsandbytes where it is installed, which then advertises kernels for CPUs.
    """
    advertises = logging.getLogger("bitsandbytes")
    before = advertises.level
    advertises.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="`is_gradient_checkpointing`", category=FutureWarning)
            yield
    finally:
        advertises.setLevel(before)


def with_adapter(model: PreTrainedModel, adapter: str) -> PreTrainedModel:
    """The model with a PEFT adapter on top: merged in float32 and float64, kept beside the weights in coarser
    types (merging would round).
    """
    from peft import PeftModel

    try:
        with quiet_peft():
            peft: Any = PeftModel.from_pretrained(model, adapter)
    except (OSError, ValueError) as e:
        raise ConfigError(f"{adapter}: found no PEFT adapter ({str(e).splitlines()[0]})") from None
    if model.dtype in (torch.float32, torch.float64):
        merged: PreTrainedModel = peft.merge_and_unload().eval()
        return merged
    beside: PreTrainedModel = peft.get_base_model().eval()
    return beside


def save_checkpoint(model: PreTrainedModel, processor: Any, folder: str | Path) -> None:
    """Model and processor in one folder, such that `load_mllm` and transformers' own loaders read them."""
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def context_length(model: PreTrainedModel) -> int | None:
    """Positions that the language model was built for; None when it does not say."""
    found = getattr(model.config.get_text_config(decoder=True), "max_position_embeddings", None)
    return int(found) if found else None
