"""`make fuzz`: mutated strings through every dialect, looking for an exception or a lossy round trip.

Corpus: the texts of tests/golden/dialects.json and answers.jsonl. A string is a corpus text after 1-6
mutations (delete, duplicate, swap, truncate, splice with another text, insert a sign or a tag, change a
digit). It is read by its own dialect and, every fourth time, by another; one of its boxes is replaced and
removed.

    python -m benchmarks.fuzz_dialects --count 10000000 --seed 0 --processes 2
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import random
import traceback
from collections import Counter
from pathlib import Path

from benchmarks.fuzz import drive
from spr.dialects import Dialect, Frame, get_dialect, known_names

GOLDEN = Path(__file__).parents[1] / "tests" / "golden"
BLOCK = 5000  # strings
SIGNS = [*'[]{}()<>,;"\\\n 09-.', "null", "None", "<think>", "</think>", "</s>", "\x00", "é", "漢", "𝟙", "٣"]
# RecursionError is a RuntimeError
FINDINGS = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
FRAMES = [
    Frame(640, 480),
    Frame(1, 1),
    Frame(333, 1999),
    Frame(1000, 1000),
    Frame(7, 3000),
    Frame(0, 5),
    Frame(10**400, 5),
]


def mutate(text: str, corpus: list[str], rng: random.Random) -> str:
    """One to six random changes."""
    for _ in range(rng.randint(1, 6)):
        n = len(text)
        i, j = sorted((rng.randint(0, n), rng.randint(0, n)))
        j = min(j, i + 12)
        match rng.randrange(7):
            case 0:
                text = text[:i] + text[j:]
            case 1:
                text = text[:j] + text[i:j] + text[j:]
            case 2:
                text = text[:i]
            case 3:
                other = rng.choice(corpus)
                text = text[:i] + other[rng.randint(0, len(other)) :]
            case 4:
                text = text[:i] + rng.choice(SIGNS) + text[i:]
            case 5:
                text = text[:i] + str(rng.randint(0, 99999)) + text[j:]
            case _:
                text = text[j:] + text[:i]
        text = text[:600]
    return text


def check(d: Dialect, text: str, frame: Frame, rng: random.Random) -> None:
    """The laws of a dialect on one string. Raises AssertionError."""
    g = d.parse(text, frame)
    assert d.render(g, frame) == text
    assert all(
        0 <= start <= end <= len(text)
        for start, end in [m.span for m in g.mentions] + [p.span for p in g.problems]
    )
    numbers = d.coordinate_spans(text)
    assert all(a[1] <= b[0] for a, b in itertools.pairwise(numbers)), "two boxes share a number"
    assert all(math.isfinite(v) for m in g.mentions for box in m.boxes for v in box), "a box is not finite"
    slots = [(m, b) for m, mention in enumerate(g.mentions) for b in range(len(mention.boxes))]
    if slots:
        slot = rng.choice(slots)
        box = (
            rng.uniform(0, frame.width / 2),
            rng.uniform(0, frame.height / 2),
            float(frame.width),
            float(frame.height),
        )
        once = d.replace_boxes(g, {slot: box}, frame)
        assert [len(m.boxes) for m in once.mentions] == [len(m.boxes) for m in g.mentions], (
            "an edit changed what is read"
        )
        assert all(once.mentions[m].boxes[b] == g.mentions[m].boxes[b] for m, b in slots if (m, b) != slot), (
            "an edit moved another box"
        )
        assert d.replace_boxes(once, {slot: box}, frame).text == once.text, "an edit is not idempotent"
        left = d.replace_boxes(g, {slot: None}, frame)
        assert sum(len(m.boxes) for m in left.mentions) < len(slots), "without a box another one appeared"


def block(number: int, seed: int) -> tuple[Counter[str], list[str]]:
    """The strings of one block: how many each dialect read, and what failed."""
    rng = random.Random(f"{seed}/{number}")
    rows = json.loads((GOLDEN / "dialects.json").read_text(encoding="utf-8"))
    rows += map(json.loads, (GOLDEN / "answers.jsonl").read_text(encoding="utf-8").splitlines())
    corpus, names = [row["text"] for row in rows], known_names()
    dialects = {name: get_dialect(name) for name in names}
    done: Counter[str] = Counter()
    failures: list[str] = []
    for _ in range(BLOCK):
        row = rng.choice(rows)
        name = rng.choice(names) if rng.random() < 0.25 else row["dialect"]
        text, frame = mutate(row["text"], corpus, rng), rng.choice(FRAMES)
        done[name] += 1
        try:
            check(dialects[name], text, frame, rng)
        except FINDINGS:
            failures.append(
                f"{name} {frame.width:.0e}x{frame.height} {text!r}\n{traceback.format_exc(limit=3)}"
            )
    return done, failures


def main() -> None:
    texts = (GOLDEN / "dialects.json").read_bytes() + (GOLDEN / "answers.jsonl").read_bytes()
    corpus = hashlib.blake2b(texts, digest_size=4).hexdigest()
    drive(__doc__ or "", "dialects", corpus, block, BLOCK, 1_000_000)


if __name__ == "__main__":
    main()
