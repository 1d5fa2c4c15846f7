"""What a chat template says of itself: the message that it puts in front, and what stands after an image."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from spr.models.chat import default_system, gap_after_image
from tests.contract.checkpoints import CHATML, tokenizer

USER = (
    "{% for m in messages %}{% if m['role'] == 'user' %}USER: IMAGES"
    "{% for p in m['content'] %}TEXT{% endfor %}{% endif %}"
)
TEXT = "{% if p['type'] == 'text' %}{{ p['text'] }}{% endif %}"
IMAGE = "{% for p in m['content'] if p['type'] == 'image' %}<image>{% endfor %}"
SYSTEM = "{% if m['role'] == 'system' %}<s>{{ m['content'][0]['text'] }}</s>{% endif %}{% endfor %}ASSISTANT:"


def processor(template: str) -> Any:
    made = tokenizer(["<image>"], {}, None, "</s>", template)
    return SimpleNamespace(tokenizer=made, chat_template=template)


def chat(images: str = IMAGE, system: str = SYSTEM) -> str:
    return USER.replace("IMAGES", images).replace("TEXT", TEXT) + system


DEFAULT = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nBe good: {x}\\n.<|im_end|>\n{% endif %}"
)


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (CHATML, ""),
        (DEFAULT + CHATML, "Be good: {x}\\n."),
        (chat(), ""),
        (chat(system="{% endfor %}"), None),  # it leaves it out
        ("{{ raise_exception('no system') if messages[0]['role'] == 'system' }}" + CHATML, None),
    ],
)
def test_the_message_that_a_template_puts_in_front(template: str, expected: str | None) -> None:
    assert default_system(processor(template), "any") == expected


def test_a_family_without_a_template_has_no_such_message() -> None:
    assert default_system(processor(""), "paligemma") is None
    assert gap_after_image(processor(""), "paligemma") == ""


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (CHATML.replace("IMAGE", "<image>"), ""),
        (chat(IMAGE + "\n"), ""),  # also without an image
        (chat(IMAGE.replace("<image>", "<image>\n")), "\n"),
        (chat(IMAGE.replace("<image>", "<image>{{ '\\n ' }}")), "\n "),
        (chat("").replace(TEXT, TEXT + IMAGE), ""),  # the image comes last
    ],
)
def test_what_stands_between_an_image_and_its_question(template: str, expected: str) -> None:
    assert gap_after_image(processor(template), "any") == expected
