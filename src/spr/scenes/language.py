"""What is said about scenes: questions, referring expressions, descriptions. This is the language that the
embedded models were trained in.

In: things (noun, box in pixels) and a random stream. Out: expressions that mean one thing; descriptions as
parts (text | (phrase, box)), which a dialect writes.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from spr.scenes.world import NOUNS, Thing
from spr.stages.prompts import Template, listed, with_article
from spr.types import Box

Part: TypeAlias = str | tuple[str, Box]

PROMPTS: Mapping[str, Template] = {  # what stage `describe` asks the embedded model
    "plain": Template("Describe the region {region} with boxes."),
    "objects": Template("Describe the region {region} with boxes. It shows {names}."),
    "crop": Template("The second image is a crop of the region {region}. Describe it with boxes.", crop=True),
    "crop_objects": Template(
        "The second image is a crop of the region {region}. Describe it with boxes. It shows {names}.",
        crop=True,
    ),
}
WHERE = "Where is {expression}?"
LOCATE = "Locate {phrases}."
WHAT = "What is at {region}?"
EXISTS = "Is there {phrase}?"

_Key: TypeAlias = Callable[[Box], float]
SELECTORS: Mapping[str, _Key] = {  # word -> what is smallest for the thing that is meant
    "leftmost": lambda b: b[0] + b[2],
    "rightmost": lambda b: -b[0] - b[2],
    "top": lambda b: b[1] + b[3],
    "bottom": lambda b: -b[1] - b[3],
    "largest": lambda b: -(b[2] - b[0]) * (b[3] - b[1]),
    "smallest": lambda b: (b[2] - b[0]) * (b[3] - b[1]),
}


def expression(things: Sequence[Thing], target: int, rng: random.Random) -> tuple[str, int]:
    """A referring expression, and the index of the thing that it means: of the target's kind, not always the
    target.
    """
    noun = things[target].noun
    same = [i for i, t in enumerate(things) if t.noun == noun]
    if len(same) == 1:
        return f"the {noun}", target
    word = rng.choice(list(SELECTORS))
    return f"the {word} {noun}", min(same, key=lambda i: SELECTORS[word](things[i].box))


def expressions(things: Sequence[Thing], count: int, rng: random.Random) -> list[tuple[str, Thing]]:
    """Different expressions from `count` draws, each with the thing that it means."""
    found = dict(expression(things, rng.randrange(len(things)), rng) for _ in range(count))
    return [(text, things[i]) for text, i in found.items()]


def left_to_right(things: Sequence[Thing]) -> list[Thing]:
    """The order in which things are named."""
    return sorted(things, key=lambda t: t.box[0] + t.box[2])


def description(things: Sequence[Thing]) -> list[Part]:
    """ "a dog<box>, an ear of corn<box> and a bus<box>.", from left to right."""
    named: list[Part] = [(with_article(t.noun), t.box) for t in left_to_right(things)]
    parts: list[Part] = []
    for k, part in enumerate(named):
        if k:
            parts.append(" and " if k == len(named) - 1 else ", ")
        parts.append(part)
    return [*parts, "."]


def plain(parts: Sequence[Part]) -> str:
    """A description without its boxes."""
    return "".join(p if isinstance(p, str) else p[0] for p in parts)


def names(things: Sequence[Thing]) -> str:
    """ "a dog, an ear of corn and a bus", from left to right."""
    return listed([with_article(t.noun) for t in left_to_right(things)])


def corpus() -> list[str]:
    """Every sentence form with every noun: what the tokenizers are trained on."""
    lines = []
    for noun in NOUNS:
        one = with_article(noun)
        two = f"{one} and {one}"
        lines += [
            f"{one}, {two}.",
            EXISTS.format(phrase=one),
            WHERE.format(expression=f"the {noun}"),
            LOCATE.format(phrases=one),
        ]
        lines += [WHERE.format(expression=f"the {word} {noun}") for word in SELECTORS]
        lines += [t.text.format(region="", names=two) for t in PROMPTS.values()]
        lines.append(WHAT.format(region=""))
    return lines + ["yes", "no"] * 50
