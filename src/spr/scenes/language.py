"""What can be said about a scene: referring expressions, region descriptions, names. Plain English, always unambiguous by a margin.

In: objects (noun, box) and a random generator. Out: expressions that fit exactly one object; descriptions as parts (text | (phrase, box)).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from spr.boxes import area, centre, gap, inside
from spr.scenes.world import SIZE, SceneObject
from spr.types import Box

Part: TypeAlias = str | tuple[str, Box]

MARGIN = 0.07 * SIZE  # pixels by which the leftmost object must be left of the others of its kind
RATIO = 1.4  # of areas, for largest and smallest
SMALL, LARGE = 0.2 * SIZE, 0.3 * SIZE  # longest side

OPENINGS = ("There is {list}.", "I can see {list}.", "The region shows {list}.", "Here we have {list}.")


def _ascending(members: Sequence[int], key: NDArray[np.float64]) -> list[int]:
    return sorted(members, key=lambda i: float(key[i]))


def expressions(objects: Sequence[SceneObject]) -> list[list[str]]:
    """For each object all expressions that fit it and nothing else, by a clear margin."""
    boxes = [o.box for o in objects]
    middle, size, apart = centre(boxes), area(boxes), gap(boxes, boxes)
    kinds = {noun: [i for i, o in enumerate(objects) if o.noun == noun] for noun in {o.noun for o in objects}}
    found: list[list[str]] = [[] for _ in objects]
    for noun, members in kinds.items():
        if len(members) == 1:
            found[members[0]].append(f"the {noun}")
            continue
        keys = {"leftmost": middle[:, 0], "rightmost": -middle[:, 0], "top": middle[:, 1], "bottom": -middle[:, 1]}
        for word, key in keys.items():
            order = _ascending(members, key)
            if key[order[1]] - key[order[0]] >= MARGIN:
                found[order[0]].append(f"the {word} {noun}")
        order = _ascending(members, size)
        if size[order[1]] >= RATIO * size[order[0]]:
            found[order[0]].append(f"the smallest {noun}")
        if size[order[-1]] >= RATIO * size[order[-2]]:
            found[order[-1]].append(f"the largest {noun}")
        for anchor, (j, *others) in ((a, m) for a, m in kinds.items() if a != noun):
            order = _ascending(members, apart[:, j])
            if not others and apart[order[1], j] - apart[order[0], j] >= 2 * MARGIN:
                found[order[0]].append(f"the {noun} next to the {anchor}")
    return found


def size_word(box: Box) -> str:
    """ "small", "large" or nothing, by the longest side."""
    side = max(box[2] - box[0], box[3] - box[1])
    return "small " if side < SMALL else "large " if side > LARGE else ""


def description(objects: Sequence[SceneObject], region: Box, rng: np.random.Generator) -> list[Part]:
    """A sentence that names every object in the region with its box, from left to right; size words come and go."""
    here = [o for o, is_in in zip(objects, inside([o.box for o in objects], region), strict=True) if is_in]
    here.sort(key=lambda o: (o.box[0] + o.box[2], o.box[1]))
    before, after = OPENINGS[int(rng.integers(len(OPENINGS)))].split("{list}")
    parts: list[Part] = [before]
    for k, o in enumerate(here):
        if k:
            parts.append(" and " if k == len(here) - 1 else ", ")
        word = size_word(o.box) if rng.random() < 0.5 else ""
        name = word + o.noun
        parts.append((("an " if name[0] in "aeiou" else "a ") + name, o.box))
    return [*parts, after]
