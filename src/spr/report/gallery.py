"""What can be looked at: items that became right or wrong or cannot be read, and preference pairs, each with
its picture and what was said.

In: predictions.parquet, comparison.json and the pairs of a run. Out: cards for the template, and the
pictures, each embedded once. A card says where it is from, what became of it and how many objects it is
about; the page filters by these.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from markupsafe import Markup
from PIL import Image

from spr.dialects import Dialect
from spr.evaluation.results import BASE
from spr.evaluation.rows import read_predictions
from spr.report.pictures import Outline, Shots, bars, marked
from spr.report.results import Measured, measured
from spr.store.folders import EVALUATION, PAIRS
from spr.store.run import Run
from spr.types import Box, Frame, GroundedText, Prediction, TrainingPair

T = TypeVar("T")
LoadImage = Callable[[str], Image.Image]
SHOWN = 24  # ours: cards of each outcome of a benchmark; a page of a few megabytes
PAIRS_SHOWN = 40  # ours
COLOURS = 8  # of mentions, in turn
# where boxes are read right and drawn loosely
CHANGED_AT = {"rec": "acc@0.8", "region_description": "box_recall@0.8"}
OUTCOMES: Mapping[str, str] = {
    "to_right": "became right",
    "to_wrong": "became wrong",
    "unparsed": "unparsed",
    "pair": "pair",
}
OBJECTS = ((1, 1, "1"), (2, 4, "2 to 4"), (5, 6, "5 or 6"), (7, 1 << 30, "7 or more"))


@dataclass(frozen=True, slots=True)
class Panel:
    """One answer: its boxes on the image, and its text with the mentions marked in the colours of their
    boxes.
    """

    label: str
    kind: str
    picture: Markup
    text: Markup


@dataclass(frozen=True, slots=True)
class Card:
    """One item of the gallery."""

    title: str
    source: str
    outcome: str
    objects: str
    panels: Sequence[Panel]
    note: str = ""
    scores: Markup | None = None


@dataclass(frozen=True, slots=True)
class Gallery:
    """All cards, what they can be filtered by ({name: values with counts}), and the definitions of their
    pictures.
    """

    cards: Sequence[Card]
    filters: Mapping[str, Mapping[str, int]]
    pictures: Markup


def objects_range(n: int) -> str:
    """How many objects, as the filter says it."""
    return next((name for low, high, name in OBJECTS if low <= n <= high), "none")


def _mark(g: GroundedText) -> list[tuple[int, int, str, str]]:
    """Spans of the mentions with boxes, with number and colour; those inside another are left out."""
    found: list[tuple[int, int, str, str]] = []
    for number, m in enumerate(g.mentions):
        if m.boxes and (not found or m.span[0] >= found[-1][1]):
            found.append((*m.span, str(number + 1), f"m{number % COLOURS}"))
    return found


def _outlines(g: GroundedText) -> list[Outline]:
    return [Outline(box, f"m{n % COLOURS}", str(n + 1)) for n, m in enumerate(g.mentions) for box in m.boxes]


def panel(
    label: str,
    kind: str,
    text: str,
    image: str,
    frame: Frame,
    around: Sequence[Outline],
    dialect: Dialect,
    shots: Shots,
) -> Panel:
    """An answer as a panel; `around` are outlines below those of the answer: the region, the truth."""
    g = dialect.parse(text, frame)
    picture = shots.overlay(image, [*around, *_outlines(g)], f"boxes of the {label} answer")
    return Panel(label, kind, picture, marked(text, _mark(g), dialect.token_pattern))


def pair_card(pair: TrainingPair, dialect: Dialect, shots: Shots) -> Card:
    """Rejected beside chosen answer, with the parts of their scores as bars."""
    frame = Frame(pair.width, pair.height)
    region = [Outline(pair.region, "region")]
    panels = [
        panel(label, label, text, pair.image, frame, region, dialect, shots)
        for label, text in (("rejected", pair.rejected), ("chosen", pair.chosen))
    ]
    a, b = pair.chosen_score, pair.rejected_score
    rows = [
        ("crop", b.semantic_crop, a.semantic_crop),
        ("local", b.semantic_local, a.semantic_local),
        ("boxes", b.localization, a.localization),
        ("total", b.total, a.total),
    ]
    objects = objects_range(len(pair.reference))
    return Card(
        pair.pair_id,
        PAIRS,
        OUTCOMES["pair"],
        objects,
        panels,
        f"score gap {pair.margin:.3f}",
        bars(rows, ("rejected", "chosen")),
    )


def pair_cards(run: Run, dialect: Dialect, shots: Shots) -> list[Card]:
    """Pairs evenly spaced over the margins, largest first."""
    if run.summary(PAIRS) is None:
        return []
    pairs = sorted(run.iter_stage(TrainingPair, PAIRS), key=lambda p: (-p.margin, p.pair_id))
    return [pair_card(p, dialect, shots) for p in spread(pairs, PAIRS_SHOWN)]


def spread(items: Sequence[T], count: int) -> list[T]:
    """At most `count` of the items, evenly spaced."""
    step = max(1, -(-len(items) // count))
    return list(items[::step])


def changed_cards(m: Measured, run: Run, dialect: Dialect, shots: Shots) -> list[Card]:
    """Items of a benchmark that became right or wrong where boxes are drawn loosely, and those that the
    trained model left unreadable.
    """
    protocol = str(m.comparison.get("protocol", ""))
    if m.trained is None or protocol not in CHANGED_AT or m.trained not in m.comparison.get("models", {}):
        return []
    moved = m.comparison["models"][m.trained]["changed"].get(CHANGED_AT[protocol], {})
    before, after = (
        {r.item_id: r for r in read_predictions(run, EVALUATION, m.name, model)}
        for model in (BASE, m.trained)
    )
    unread = [i for i, r in after.items() if not r.boxes and i not in moved.get("to_wrong", ())]
    ids = {"to_right": moved.get("to_right", []), "to_wrong": moved.get("to_wrong", []), "unparsed": unread}
    return [
        item_card(m.name, OUTCOMES[key], before[i], after[i], m.trained, dialect, shots)
        for key, found in ids.items()
        for i in spread(found, SHOWN)
    ]


def item_card(
    source: str,
    outcome: str,
    before: Prediction,
    after: Prediction,
    trained: str,
    dialect: Dialect,
    shots: Shots,
) -> Card:
    """The answers of the base and of the trained model, the truth in gold below them."""
    truth: Sequence[Box] = before.gt_boxes or ((before.gt,) if before.gt is not None else ())
    around = [Outline(box, "truth") for box in truth] + (
        [Outline(before.region, "region")] if before.region is not None else []
    )
    frame = Frame(before.width, before.height)
    panels = [
        panel(label, kind, r.answer, r.image, frame, around, dialect, shots)
        for label, kind, r in ((BASE, "rejected", before), (trained, "chosen", after))
    ]
    ious = (
        " → ".join("unparsed" if r.iou is None else f"{r.iou:.2f}" for r in (before, after))
        if before.gt is not None
        else ""
    )
    return Card(
        before.expression or f"region {before.item_id}",
        source,
        outcome,
        objects_range(len(truth)),
        panels,
        f"IoU {ious}" if ious else "",
    )


def gallery(run: Run, dialect: Dialect, load_image: LoadImage, load_any: LoadImage) -> Gallery:
    """Every card of the run. `load_image` loads images of the data set by name, `load_any` those of the
    benchmarks by full path.
    """
    ours, theirs = Shots(load_image, "d"), Shots(load_any, "b")
    cards = [card for m in measured(run) for card in changed_cards(m, run, dialect, theirs)] + pair_cards(
        run, dialect, ours
    )
    order = [name for _, _, name in OBJECTS]
    counted = {
        "from": Counter(c.source for c in cards),
        "outcome": Counter(c.outcome for c in cards),
        "objects": Counter(
            sorted((c.objects for c in cards), key=lambda o: order.index(o) if o in order else -1)
        ),
    }
    return Gallery(
        cards,
        {name: values for name, values in counted.items() if len(values) > 1},
        ours.definitions + theirs.definitions,
    )
