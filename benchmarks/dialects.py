"""Dialects: parse + replace + render beside supervision's readers (which only read), on the same strings, in
one run; and seconds per megabyte.

Equality first: the largest difference between supervision's boxes and ours is printed, and a missing box
stops the run. What it cannot do (keep the text, edit, report problems) has no peer column. supervision comes
with the extra `bench`.
"""

from __future__ import annotations

import functools
import random
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from spr.dialects import Dialect, Frame, get_dialect, known_names
from spr.errors import missing_extra
from spr.types import Box

FRAME = Frame(640, 480)
STRINGS = 2000
ROUNDS = 5


def answers(d: Dialect, rng: random.Random) -> list[str]:
    """Lists of 1-8 labelled boxes, as the family writes them."""
    texts = []
    for _ in range(STRINGS):
        parts: list[Any] = []
        for k in range(rng.randint(1, 8)):
            x, y = rng.uniform(0, 500), rng.uniform(0, 400)
            box: Box = (x, y, x + rng.uniform(10, 130), y + rng.uniform(10, 70))
            parts += [", "] * bool(k) + [
                (None if d.name in ("glm4v", "moondream") else rng.choice(["a dog", "cat", "red car"]), [box])
            ]
        texts.append(d.compose(parts, FRAME))
    return texts


def _median(work: Callable[[str], object], texts: Sequence[str]) -> float:
    seconds = []
    for _ in range(ROUNDS):
        begin = time.perf_counter()
        for text in texts:
            work(text)
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds)


def _peers() -> dict[str, Callable[[str], Any]]:
    try:
        from supervision.detection import vlm
    except ImportError:
        raise missing_extra("the comparison with supervision", "bench") from None
    size = (FRAME.width, FRAME.height)
    seen = get_dialect("qwen2_5_vl").model_size(FRAME)
    return {
        "qwen2_5_vl": lambda t: vlm.from_qwen_2_5_vl(t, input_wh=seen, resolution_wh=size)[0],
        "qwen3_vl": lambda t: vlm.from_qwen_3_vl(t, resolution_wh=size)[0],
        "gemini": lambda t: vlm.from_google_gemini_2_0(t, resolution_wh=size)[0],
        "paligemma": lambda t: vlm.from_paligemma(t, resolution_wh=size)[0],
        "deepseek_vl2": lambda t: vlm.from_deepseek_vl_2(t, resolution_wh=size)[0],
    }


def _equal(d: Dialect, peer: Callable[[str], Any], texts: list[str]) -> float:
    """Largest difference in pixels. Raises AssertionError when a box is missing."""
    worst = 0.0
    for text in texts:
        ours = np.array([b for m in d.parse(text, FRAME).mentions for b in m.boxes])
        theirs = np.asarray(peer(text), dtype=float).reshape(-1, 4)
        assert ours.shape == theirs.shape, f"{d.name}: {len(ours)} boxes against {len(theirs)} in {text!r}"
        worst = max(worst, float(np.abs(ours - theirs).max()))
    return worst


def _edit(d: Dialect, text: str) -> str:
    g = d.parse(text, FRAME)
    return d.render(d.replace_boxes(g, {(0, 0): (1.0, 2.0, 30.0, 40.0)}, FRAME), FRAME)


def run() -> dict[str, Any]:
    """Print both tables and return their numbers."""
    peers = _peers()
    rows: dict[str, Any] = {}
    print(
        f"{'dialect':16} {'parse':>10} {'+ replace + render':>20} {'supervision':>12} {'ratio parse':>12} "
        f"{'ratio all':>10} {'max difference':>15}"
    )
    for name in (name for name in known_names("boxes") if ":" not in name):
        d = get_dialect(name)
        texts = answers(d, random.Random(0))
        parse = _median(functools.partial(d.parse, frame=FRAME), texts) / STRINGS * 1e6
        full = _median(functools.partial(_edit, d), texts) / STRINGS * 1e6
        row: dict[str, Any] = {"parse_us": round(parse, 1), "parse_replace_render_us": round(full, 1)}
        shown = f"{name:16} {parse:>7.1f} us {full:>17.1f} us"
        if name in peers:
            worst = _equal(d, peers[name], texts)
            theirs = _median(peers[name], texts) / STRINGS * 1e6
            row |= {
                "supervision_read_us": round(theirs, 1),
                "ratio_parse": round(theirs / parse, 2),
                "ratio_all": round(theirs / full, 2),
                "max_difference_px": worst,
            }
            shown += f" {theirs:>9.1f} us {theirs / parse:>11.2f}x {theirs / full:>9.2f}x {worst:>12.2f} px"
        print(shown)
        rows[name] = row
    print(
        f"\n{'s / MB':16} {'0.25 MB':>9} {'1 MB':>9} {'4 MB':>9}   (answers of the family, then its worst "
        "adversarial unit)"
    )
    scale: dict[str, Any] = {}
    for name, unit in [
        ("ferret", "a dog [1, 2, 3, 4] "),
        ("ferret", "[[1, "),
        ("qwen3_vl", '{"bbox_2d": [1, 2, 3, 4], "label": "x"},'),
        ("qwen3_vl", "{"),
        ("minigpt_v2", "}"),
    ]:
        d = get_dialect(name)
        per_mb = []
        for size in (250_000, 1_000_000, 4_000_000):
            text = unit * (size // len(unit))
            begin = time.perf_counter()
            d.parse(text, FRAME)
            per_mb.append((time.perf_counter() - begin) / (len(text) / 1e6))
        print(f"{name + ' ' + unit[:12]:28} " + " ".join(f"{v:>7.2f}" for v in per_mb))
        scale[f"{name} {unit}"] = [round(v, 3) for v in per_mb]
    return {"rows": rows, "seconds_per_megabyte": scale}


if __name__ == "__main__":
    run()
