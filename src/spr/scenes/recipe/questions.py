"""What the embedded MLLM is taught: independent questions about a scene, each with its answer in the
Florence-2 notation.

In: things in pixels, the size of the scene, a random stream. Out: (question, answer) pairs.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TypeAlias

from spr.dialects import get_dialect
from spr.scenes.language import EXISTS, LOCATE, PROMPTS, WHAT, WHERE, Part, description, expression, names
from spr.scenes.recipe.data import Seen, region_in
from spr.scenes.world import NOUNS, Thing
from spr.stages.prompts import listed, with_article
from spr.types import Frame

Turn: TypeAlias = tuple[str, str]
DIALECT = get_dialect("florence2")
NOUN_LIST = tuple(NOUNS)
EXPRESSIONS = 8  # referring expressions per scene


def written(parts: Sequence[Part], frame: Frame) -> str:
    """A description with its boxes."""
    return "".join(p if isinstance(p, str) else p[0] + DIALECT.box_text(p[1], frame) for p in parts)


def turns(things: Sequence[Thing], frame: Frame, rng: random.Random) -> list[Turn]:
    """About a dozen questions about one scene, each of which sees the image and itself only."""
    box, held = region_in(things, rng)
    form = PROMPTS["objects" if rng.random() < 0.3 else "plain"].text
    found = [
        (
            form.format(region=DIALECT.box_text(box, frame), names=names(held)),
            written(description(held), frame),
        )
    ]
    for _ in range(EXPRESSIONS):
        text, i = expression(things, rng.randrange(len(things)), rng)
        found.append((WHERE.format(expression=text), DIALECT.box_text(things[i].box, frame)))
    nouns = [t.noun for t in things]
    if single := [t for t in things if nouns.count(t.noun) == 1]:
        some = rng.sample(single, min(len(single), rng.randint(2, 4)))
        places = listed([with_article(t.noun) + DIALECT.box_text(t.box, frame) for t in some])
        found.append((LOCATE.format(phrases=listed([with_article(t.noun) for t in some])), f"{places}."))
    found += [
        (WHAT.format(region=DIALECT.box_text(t.box, frame)), with_article(t.noun))
        for t in rng.choices(things, k=2)
    ]
    noun = rng.choice(nouns) if rng.random() < 0.5 else rng.choice(NOUN_LIST)
    found.append((EXISTS.format(phrase=with_article(noun)), "yes" if noun in nouns else "no"))
    return found


def described(seen: Seen, held: Sequence[Thing], rng: random.Random) -> Turn:
    """The question about a region with its crop as second image."""
    assert seen.region is not None
    form = PROMPTS["crop_objects" if rng.random() < 0.5 else "crop"].text
    return form.format(region=DIALECT.box_text(seen.region, seen.frame), names=names(held)), written(
        description(held), seen.frame
    )


def loosened(things: Sequence[Thing], frame: Frame, rng: random.Random) -> list[Thing]:
    """Boxes as a hurried annotator draws them: every side pushed outward by N(4 %, 5 %) of the thing's size,
    inside the image.
    """
    found = []
    for t in things:
        x1, y1, x2, y2 = t.box
        w, h = x2 - x1, y2 - y1
        left, top, right, bottom = (rng.gauss(0.04, 0.05) for _ in range(4))
        box = (
            max(0.0, x1 - left * w),
            max(0.0, y1 - top * h),
            min(float(frame.width), x2 + right * w),
            min(float(frame.height), y2 + bottom * h),
        )
        found.append(Thing(t.noun, box))
    return found
