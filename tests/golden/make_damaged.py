"""Write tests/golden/damaged/<dialect>.jsonl, 300 answers each: `python -m tests.golden.make_damaged`.

An answer is written from what it says, in a form that stands here and not in the code under test. Then one
thing happens to it that happens to models, decoders or token limits. What must be read follows from what
happened: the row holds it beside the reason, and no reader is asked. Look at the diff before committing it.

A row: `text` · `reason` · `says` ([phrase, boxes]; a box = its numbers as they are written; the phrase "*" =
any words or none) · `problems` (kinds that must be reported; "a|b" = one of them).
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

OUT = Path(__file__).with_name("damaged")
PER_FAMILY = 300
PHRASES = [
    "a man in a blue jacket", "the left headlight", "two small dogs", "a wooden table", "red kettle", "EXIT",
    "the dog's collar", "a half-open door", "Straße", "左边的红色汽车", "a woman with an umbrella", "grass",
    "the third window from the right", "a cup on its saucer", "bus stop", "a T-shirt (striped)", "zebra 7",
]  # fmt: skip
# words of an answer, with a place for what it says; no numbers, and nothing that looks like a phrase
SENTENCES = [
    "There is {}.",
    "In the picture you can see {}.",
    "Sure! Here you are:\n{}",
    "{}",
    "{}\n",
    "It shows {}",
]
JOINTS = [", ", ". There is ", ", and ", "; ", "\n"]


@dataclass(frozen=True)
class Form:
    """How a family writes one thing: @ is its phrase, each # a number in its token."""

    item: str
    token: str = "#"
    high: int = 999
    digits: int = 0  # zero padding
    decimals: int = 0
    between: str | None = None  # two things; None = words
    around: tuple[str, str] = ("", "")
    stripped: str = ""  # the item without its special tokens
    guessed: bool = False  # nothing marks where the phrase begins

    @property
    def is_json(self) -> bool:
        return self.item.startswith('{"')

    @property
    def has_phrase(self) -> bool:
        return "@" in self.item

    @property
    def arity(self) -> int:
        return self.item.count("#")

    @property
    def is_named(self) -> bool:
        """Whether each number has a name of its own."""
        return '="#' in self.item or '": #' in self.item

    @property
    def unnamed(self) -> str:
        """What else may be said where a number is lost: named ones are then places under odd keys."""
        return "|non_box_payload" if self.is_named else ""

    def number(self, rng: random.Random, low: float, high: float) -> str:
        value = rng.uniform(low, high) * self.high
        return (f"{value:.{self.decimals}f}" if self.decimals else str(int(value))).zfill(self.digits)


def _json(key: str, high: int) -> Form:
    item = f'{{"{key}": [#, #, #, #], "label": "@"}}'
    return Form(item, high=high, between=",\n\t", around=("```json\n[\n\t", "\n]\n```"))


_REF, _REF_END = "<|object_ref_start|>", "<|object_ref_end|>"
_BOX, _BOX_END = "<|box_start|>", "<|box_end|>"
_LISTS = "<ref>@</ref><box>[[#, #, #, #]]</box>"
FORMS = {
    "ferret": Form("@ [#, #, #, #]", guessed=True),
    "shikra": Form("@[#,#,#,#]", high=1, decimals=3, guessed=True),
    "llava": Form("@ [#, #, #, #]", high=1, decimals=2, guessed=True),
    "cogvlm": Form("@[[#,#,#,#]]", digits=3, guessed=True),
    "kosmos2": Form(
        "<phrase> @</phrase><object>##</object>", "<patch_index_#>", high=1023, digits=4,
    ),
    "qwen_vl": Form("<ref>@</ref><box>(#,#),(#,#)</box>", stripped="@(#,#),(#,#)"),
    "qwen2_vl": Form(
        f"{_REF}@{_REF_END}{_BOX}(#,#),(#,#){_BOX_END}", high=1000, stripped="@(#,#),(#,#)"
    ),
    "internvl": Form(_LISTS, high=1000, stripped="@[[#, #, #, #]]"),
    "asmv2": Form(_LISTS, stripped="@[[#, #, #, #]]"),
    "minigpt_v2": Form("<p>@</p> {####}", "<#>", high=100),
    "paligemma": Form("#### @", "<loc#>", high=1023, digits=4, between=" ; "),
    "florence2": Form("@####", "<loc_#>", guessed=True),
    "deepseek_vl2": Form(
        "<|ref|>@<|/ref|><|det|>[[#, #, #, #]]<|/det|>", stripped="@[[#, #, #, #]]"
    ),
    "glm4v": Form("<|begin_of_box|>[[#,#,#,#]]<|end_of_box|>", high=1000, stripped="[[#,#,#,#]]"),
    "rex_omni": Form(f"{_REF}@{_REF_END}{_BOX}####{_BOX_END}", "<#>", stripped="@####"),
    "locate_anything": Form("<ref>@</ref><box>####</box>", "<#>", high=1000, stripped="@####"),
    "minicpm_v": Form("<ref>@</ref><box># # # #</box>", high=1000),
    "isaac": Form('<point_box mention="@"> (#,#) (#,#) </point_box>', high=1000),
    "deepseek_ocr": Form("<|ref|>@<|/ref|><|det|>[[#, #, #, #]]<|/det|>", stripped="@[[#, #, #, #]]"),
    "seed": Form("@ <bbox># # # #</bbox>", guessed=True),
    "ui_tars": Form(
        "click(point='<point># #</point>')", high=970, between="\nAction: ", around=("Action: ", "")
    ),
    "molmo": Form('<point x="#" y="#" alt="@">@</point>', high=100, decimals=1),
    "molmo2": Form('<points coords="1 1 # #" alt="@">@</points>', high=1000, digits=3),
    "moondream": Form(
        '{"x_min": #, "y_min": #, "x_max": #, "y_max": #}', high=1, decimals=3, between=", ",
        around=('{"objects": [', "]}"),
    ),
    "qwen_points": Form(
        '{"point_2d": [#, #], "label": "@"}', high=1000, between=",\n\t",
        around=("```json\n[\n\t", "\n]\n```"),
    ),
    "qwen2_5_vl": _json("bbox_2d", 970),
    "qwen3_vl": _json("bbox_2d", 1000),
    "gemini": _json("box_2d", 1000),
}  # fmt: skip
Box: TypeAlias = tuple[str, ...]
Said: TypeAlias = tuple[str | None, tuple[Box, ...]]


@dataclass(frozen=True)
class Row:
    """An answer, and what must be read in it."""

    text: str
    says: tuple[Said, ...]
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class Answer:
    """Things, and the texts between them: `words` has one more than there are things."""

    form: Form
    things: tuple[tuple[str, Box], ...]
    words: tuple[str, ...]

    def item(self, k: int, numbers: Sequence[str] | None = None, template: str | None = None) -> str:
        """Thing k as its family writes it, or with other numbers or in another form."""
        phrase, box = self.things[k]
        tokens = (self.form.token.replace("#", n) for n in (box if numbers is None else numbers))
        item = self.form.item if template is None else template
        return re.sub("#", lambda _: next(tokens), item).replace("@", phrase)

    def text(self, k: int | None = None, item: str = "") -> str:
        """The whole answer, with `item` in the place of thing k."""
        pieces = [self.words[0]]
        for j in range(len(self.things)):
            pieces += [item if j == k else self.item(j), self.words[j + 1]]
        return "".join(pieces)

    def says(self, k: int | None = None, phrase: str = "") -> tuple[Said, ...]:
        """What is said, with another phrase for thing k; without one thing k is lost."""
        named = self.form.has_phrase
        return tuple(
            (phrase if j == k else said if named else "*", (box,))
            for j, (said, box) in enumerate(self.things)
            if j != k or phrase
        )

    def with_box(self, k: int, box: Box) -> Answer:
        """The same with another box for thing k."""
        return replace(self, things=(*self.things[:k], (self.things[k][0], box), *self.things[k + 1 :]))

    def without(self, k: int, item: str, problem: str) -> Row:
        """Thing k is lost, since `item` stands in its place."""
        return Row(self.text(k, item), self.says(k), (problem,))


def answer(form: Form, rng: random.Random) -> Answer:
    """One to three things in words, or in a list."""
    things = []
    for _ in range(rng.randint(1, 3)):
        if form.token == "<patch_index_#>":
            row, column = rng.randint(0, 15), rng.randint(0, 15)
            cells = (row * 32 + column, (row + rng.randint(1, 15)) * 32 + column + rng.randint(1, 15))
            box: Box = tuple(f"{cell:04}" for cell in cells)
        elif form.arity == 2:
            box = tuple(form.number(rng, 0.1, 0.99) for _ in "xy")
        else:
            box = (*(form.number(rng, 0, 0.45) for _ in "xy"), *(form.number(rng, 0.5, 0.99) for _ in "xy"))
        phrase = rng.choice(PHRASES)
        while form.guessed and not phrase.isascii():  # "(striped)" and such stay
            phrase = rng.choice(PHRASES)
        things.append((phrase, box))
    if form.between is not None:
        return Answer(
            form, tuple(things), (form.around[0], *[form.between] * (len(things) - 1), form.around[1])
        )
    before, after = rng.choice(SENTENCES).split("{}")
    joints = [rng.choice(JOINTS) for _ in things[1:]]
    if form.guessed and not before.endswith(("\n", "There is ")):
        before = ""
    return Answer(form, tuple(things), (before, *joints, after))


# --- what happens to an answer: a row, or None where it cannot happen to this family ------------------

Damage: TypeAlias = Callable[[Answer, random.Random], Row | None]
DAMAGES: dict[str, Damage] = {}


def damage(reason: str) -> Callable[[Damage], Damage]:
    def add(make: Damage) -> Damage:
        DAMAGES[reason] = make
        return make

    return add


def _one(a: Answer, rng: random.Random) -> int:
    return rng.randrange(len(a.things))


@damage("as the family writes it")
def _clean(a: Answer, rng: random.Random) -> Row | None:
    return Row(a.text(), a.says())


@damage("a number is missing: this box is lost, no other")
def _fewer(a: Answer, rng: random.Random) -> Row | None:
    k, template = _one(a, rng), a.form.item
    # with what stands between it and the number before or behind it
    sides = ("(?<=#),? ?#", "#,? ?(?=#)", '(?<=#), "[a-z_]+": #', ' [xy]="#"')
    cuts = [m.span() for side in sides for m in re.finditer(side, template)]
    start, end = rng.choice(cuts)
    gone, box = template[:start].count("#"), a.things[k][1]
    short = template[:start] + template[end:]
    text = a.item(k, [*box[:gone], *box[gone + 1 :]], short)
    return a.without(k, text, "wrong_arity|truncated" + a.form.unnamed)


@damage("a number too many: this box is lost, no other")
def _more(a: Answer, rng: random.Random) -> Row | None:
    if a.form.token == "<loc_#>" or a.form.is_named:  # the first four are a box there
        return None
    k = _one(a, rng)
    last = [m.span() for m in re.finditer("#", a.form.item)]
    between = a.form.item[last[0][1] : last[1][0]]
    long = a.form.item[: last[-1][1]] + between + "#" + a.form.item[last[-1][1] :]
    text = a.item(k, [*a.things[k][1], a.things[k][1][0]], long)
    return a.without(k, text, "wrong_arity")


@damage("a word in the place of a number: this box is lost, no other")
def _word(a: Answer, rng: random.Random) -> Row | None:
    if a.form.token != "#":
        return None
    k = _one(a, rng)
    numbers = list(a.things[k][1])
    words = ["unknown", "x1", "12px", "?", "left", "1e3", "3O4"]
    numbers[rng.randrange(len(numbers))] = rng.choice(words)
    return a.without(k, a.item(k, numbers), "not_a_number|wrong_arity|truncated" + a.form.unnamed)


@damage("digits run away: this box is lost, no other")
def _runaway(a: Answer, rng: random.Random) -> Row | None:
    if a.form.token != "#":
        return None
    k = _one(a, rng)
    numbers = list(a.things[k][1])
    numbers[rng.randrange(len(numbers))] = rng.choice("159") * rng.randint(20, 60)
    return a.without(k, a.item(k, numbers), "not_a_number" + a.form.unnamed)


@damage("a number above the range: the box stays, and is reported")
def _outside(a: Answer, rng: random.Random) -> Row | None:
    k = _one(a, rng)
    box = a.things[k][1]
    step = 1 if a.form.arity == 2 else rng.choice([2, 3])
    big = (
        f"{a.form.high + 1 + rng.uniform(0, 0.9):.{a.form.decimals}f}"
        if a.form.decimals
        else str(a.form.high + rng.randint(1 if a.form.high != 970 else 100, 900))
    )
    new = (*box[:step], big.zfill(a.form.digits), *box[step + 1 :])
    changed = a.with_box(k, new)
    return Row(changed.text(), changed.says(), ("out_of_range",))


@damage("two corners changed places: the box stays as written, and is reported")
def _reversed(a: Answer, rng: random.Random) -> Row | None:
    if a.form.arity == 2 and a.form.token == "#":  # a point
        return None
    k = _one(a, rng)
    box = a.things[k][1]
    half = len(box) // 2
    changed = a.with_box(k, (*box[half:], *box[:half]))
    return Row(changed.text(), changed.says(), ("reversed",))


@damage("fractions where whole numbers are meant: the box stays as written, and is reported")
def _fractions(a: Answer, rng: random.Random) -> Row | None:
    if a.form.decimals or a.form.token != "#" or a.form.digits:
        return None
    things = []
    for phrase, box in a.things:
        low, high = [rng.uniform(0.05, 0.4) for _ in "xy"], [rng.uniform(0.5, 0.95) for _ in "xy"]
        things.append((phrase, tuple(f"{v:.2f}" for v in (*low, *high)[-len(box) :])))
    changed = replace(a, things=tuple(things))
    return Row(changed.text(), changed.says(), ("non_box_payload",))


@damage("the token limit cuts a box: what was whole before it stays")
def _cut(a: Answer, rng: random.Random) -> Row | None:
    k = _one(a, rng)
    template = a.form.item
    head = a.item(k, [], template[: template.index("#")])
    whole = a.item(k, template=template[: template.rindex("#") + 1])
    # inside of a token or a number: at least one sign of the first, at most all but one of the last
    end = rng.randint(len(head) + 1, len(whole) - 1)
    before = "".join(a.words[j] + a.item(j) for j in range(k)) + a.words[k]
    text = before + a.item(k)[:end]
    return Row(text, a.says()[:k], ("truncated",))


@damage("a thought before the answer: no part of it")
def _thought(a: Answer, rng: random.Random) -> Row | None:
    other = a.item(_one(a, rng))
    name = rng.choice(["think", "thinking"])
    thought = rng.choice(["Let me look. It may be {}", "First I see {}, no, wait.", "{}\n"]).replace(
        "{}", other
    )
    return Row(f"<{name}>{thought}</{name}>\n{a.text()}", a.says(), ("draft_box",))


@damage("a thought that never ends: no answer")
def _endless(a: Answer, rng: random.Random) -> Row | None:
    return Row("<think>The picture has " + a.text(), (), ("draft_box",))


@damage("a tool call before the answer: no part of it")
def _tool(a: Answer, rng: random.Random) -> Row | None:
    asked = json.dumps({"name": "zoom", "arguments": rng.choice(["left half", "centre"])})
    call = f"<tool_call>\n{asked}\n</tool_call>\n"
    return Row(call + a.text(), a.says())


@damage("signs of the chat around the answer: no part of it")
def _chat(a: Answer, rng: random.Random) -> Row | None:
    before = rng.choice(["", "<|im_start|>assistant\n", "<s> ", "ASSISTANT: "])
    after = rng.choice(["<|im_end|>", "</s>", "<|endoftext|>", "<|im_end|>\n<|endoftext|>", "<eos>"])
    return Row(before + a.text() + after, a.says())


@damage("words before and behind the answer")
def _prose(a: Answer, rng: random.Random) -> Row | None:
    before = rng.choice(["Here is what I found:\n", "Of course.\n", "The objects are [see below]:\n"])
    after = rng.choice(
        ["\nLet me know if you need more.", "\nI hope this helps!", "\n(Not all are certain.)"]
    )
    return Row(before + a.text() + after, a.says())


@damage("a fence around the answer, closed or not")
def _fence(a: Answer, rng: random.Random) -> Row | None:
    if a.form.is_json:
        return Row(a.text().removesuffix("\n```"), a.says())
    return Row("```\n" + a.text() + rng.choice(["\n```", "\n"]), a.says())


@damage("the answer is given twice: all of it is read twice")
def _twice(a: Answer, rng: random.Random) -> Row | None:
    return Row(a.text() + "\n\n" + a.text(), a.says() * 2)


@damage("blanks between the numbers")
def _blanks(a: Answer, rng: random.Random) -> Row | None:
    template = re.sub("#(?=#)", "# ", a.form.item) if a.form.token != "#" else a.form.item
    if a.form.token == "#":
        template = re.sub(r"#,\s*#", rng.choice(["# , #", "#,  #", "#,#", "#, #"]), template)
    changed = replace(a, form=replace(a.form, item=template))
    return Row(changed.text(), changed.says())


@damage("the decoder has dropped the special tokens: the boxes are read, and it is reported")
def _stripped(a: Answer, rng: random.Random) -> Row | None:
    # without words between them, boxes are one mention's
    if not a.form.stripped or (not a.form.has_phrase and len(a.things) > 1):
        return None
    changed = replace(a, form=replace(a.form, item=a.form.stripped))
    return Row(changed.text(), tuple(("*", boxes) for _, boxes in a.says()), ("tags_stripped",))


@damage("a closing tag is missing: no box is lost whose numbers end all the same, and it is reported")
def _unclosed(a: Answer, rng: random.Random) -> Row | None:
    tags = re.findall(r"<[|/]*/?[a-z_|]+_?(?:end|/\w+)?\|?>", a.form.item)
    closing = [tag for tag in tags if "/" in tag or "end" in tag]
    k = _one(a, rng)
    if not closing or a.form.token == "<loc#>" or len(a.things) < 2 or k == len(a.things) - 1:
        return None
    if a.form.item.startswith("click"):  # its brackets end it all the same
        return None
    tag = rng.choice(closing)
    text = a.text(k, a.item(k, template=a.form.item.replace(tag, "")))
    bare = a.form.token == "#" and f"#{tag}" in a.form.item  # nothing else ends these numbers
    return Row(text, a.says(k, "" if bare else "*"), ("tag_mismatch|nested_tag",))


@damage("the whole answer says that there is none")
def _none(a: Answer, rng: random.Random) -> Row | None:
    return Row(rng.choice(["None", "none", "None.", " none\n"]), ((None, ()),), ("absent_marker",))


@damage("a refusal in words: no box, and nothing to report")
def _refusal(a: Answer, rng: random.Random) -> Row | None:
    return Row(
        rng.choice(
            [
                "I'm sorry, but I cannot see any of these in the image.",
                "The image shows a quiet street at dusk; nothing else is visible.",
                "There are two dogs and 3 cats, at about 10:30 in the morning.",
                "",
            ]
        ),
        (),
    )


POINTS = [
    '<point x="41.5" y="60.2" alt="the thing">the thing</point>', "click(start_box='(312,480)')",
    "<|point_start|>(312,480)<|point_end|>", "<click>312, 480</click>",
]  # fmt: skip


def _begins(text: str) -> str:
    return re.split(r"[ (]", text)[0]


@damage("a point of another notation behind the answer: no box, and it is reported")
def _point(a: Answer, rng: random.Random) -> Row | None:
    others = [point for point in POINTS if _begins(point) != _begins(a.form.item)]
    return Row(a.text() + "\n" + rng.choice(others), a.says(), ("non_box_payload",))


@damage("a box of another notation behind the answer: not read, and it is reported")
def _foreign(a: Answer, rng: random.Random) -> Row | None:
    marks = {"qwen_vl": "<ref>", "florence2": "<loc_", "deepseek_vl2": "<|ref|>", "kosmos2": "<patch"}
    other = answer(FORMS[rng.choice([name for name in marks if marks[name] not in a.text()])], rng)
    return Row(a.text() + "\n" + other.item(0), a.says(), ("non_box_payload",))


# --- JSON ---------------------------------------------------------------------------------------------


def json_damage(reason: str) -> Callable[[Damage], Damage]:
    """What can happen to JSON alone."""
    return lambda make: damage(reason)(lambda a, rng: make(a, rng) if a.form.is_json else None)


def _in_json(change: Callable[[str, random.Random], str]) -> Damage:
    def make(a: Answer, rng: random.Random) -> Row | None:
        text = change(a.text(), rng)
        return Row(text, a.says()) if text != a.text() else None

    return make


def _sub(pattern: str, new: str, some: bool = False) -> Damage:
    """Everywhere, or in one place of several."""

    def change(text: str, rng: random.Random) -> str:
        places = list(re.finditer(pattern, text))
        if not places:
            return text
        for m in reversed([rng.choice(places)] if some else places):
            text = text[: m.start()] + m.expand(new) + text[m.end() :]
        return text

    return _in_json(change)


json_damage("single quotes")(_sub('"', "'"))
json_damage("curly quotes")(_sub(r'"([^"\n]*)"', "“\\1”"))
json_damage("keys without quotes")(_sub(r'"(\w+)": ', r"\1: "))
json_damage("a comma between objects is missing")(_sub(r"\},\n", "}\n", some=True))
json_damage("a comma between keys is missing")(_sub(r"\], \"", '] "', some=True))
json_damage("a comma behind the last object")(_sub(r"\}\n\]", "},\n]"))
json_damage("the last brackets are missing")(_sub(r"\n\]\n```", ""))
json_damage("the key is escaped, as Markdown does it")(_sub(r"(b\w*ox)_2d", r"\1\\\\_2d"))
json_damage("a brace is closed twice")(_sub(r"\}(?=,?\n)", "}}", some=True))
json_damage("one object a line, without a list")(
    _in_json(lambda t, _: t.replace("```json\n[\n\t", "").replace("\n]\n```", "").replace(",\n\t", "\n"))
)
json_damage("no fence, in one line")(
    _in_json(lambda t, _: " ".join(t.replace("```json", "").strip("`\n").split()))
)
json_damage("tuples in the place of lists")(_sub(r": \[([^\]\n]*)\]", r": (\1)"))
json_damage("other keys beside the box: no part of the answer")(
    _sub(r"\"label\"", '"score": 0.87, "mask": [[12, 40, 61, 90, 33, 71]], "label"', some=True)
)
json_damage("the numbers stand in quotes")(
    _sub(r"\[(\d+), (\d+), (\d+), (\d+)\]", r'["\1", "\2", "\3", "\4"]')
)
json_damage("a doubly encoded answer")(_in_json(lambda t, _: json.dumps(t, ensure_ascii=False)))
json_damage("line ends of another system")(_in_json(lambda t, _: t.replace("\n", "\r\n")))


def _misplaced(a: Answer, k: int, pattern: str, new: str) -> Row | None:
    """The place of thing k as something that is not read; None where it has no such place."""
    text = re.sub(pattern, new, a.item(k))
    return a.without(k, text, "non_box_payload") if text != a.item(k) else None


@json_damage("a box under a key that is not the family's: no box, the others stay")
def _key(a: Answer, rng: random.Random) -> Row | None:
    k = _one(a, rng)
    key = rng.choice(["bbox", "box", "bounding_box", "coordinates", "position", "rect", "xyxy"])
    return _misplaced(a, k, r"b\w*ox_2d", key)


@json_damage("a point in the place of a box: no box, the others stay")
def _json_point(a: Answer, rng: random.Random) -> Row | None:
    return _misplaced(a, _one(a, rng), r"b\w*ox_2d\": \[(\d+), (\d+).*?\]", r'point_2d": [\1, \2]')


@json_damage("a label with a quote or a line end in it")
def _label(a: Answer, rng: random.Random) -> Row | None:
    k = _one(a, rng)
    said, written = rng.choice(
        [('a 5" screen', 'a 5\\" screen'), ('a 5" pipe', 'a 5" pipe'), ("EXIT only", "EXIT\nonly")]
    )
    text = a.item(k).replace(f'"label": "{a.things[k][0]}"', f'"label": "{written}"')
    if text == a.item(k):
        return None
    return Row(a.text(k, text), a.says(k, said))


def rows(name: str) -> list[dict[str, object]]:
    """300 rows of a family, as many of each kind as there are."""
    rng, form = random.Random(name), FORMS[name]
    found: list[dict[str, object]] = []
    seen = set[str]()
    misses = 0
    while len(found) < PER_FAMILY and misses < 10_000:
        for reason, make in DAMAGES.items():
            row = make(answer(form, rng), rng)
            if row is None or row.text in seen or len(found) == PER_FAMILY:
                misses += 1
                continue
            seen.add(row.text)
            found.append(
                {"text": row.text, "reason": reason, "says": row.says, "problems": list(row.problems)}
            )
    return found


def main() -> None:
    OUT.mkdir(exist_ok=True)
    for name in FORMS:
        lines = [json.dumps(row, ensure_ascii=False) for row in rows(name)]
        (OUT / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
