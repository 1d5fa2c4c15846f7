"""The word-level tokenizer of the embedded models: whole words with the blank before them, and one token per coordinate.

A Ferret box `cat [12, 34, 56, 78]` is " [12", ", 34", ", 56", ", 78", "]": five tokens, so descriptions stay short on a CPU. Every text of the
embedded world survives encode + decode byte for byte (test); an unknown word becomes single letters.
"""

from __future__ import annotations

import re
import string
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from spr.prompts import TEMPLATES
from spr.scenes.language import OPENINGS
from spr.scenes.world import NOUNS

BINS = 1000  # Ferret writes integers 0-999
SPECIAL = ("<pad>", "<unk>", "<s>", "</s>", "<image>")
PATTERN = r" \[\d{1,3}(?=,)|, \d{1,3}(?=[,\]])| ?[A-Za-z]+(?![A-Za-z])| ?\d| ?[^\sA-Za-z\d]|\s"
REC_QUESTIONS = ("What is the location of {expression} in the image?", "Where is {expression}?")
WHAT_QUESTION = "What is the object {region}?"
EXPRESSION_WORDS = "the a an leftmost rightmost top bottom smallest largest small large next to and"
CHAT_TEMPLATE = (
    "<s>{% for message in messages %}{% if message['role'] == 'user' %}USER: "
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>\n{% endif %}{% endfor %}"
    "{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}"
    "{% else %} ASSISTANT: "
    "{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}</s>{% endif %}"
    "{% endfor %}{% if add_generation_prompt %} ASSISTANT:{% endif %}"
)


def vocabulary() -> list[str]:
    """All tokens, specials first, then letters and signs, words, and coordinates."""
    sentences = [t.text.replace("{region}", "").replace("{objects}", "") for t in TEMPLATES.values()]
    sentences += [*OPENINGS, *REC_QUESTIONS, WHAT_QUESTION, "USER ASSISTANT", " ".join(NOUNS), EXPRESSION_WORDS, EXPRESSION_WORDS.title()]
    words = sorted({w for s in sentences for w in re.findall(r"[A-Za-z]{2,}", s)})
    signs = [*string.printable[:95], "\n", "\t", *(f" {c}" for c in string.printable[:94])]
    coordinates = [f" [{n}" for n in range(BINS)] + [f", {n}" for n in range(BINS)]
    return [*SPECIAL, *signs, *words, *(f" {w}" for w in words), *coordinates]


_FAST: Any = PreTrainedTokenizerFast  # its constructor has no types


def build_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer of the embedded MLLM, ready for save_pretrained."""
    tokens = vocabulary()
    tokenizer = Tokenizer(WordLevel({t: i for i, t in enumerate(tokens)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(PATTERN), "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIAL])
    fast: PreTrainedTokenizerFast = _FAST(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", bos_token="<s>", eos_token="</s>", model_max_length=1024
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def build_text_tokenizer(length: int) -> PreTrainedTokenizerFast:
    """Lower-case words for CLIP and the detector, `<s> … </s>`. CLIP and OWL pool at the largest id, so `</s>` comes last; OWL masks id 0."""
    from tokenizers import normalizers
    from tokenizers.processors import TemplateProcessing

    words = " ".join([*OPENINGS, EXPRESSION_WORDS, *NOUNS]).replace("{list}", "")
    tokens = ["<pad>", "<unk>", "<s>", *dict.fromkeys([",", ".", *re.findall(r"\w+|[^\w\s]", words.lower())])]
    tokens = [*tokens, "</s>"]
    tokenizer = Tokenizer(WordLevel({t: i for i, t in enumerate(tokens)}, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = [("<s>", tokens.index("<s>")), ("</s>", tokens.index("</s>"))]
    tokenizer.post_processor = TemplateProcessing(single="<s> $A </s>", special_tokens=ends)
    fast: PreTrainedTokenizerFast = _FAST(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", bos_token="<s>", eos_token="</s>", model_max_length=length
    )
    return fast
