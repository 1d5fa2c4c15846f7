"""What a model is told: the question inside its chat template, or in the bare form of a family without one;
and what it says.

In: a processor, the model_type, a question, how many images go along (the image first, then the crop). Out:
the text that goes to the processor. Back: tokens, and the text of an answer.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from jinja2 import TemplateError

from spr.errors import ConfigError

# Families that are asked by a bare text. Kosmos-2's and Florence-2's processors put the image in front by
# themselves.
BARE: Mapping[str, Callable[[str, int], str]] = {
    "kosmos-2": lambda q, images: q if q.startswith("<grounding>") else "<grounding> " + q,  # model card
    "paligemma": lambda q, images: "<image>" * images + q,  # "detect cat": task words of the model card
    "florence2": lambda q, images: q,  # "<OD>": task tokens of the model card
}
THOUGHTS = ("<think>", "</think>")


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
    return _rendered(processor, [{"role": "user", "content": content}], variables)


def _rendered(
    processor: Any, messages: Sequence[Mapping[str, Any]], variables: Mapping[str, Any] | None
) -> str:
    template = getattr(processor, "chat_template", None) or processor.tokenizer.chat_template
    if isinstance(template, dict):
        template = template["default"]
    text: str = processor.tokenizer.apply_chat_template(
        messages, chat_template=template, add_generation_prompt=True, tokenize=False, **(variables or {})
    )
    return text


def gap_after_image(processor: Any, model_type: str, variables: Mapping[str, Any] | None = None) -> str:
    """The blanks and line breaks that the chat template puts between an image and the question after it."""
    mark = "QUESTION"
    before, without = (
        prompt_text(processor, model_type, mark, images, variables).partition(mark)[0] for images in (1, 0)
    )
    stem = before.rstrip()
    return "" if stem == without.rstrip() else before[len(stem) :]


def default_system(processor: Any, model_type: str, variables: Mapping[str, Any] | None = None) -> str | None:
    """The system message that the chat template puts before a conversation without one ("" for none); None
    where it takes no such message.
    """
    if model_type in BARE or not has_chat_template(processor):
        return None
    mark = "SYSTEM"
    user, system = (
        {"role": role, "content": [{"type": "text", "text": text}]}
        for role, text in (("user", "question"), ("system", mark))
    )
    plain = _rendered(processor, [user], variables)
    try:
        before, found, after = _rendered(processor, [system, user], variables).partition(mark)
    except TemplateError:  # it says itself that it takes none
        return None
    if not found:
        return None
    around = len(before) + len(after)
    if len(plain) > around and plain.startswith(before) and plain.endswith(after):
        return plain[len(before) : len(plain) - len(after)]
    return ""


def begins_in_thought(processor: Any, model_type: str, variables: Mapping[str, Any] | None = None) -> bool:
    """Whether a prompt ends with a thought that the model is to go on with, or with an empty one."""
    return prompt_text(processor, model_type, "", variables=variables).rstrip().endswith(THOUGHTS)


def text_of(processor: Any, tokens: Iterable[int], hidden: Collection[int]) -> str:
    """The text of an answer without the `hidden` tokens. Every tag is kept: boxes are made of them."""
    ids = [token for token in tokens if token not in hidden]
    text: str = processor.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return text.strip()
