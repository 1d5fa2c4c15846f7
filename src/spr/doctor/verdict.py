"""Which contract fits: readings compared on the same answers.

Two readings of one answer are right or wrong together with the model, so how well it locates drops out of
their difference. A paired test says whether one fits better; the boxes themselves say whether it matters: a
reading whose boxes are nearly the assumed ones costs nothing at IoU 0.9.

"Fine" is a claim. It needs boxes that fit, and no other reading that would matter and may be the right one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from spr.dialects import Dialect, known_names
from spr.doctor.readings import (
    Answers,
    Floats,
    Item,
    Reading,
    affine,
    answered,
    overlap,
    own_reading,
    readings,
    written_as,
)

STRICT = 0.9  # the IoU at which a wrong contract costs most
MATTERS = 0.02  # the share of answers that may be lost there
SURE = 1e-4  # ours: from this p on a reading is better: two hundred of them are tried
WORSE = 0.01  # ours: and from this one on it is worse
FITS = 0.3  # ours: below this median no reading fits, and nothing can be said about frames
GOOD = 0.5  # the IoU that half of the boxes must reach in a contract that is believed
SHOWN = 4  # image sizes in a sentence
APART = 0.3  # ours: by how much fewer boxes fit in some images than in the others


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the doctor's table. `verdict`: fine, look (a person should), wrong."""

    check: str
    found: str
    verdict: Literal["fine", "look", "wrong"]


# --- two readings ------------------------------------------------------------------------------------


def p_better(a: Reading, b: Reading) -> float:
    """The chance of an advantage of b over a as large as the one that is seen, if each answer's could as well
    have been the other's (one-sided).

    The sign test with weights: each sign counts by the difference in IoU, so that answers on which the two
    readings hardly differ do not drown those on which they do. Fisher's randomisation test for pairs, in its
    normal approximation.
    """
    more = b.ious - a.ious
    spread = math.sqrt(float(more @ more))
    return 0.5 * math.erfc(float(more.sum()) / spread / math.sqrt(2)) if spread else 1.0


def alike(a: Reading, b: Reading) -> Floats:
    """(n,) IoU of two readings of each answer; 1 where they are the same, even if it is empty."""
    return np.where((a.boxes == b.boxes).all(axis=1), 1.0, overlap(a.boxes, b.boxes))


def strict(a: Reading) -> float:
    """The share of boxes that reach IoU 0.9."""
    return float((a.ious >= STRICT).mean())


def matters(a: Reading, b: Reading) -> bool:
    """Whether it costs more than 2 points at IoU 0.9 to assume a where b is meant: for these answers, or for
    an exact model.
    """
    lost = float((alike(a, b) < STRICT).mean())
    return max(lost, strict(b) - strict(a)) > MATTERS


def compared(a: Reading, b: Reading) -> str:
    """How much better b fits than a, in words."""
    more, less = int((b.ious > a.ious).sum()), int((b.ious < a.ious).sum())
    return (
        f"{more} boxes fit better and {less} worse, {strict(b):.0%} instead of {strict(a):.0%} reach "
        f"IoU {STRICT}"
    )


# --- all of them -------------------------------------------------------------------------------------


def simplest(readings: Sequence[Reading], name: str) -> Reading:
    """The one that is shortest to write, over the dialect of that name if there are several."""
    names = known_names()

    def effort(r: Reading) -> tuple[int, bool, int]:
        if r.dialect is None:
            return 99, True, 0
        base = r.dialect["base"]
        return len(r.dialect), base != name, names.index(base)

    return min(readings, key=effort)


def best_of(readings: Sequence[Reading], name: str) -> list[Reading]:
    """The reading that fits best, written in the shortest way, and those that may be the right one as well
    and differ from it.
    """
    first = max(readings, key=lambda r: float(r.ious.mean()))
    open_ = [r for r in readings if p_better(r, first) > WORSE]
    best = simplest([r for r in open_ if not matters(r, first) and not matters(first, r)], name)
    found = [best]
    for r in sorted(open_, key=lambda r: -float(r.ious.mean())):
        if all(matters(kept, r) for kept in found):
            found.append(simplest([same for same in open_ if not matters(r, same)], name))
    return found


def _read(
    dialect: Dialect, processor: Mapping[str, Any], answers: Sequence[str], items: Sequence[Item]
) -> tuple[Dialect, Answers, Reading | None, list[Reading]]:
    """The dialect in whose notation the answers are written, their boxes, its own reading (None: there is no
    box), and all others.
    """
    notations = written_as(dialect, processor, answers, items)
    a = answered(notations[0], answers, items)
    if not a.items:
        return notations[0], a, None, []
    return notations[0], a, own_reading(a, processor), list(readings(notations, processor, a))


def best_median(
    dialect: Dialect, processor: Mapping[str, Any], answers: Sequence[str], items: Sequence[Item]
) -> float:
    """The median IoU of the reading that fits best, times the boxes per question."""
    _, a, own, others = _read(dialect, processor, answers, items)
    if own is None:
        return 0.0
    return max(float(np.median(r.ious)) for r in (own, *others)) * len(a.items) / len(items)


def contract(
    dialect: Dialect, processor: Mapping[str, Any], answers: Sequence[str], items: Sequence[Item]
) -> Finding:
    """Which contract the answers have, and the line of YAML that says so. `processor`: the sizes of the
    resized frame that the checkpoint's processor has.
    """
    first, a, own, others = _read(dialect, processor, answers, items)
    if own is None:
        return Finding("contract", "no box was read: nothing can be said about the frame", "look")
    if first is dialect:
        return _finding(a, own, others, dialect.name)
    best, *rest = best_of([own, *others], dialect.name)
    key = first.options.get("key")
    form = f"under the key {key!r}" if first.name == dialect.name and key else f"as {first.name} writes them"
    said = f"The boxes are written {form}, not as {dialect.name} does"
    if float(np.median(best.ious)) < FITS:
        return Finding("contract", f"{said}; none of {len(others) + 1} readings fits", "look")
    verdict: Literal["look", "wrong"] = "wrong"
    if key and len(answered(dialect, answers, items).items) == len(a.items):
        said, verdict = f"{said}, but are read", "look"
    return Finding("contract", f"{said}. {_shown(best)}; {_advice(best, rest)}", verdict)


def _finding(a: Answers, assumed: Reading, others: Sequence[Reading], name: str) -> Finding:
    """The verdict on the assumed contract, where the notation is right."""

    def finding(verdict: Literal["fine", "look", "wrong"], *sentences: str) -> Finding:
        return Finding("contract", ". ".join([_shown(assumed), *sentences]), verdict)

    tried = f"{len(others)} other readings"
    if max(float(np.median(r.ious)) for r in (assumed, *others)) < FITS:
        return finding("look", f"None of {tried} fits either: nothing can be said about the frame")
    rivals = [r for r in others if matters(assumed, r) and p_better(r, assumed) > WORSE]
    if better := [r for r in rivals if p_better(assumed, r) <= SURE]:
        first, *rest = best_of(better, name)
        said = f"The boxes look like {first.words}, not {assumed.words}: {compared(assumed, first)}"
        return finding("wrong", f"{said}; {_advice(first, rest)}")
    if rivals:
        other = best_of(rivals, name)[0]
        said = f"They may as well be {other.words}: {compared(assumed, other)}"
        return finding("look", f"{said}; ask about more images, or {_remedy(other)}")
    moved = affine(a, assumed)
    if moved is not None and matters(assumed, moved) and p_better(assumed, moved) <= SURE:
        said = f"Stretched and moved, {moved.words}, they fit better: {compared(assumed, moved)}"
        return finding("look", f"{said}; no dialect has such a contract: is a part of the image cut off?")
    good = float((assumed.ious >= GOOD).mean())
    if good < 0.5:
        return finding(
            "look", f"{good:.0%} reach {GOOD}, too few to call it right; none of {tried} fits better"
        )
    if (uneven := uneven_images(a, assumed)) is not None:
        return finding("look", uneven)
    return finding("fine", f"None of {tried} fits better")


def _shown(r: Reading) -> str:
    reached = f"{strict(r):.0%} of {len(r.ious)} boxes reach {STRICT}"
    return f"{r.words}: median IoU {np.median(r.ious):.2f}, {reached}"


def _advice(first: Reading, rest: Sequence[Reading]) -> str:
    """What to do; and what else may be right, where the answers do not tell."""
    also = "".join(f", or {_remedy(r)} ({r.words})" for r in rest[:2])
    return _remedy(first) + (f"{also}: these answers do not tell them apart" if also else "")


def _remedy(r: Reading) -> str:
    return f"set {r.yaml}"


def uneven_images(a: Answers, assumed: Reading) -> str | None:
    """Images of some sizes on which far fewer boxes fit than on the others: the larger or smaller ones, or
    those of one orientation. None: it is the same everywhere.
    """
    good = assumed.ious >= GOOD
    width, height = a.sizes.T
    longest = a.sizes.max(axis=1)
    groups = [("wide images", width > height), ("high images", width < height)]
    for side in np.unique(longest)[:-1]:
        groups.append((f"images with a side above {side:.0f} px", longest > side))
        groups.append((f"images with no side above {side:.0f} px", longest <= side))
    apart = [(_less(good, inside), name, inside) for name, inside in groups]
    most, name, inside = max(apart, key=lambda group: group[0], default=(0.0, "", good))
    if most < APART:
        return None
    sizes = sorted({f"{w}x{h}" for (w, h), here in zip(a.frames, inside, strict=True) if here})
    listed = ", ".join([*sizes[:SHOWN], *(["…"] if len(sizes) > SHOWN else [])])
    return (
        f"On {name} ({inside.mean():.0%} of the boxes: {listed}) {good[inside].mean():.0%} reach IoU {GOOD}, "
        f"on the others {good[~inside].mean():.0%}"
    )


def _less(good: NDArray[np.bool_], inside: NDArray[np.bool_]) -> float:
    """How much smaller the share of good boxes is inside than outside; 0 where that may be chance."""
    n, m, both = int(inside.sum()), int((~inside).sum()), float(good.mean())
    if not n or not m or not 0 < both < 1:
        return 0.0
    less = float(good[~inside].mean() - good[inside].mean())
    deviation = math.sqrt(both * (1 - both) * (1 / n + 1 / m))
    return less if 0.5 * math.erfc(less / deviation / math.sqrt(2)) <= SURE else 0.0
