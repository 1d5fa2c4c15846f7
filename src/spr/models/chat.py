"""What a model is told: the question inside its chat template, or in the bare form of a family without one;
and what it says.

In: a processor, the model_type, a question, how many images go along (the image first, then the crop). Out:
the text that goes to the processor. Back: tokens, and the text of an answer.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from spr.errors import ConfigError

# Families that are asked by a bare text. Kosmos-2's and Florence-2's processors put the image in front by
# themselves.
BARE: Mapping[str, Callable[[str, int], str]] = {
    "kosmos-2": lambda q, images: q if q.startswith("<grounding>") else "<grounding> " + q,  # model card
    "paligemma": lambda q, images: "<image>" * images + q,  # "detect cat": task words of the model card
    "florence2": lambda q, images: q,  # "<OD>": task tokens of the model card
}


def has_chat_template(processor: Any) -> bool:
    """Whether the checkpoint says how a conversation is written."""
    return bool(
        getattr(processor, "chat_template", None) or getattr(processor.tokenizer, "chat_template", None)
    )


def prompt_text(
    processor: Any,
    model_type: str,
    question: str,
    images: int = 1,
    variables: Mapping[str, Any] | None = None,
) -> str:
    """The text up to the place where the answer begins. `variables` of the chat template: enable_thinking.

    Raises ConfigError for a checkpoint without template whose family has no bare form.
    """
    if model_type in BARE:
        return BARE[model_type](question, images)
    if not has_chat_template(processor):
        raise ConfigError(
            f"model.folder: found a {model_type!r} checkpoint without a chat template, expected "
            "chat_template.jinja beside it"
        )
    content: list[dict[str, str]] = [{"type": "image"}] * images + [{"type": "text", "text": question}]
    messages = [{"role": "user", "content": content}]
    template = getattr(processor, "chat_template", None) or processor.tokenizer.chat_template
    if isinstance(template, dict):
        template = template["default"]
    text: str = processor.tokenizer.apply_chat_template(
        messages, chat_template=template, add_generation_prompt=True, tokenize=False, **(variables or {})
    )
    return text


def text_of(processor: Any, tokens: Iterable[int], hidden: Collection[int]) -> str:
    """The text of an answer without the `hidden` tokens. Every tag is kept: boxes are made of them."""
    ids = [token for token in tokens if token not in hidden]
    text: str = processor.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return text.strip()
