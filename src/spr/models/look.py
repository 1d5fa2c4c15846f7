"""What a processor does to an image, without the model's weights: the size the model sees, the tokens it
costs, what is cut off.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from PIL import Image

from spr.models.chat import prompt_text
from spr.models.inputs import ask_processor

if TYPE_CHECKING:
    from spr.dialects import Dialect


def image_token_ids(processor: Any, config: Any) -> frozenset[int]:
    """The ids that stand for the image in a prompt."""
    token = getattr(processor, "image_token", None)
    named = processor.tokenizer.convert_tokens_to_ids(token) if isinstance(token, str) else None
    more = [getattr(config, name, None) for name in ("image_token_id", "image_token_index")]
    return frozenset(t for t in (named, *more) if isinstance(t, int))


def prompt_tokens(
    processor: Any, config: Any, question: str, images: tuple[Image.Image, ...]
) -> tuple[str, int, int]:
    """(the prompt after the chat template, its tokens, how many of them are image tokens)."""
    text = prompt_text(processor, config.model_type, question, len(images))
    ids = ask_processor(processor, config.model_type, text, images)["input_ids"][0].tolist()
    # its image tokens borrow ordinary ids
    kosmos = processor.num_image_tokens if config.model_type == "kosmos-2" else 0
    return text, len(ids), kosmos or sum(t in image_token_ids(processor, config) for t in ids)


def seen_size(processor: Any, image: Image.Image) -> tuple[int, int] | None:
    """(width, height) to which the image is resized; None when it is cut into tiles."""
    out = processor.image_processor(images=[image], return_tensors="pt")
    if "image_grid_thw" in out:
        _, rows, columns = (int(n) for n in out["image_grid_thw"][0])
        patch = int(processor.image_processor.patch_size)
        return columns * patch, rows * patch
    pixels = out["pixel_values"]
    return (int(pixels.shape[-1]), int(pixels.shape[-2])) if pixels.ndim == 4 and len(pixels) == 1 else None


def cropping(processor: Any, dialect: Dialect) -> str | None:
    """What is wrong, and the fix, where the image processor hides the sides of a picture: every dialect
    speaks of the whole one.
    """
    if all(
        _sees_the_edge(processor.image_processor, size, mark)
        for size, mark in (((200, 100), (10, 100)), ((100, 200), (100, 10)))
    ):
        return None
    crop = processor.image_processor.crop_size
    whole = f"{{do_center_crop: false, size: {{height: {crop['height']}, width: {crop['width']}}}}}"
    padded = "{image_processor_type: LlavaImageProcessor, do_pad: true}"
    return (
        "the image processor cuts off the sides of a picture that is not square, but boxes of "
        f"{dialect.name} span all of it "
        f"({dialect.codec.frame}); set model.processor: "
        f"{padded if dialect.codec.frame.startswith('padded') else whole}"
    )


def _sees_the_edge(images: Any, size: tuple[int, int], mark: tuple[int, int]) -> bool:
    """Whether a white mark in the first corner of a black picture changes what the processor makes of it.
    Settings alone do not say so.
    """
    plain, marked = Image.new("RGB", size), Image.new("RGB", size)
    marked.paste((255, 255, 255), (0, 0, *mark))
    a, b = (images(images=[image], return_tensors="pt")["pixel_values"] for image in (plain, marked))
    return not torch.equal(a, b)


def share_cut_off(processor: Any, image: Image.Image) -> float:
    """Share of the image that the centre crop of a `cropping` processor hides."""
    settings = processor.image_processor
    size = getattr(settings, "size", None) or {}
    short = size.get("shortest_edge")
    if not getattr(settings, "do_center_crop", False) or not short:
        return 0.0
    crop = settings.crop_size
    scale = short / min(image.size)
    return float(
        1.0
        - min(1.0, crop["width"] / (image.width * scale)) * min(1.0, crop["height"] / (image.height * scale))
    )
