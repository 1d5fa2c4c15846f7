"""Small pictures for the report: an image as a data URI, boxes as SVG over it, curves as inline SVG. No
network, no scripts, no fonts.

In: PIL images, boxes in pixels, series of numbers. Out: strings of markup, all text escaped.
"""

from __future__ import annotations

import base64
import io
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape
from PIL import Image

from spr.report.page import STYLE
from spr.types import Box

WIDTH, HEIGHT = 460.0, 280.0  # of a plot
WIDEST = 640  # pixels of an embedded picture: enough for a report, small enough to mail


@dataclass(frozen=True, slots=True)
class Outline:
    """A box to draw. `kind` is a CSS class (region, truth, m0 … m7 for mentions, …); `label` stands at its
    corner.
    """

    box: Box
    kind: str
    label: str = ""


@dataclass(frozen=True, slots=True)
class Series:
    """A named line of a plot. `low` and `high` are a band around it, when given; `kind` is a CSS class."""

    name: str
    kind: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()


def data_uri(image: Image.Image) -> str:
    """JPEG of at most WIDEST pixels as a data URI."""
    small = image.copy()
    small.thumbnail((WIDEST, WIDEST))
    sink = io.BytesIO()
    small.convert("RGB").save(sink, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(sink.getvalue()).decode()


def outlined(outlines: Sequence[Outline], width: int, height: int) -> Markup:
    """Outlines with their labels, in pixels of an image of that size."""
    # one hundredth of the longer side: strokes and letters look alike on every image
    unit = max(width, height) / 100
    parts = []
    for o in outlines:
        x1, y1, x2, y2 = o.box
        parts.append(
            Markup(
                '<rect class="o {}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}" '
                'stroke-width="{:.2f}"/>'
            ).format(o.kind, min(x1, x2), min(y1, y2), abs(x2 - x1), abs(y2 - y1), 0.9 * unit)
        )
        if o.label:
            at_top = min(y1, y2) > 5 * unit
            y = min(y1, y2) - 0.8 * unit if at_top else max(y1, y2) + 4.2 * unit
            parts.append(
                Markup('<text class="l {}" x="{:.1f}" y="{:.1f}" font-size="{:.1f}">{}</text>').format(
                    o.kind, min(x1, x2), y, 4.4 * unit, o.label
                )
            )
    return Markup("").join(parts)


_SHOT = '<svg class="shot" viewBox="0 0 {} {}" role="img" aria-label="{}">{}{}</svg>'


def overlay(image: Image.Image, outlines: Sequence[Outline], alt: str) -> Markup:
    """The image with outlines over it; coordinates stay those of the image."""
    w, h = image.size
    picture = Markup('<image href="{}" width="{}" height="{}"/>').format(data_uri(image), w, h)
    return Markup(_SHOT).format(w, h, alt, picture, outlined(outlines, w, h))


class Shots:
    """Images that a page embeds once each, in its `definitions`, however often it shows them. `prefix` keeps
    the names of several apart.
    """

    def __init__(self, load: Callable[[str], Image.Image], prefix: str) -> None:
        self._load, self._prefix = load, prefix
        self._sizes: dict[str, tuple[str, int, int]] = {}
        self.definitions = Markup("")

    def overlay(self, name: str, outlines: Sequence[Outline], alt: str) -> Markup:
        """As `overlay`, of the image of that name."""
        if name not in self._sizes:
            image = self._load(name)
            key = f"{self._prefix}{len(self._sizes)}"
            self._sizes[name] = (key, *image.size)
            self.definitions += Markup('<image id="{}" href="{}" width="{}" height="{}"/>').format(
                key, data_uri(image), *image.size
            )
        key, w, h = self._sizes[name]
        return Markup(_SHOT).format(
            w, h, alt, Markup('<use href="#{}"/>').format(key), outlined(outlines, w, h)
        )


def _ticks(low: float, high: float, count: int = 5) -> list[float]:
    raw = (high - low) / count
    magnitude = 10.0 ** math.floor(math.log10(raw)) if raw > 0 else 1.0
    step = next(m * magnitude for m in (1, 2, 2.5, 5, 10) if m * magnitude >= raw)
    first = math.ceil(low / step) * step
    return [round(first + k * step, 10) for k in range(int((high - first) / step + 1e-9) + 1)]


def line_plot(
    title: str,
    series: Sequence[Series],
    x_label: str,
    y_label: str,
    zero: bool = False,
    names: Sequence[str] = (),
) -> Markup:
    """Lines over a shared axis, with bands. Values that are not finite are left out. Empty series give a
    sentence instead of a plot.

    `names`: x is the number of a name, which stands below the axis instead.
    """
    drawn = _drawn(series, x_label, y_label, zero, names)
    if drawn is None:
        return Markup("<p>{}: no figures.</p>").format(title)
    legend = Markup("").join(Markup('<span class="key {}">{}</span>').format(s.kind, s.name) for s in series)
    return Markup(
        '<figure class="plot"><figcaption>{}</figcaption><svg viewBox="0 0 {} {}" role="img" '
        'aria-label="{}">{}</svg>{}</figure>'
    ).format(title, WIDTH, HEIGHT, title, drawn, Markup('<div class="legend">{}</div>').format(legend))


def plot_file(
    title: str,
    series: Sequence[Series],
    x_label: str,
    y_label: str,
    zero: bool = False,
    names: Sequence[str] = (),
) -> str:
    """The same as an SVG file of its own, with title and legend in it."""
    drawn = _drawn(series, x_label, y_label, zero, names) or Markup("")
    lines = [
        Markup('<path class="line {}" d="M{} {}h18"/><text class="tick" x="{}" y="{}">{}</text>').format(
            s.kind, 48, y, 72, y + 4, s.name
        )
        for y, s in ((HEIGHT + 34 + 16 * k, s) for k, s in enumerate(series))
    ]
    height = HEIGHT + 40 + 16 * len(series)
    return Markup(
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {} {}" width="{}" '
        'font-family="sans-serif"><style>{}</style>'
        '<rect class="sheet" width="100%" height="100%"/><text class="tick heading" x="48" y="16">{}</text>'
        '<g transform="translate(0 20)">{}</g>{}</svg>\n'
    ).format(WIDTH, height, int(WIDTH * 1.4), STYLE, title, drawn, Markup("").join(lines))


def _drawn(
    series: Sequence[Series], x_label: str, y_label: str, zero: bool, names: Sequence[str]
) -> Markup | None:
    """Axes, bands and lines in a box of WIDTH x HEIGHT, or None when there is nothing to draw."""
    points = [
        (x, y) for s in series for x, y in zip(s.x, s.y, strict=True) if math.isfinite(x) and math.isfinite(y)
    ]
    points += [
        (x, y) for s in series for x, y in [*zip(s.x, s.low, strict=False), *zip(s.x, s.high, strict=False)]
    ]
    if not points:
        return None
    w, h, left, right, top, bottom = WIDTH, HEIGHT, 48.0, 12.0, 12.0, 40.0
    x_low, x_high = min(p[0] for p in points), max(p[0] for p in points)
    y_low, y_high = min(p[1] for p in points), max(p[1] for p in points)
    y_low, y_high = (min(y_low, 0.0), max(y_high, 0.0)) if zero else (y_low, y_high)
    pad = (y_high - y_low) * 0.06 or 0.5
    y_low, y_high = y_low - pad, y_high + pad
    x_high = x_high if x_high > x_low else x_low + 1

    def at(x: float, y: float) -> str:
        px = left + (x - x_low) / (x_high - x_low) * (w - left - right)
        py = h - bottom - (y - y_low) / (y_high - y_low) * (h - top - bottom)
        return f"{px:.1f},{py:.1f}"

    parts = [
        Markup(
            '<path class="grid" d="M{} L{}"/><text class="tick" x="{}" y="{}" text-anchor="end">{:g}</text>'
        ).format(at(x_low, t), at(x_high, t), left - 6, float(at(x_low, t).split(",")[1]) + 4, t)
        for t in _ticks(y_low, y_high)
    ]
    parts += [
        Markup('<text class="tick" x="{}" y="{}" text-anchor="middle">{}</text>').format(
            at(t, y_low).split(",")[0], h - bottom + 16, text
        )
        for t, text in (
            [(float(k), name) for k, name in enumerate(names)]
            or [(t, f"{t:g}") for t in _ticks(x_low, x_high)]
        )
    ]
    for s in series:
        if s.low and s.high:
            outline = [at(x, y) for x, y in zip(s.x, s.low, strict=True)] + [
                at(x, y) for x, y in reversed(list(zip(s.x, s.high, strict=True)))
            ]
            parts.append(Markup('<polygon class="band {}" points="{}"/>').format(s.kind, " ".join(outline)))
    for s in series:  # above all bands
        line = " ".join(at(x, y) for x, y in zip(s.x, s.y, strict=True) if math.isfinite(y))
        parts.append(Markup('<polyline class="line {}" points="{}"/>').format(s.kind, line))
    parts.append(
        Markup('<text class="tick" x="{}" y="{}" text-anchor="middle">{}</text>').format(
            (w + left) / 2, h - 6, x_label
        )
    )
    parts.append(
        Markup(
            '<text class="tick" x="12" y="{0}" text-anchor="middle" transform="rotate(-90 12 {0})">{1}</text>'
        ).format((h - bottom) / 2, y_label)
    )
    return Markup("").join(parts)


_BAR = (
    '<span class="bar {}" title="{}"><svg viewBox="0 0 1 1" preserveAspectRatio="none" aria-hidden="true">'
    '<rect width="{:.3f}" height="1"/></svg>{}</span>'
)


def bars(rows: Sequence[tuple[str, float | None, float | None]], names: tuple[str, str]) -> Markup:
    """Pairs of horizontal bars (label, first, second) on a scale from 0 to 1; None is written as a dash."""
    parts = []
    for label, *values in rows:
        cells = Markup("").join(
            Markup(_BAR).format(
                kind, f"{name} {label}", max(0.0, min(1.0, v or 0.0)), "–" if v is None else f"{v:.3f}"
            )
            for name, kind, v in zip(names, names, values, strict=True)
        )
        parts.append(Markup('<div class="score"><b>{}</b><div>{}</div></div>').format(label, cells))
    return Markup('<div class="scores">{}</div>').format(Markup("").join(parts))


def marked(
    text: str, spans: Sequence[tuple[int, int, str, str]], quiet: re.Pattern[str] | None = None
) -> Markup:
    """The text with mentions marked; `spans` = (start, end, label, kind), in order, without overlap. What
    `quiet` matches is in small print.
    """

    def said(part: str) -> Markup:
        pieces, last = [], 0
        for m in quiet.finditer(part) if quiet is not None else ():
            pieces += [escape(part[last : m.start()]), Markup("<i>{}</i>").format(m.group())]
            last = m.end()
        return Markup("").join([*pieces, escape(part[last:])])

    parts, last = [], 0
    for start, end, label, kind in spans:
        parts += [
            said(text[last:start]),
            Markup('<mark class="{}"><sup>{}</sup>{}</mark>').format(kind, label, said(text[start:end])),
        ]
        last = end
    return Markup("").join([*parts, said(text[last:])])
