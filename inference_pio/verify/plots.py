"""Small plots as inline SVG; colours come from the page's style sheet, so that they follow light and dark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

WIDTH, HEIGHT = 460, 220
LEFT, RIGHT, TOP, BOTTOM = 74, 12, 12, 38
PLOT_WIDTH, PLOT_HEIGHT = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM


@dataclass(frozen=True)
class Series:
    """A line: its `kind` is a class of the style sheet (original, artifact)."""

    label: str
    kind: str
    values: Sequence[float | None]


def histogram(edges: Sequence[float], counts: Sequence[int], marker: float | None, marker_label: str) -> Markup:
    """Bars over log10 edges, from the first to the last that is not empty, and a marked value on the same axis."""
    used = [index for index, count in enumerate(counts) if count]
    first, last = (used[0], used[-1] + 1) if used else (0, len(counts))
    low, high = edges[first], edges[last]
    if marker is not None and marker > 0:
        low, high = min(low, math.log10(marker)), max(high, math.log10(marker))
    low, high = math.floor(low), math.ceil(high) if math.ceil(high) > math.floor(low) else math.floor(low) + 1
    top = nice_top(max(counts, default=0))

    def x(value: float) -> float:
        return LEFT + (value - low) / (high - low) * PLOT_WIDTH

    parts = [_y_axis(top, "positions")]
    for index in range(first, last):
        height = counts[index] / top * PLOT_HEIGHT
        title = f"1e{edges[index]:g} to 1e{edges[index + 1]:g}: {counts[index]} positions"
        parts.append(
            f'<rect class="bar" x="{x(edges[index]) + 1:.1f}" y="{TOP + PLOT_HEIGHT - height:.1f}" '
            f'width="{max(1.0, x(edges[index + 1]) - x(edges[index]) - 2):.1f}" height="{height:.1f}">'
            f"<title>{title}</title></rect>"
        )
    step = max(1, math.ceil((high - low) / 8))
    for decade in range(low, high + 1, step):
        parts.append(_x_label(x(decade), f"1e{decade}"))
    if marker is not None and marker > 0:
        parts.append(_marker(x(math.log10(marker)), marker_label))
    return _svg("Histogram of KL per position", parts, "KL of a position, nats")


def lines(title: str, x_labels: Sequence[str], x_name: str, y_name: str, series: Sequence[Series]) -> Markup:
    """Lines over equally spaced places, from zero up; a value that is None is left out."""
    known = [value for line in series for value in line.values if value is not None]
    top = nice_top(max(known, default=0.0))
    count = len(x_labels)

    def x(index: int) -> float:
        return LEFT + (index + 0.5) / count * PLOT_WIDTH

    parts = [_y_axis(top, y_name)]
    for line in series:
        points = [
            (x(index), TOP + PLOT_HEIGHT * (1 - value / top), value, x_labels[index])
            for index, value in enumerate(line.values)
            if value is not None
        ]
        path = " ".join(f"{px:.1f},{py:.1f}" for px, py, _, _ in points)
        parts.append(f'<polyline class="line {line.kind}" points="{path}"/>')
        for px, py, value, label in points:
            note = escape(f"{line.label}, {label}: {number(value)}")
            parts.append(
                f'<circle class="dot {line.kind}" cx="{px:.1f}" cy="{py:.1f}" r="3"><title>{note}</title></circle>'
            )
    step = max(1, math.ceil(count / 8))
    parts += [_x_label(x(index), x_labels[index]) for index in range(0, count, step)]
    return _svg(title, parts, x_name)


def bars(title: str, rows: Sequence[tuple[str, str, float | None]], limit: float | None) -> Markup:
    """Horizontal bars (label, kind, value) on one scale from zero, with the allowed value marked."""
    known = [value for _, _, value in rows if value is not None] + ([limit] if limit is not None else [])
    top = nice_top(max(known, default=0.0))
    left, height = 96, 34
    width = WIDTH - left - RIGHT
    parts = []
    for index, (label, kind, value) in enumerate(rows):
        y = TOP + index * height
        parts.append(f'<text class="tick end" x="{left - 8}" y="{y + 17}">{escape(label)}</text>')
        length = 0.0 if value is None else value / top * width
        parts.append(f'<rect class="bar {kind}" x="{left}" y="{y + 4}" width="{length:.1f}" height="18"/>')
        anchor = "end" if length > width * 0.3 else "start"
        place = left + length + (-6 if anchor == "end" else 6)
        inside = " inside" if anchor == "end" else ""
        parts.append(
            f'<text class="value{inside}" text-anchor="{anchor}" x="{place:.1f}" y="{y + 18}">{number(value)}</text>'
        )
    bottom = TOP + len(rows) * height
    if limit is not None:
        at = left + limit / top * width
        parts.append(f'<line class="marker" x1="{at:.1f}" x2="{at:.1f}" y1="{TOP}" y2="{bottom}"/>')
        anchor = "end" if at > WIDTH / 2 else "start"
        parts.append(
            f'<text class="tick" text-anchor="{anchor}" x="{at:.1f}" y="{bottom + 14}">allowed {number(limit)}</text>'
        )
    return _wrap(title, parts, bottom + 22)


def number(value: float | None) -> str:
    """A figure for people: four significant digits, powers of ten where it is very small or large."""
    if value is None:
        return "not finite"
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        return f"{value:.4g}"
    return f"{value:.2e}"


def nice_top(value: float) -> float:
    """The smallest round number (one digit, 1.5 or 2.5, times a power of ten) not below `value`; 1 for zero."""
    if value <= 0 or not math.isfinite(value):
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10) if step * power >= value * (1 - 1e-12))


def _y_axis(top: float, name: str) -> str:
    parts = []
    for quarter in range(5):
        y = TOP + PLOT_HEIGHT * (1 - quarter / 4)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        if quarter % 2 == 0:
            parts.append(f'<text class="tick end" x="{LEFT - 6}" y="{y + 4:.1f}">{number(top * quarter / 4)}</text>')
    middle = TOP + PLOT_HEIGHT / 2
    parts.append(
        f'<text class="axis" x="12" y="{middle:.1f}" transform="rotate(-90 12 {middle:.1f})">{escape(name)}</text>'
    )
    return "".join(parts)


def _x_label(x: float, text: str) -> str:
    return f'<text class="tick middle" x="{x:.1f}" y="{TOP + PLOT_HEIGHT + 15}">{escape(text)}</text>'


def _marker(x: float, text: str) -> str:
    anchor = "end" if x > WIDTH / 2 else "start"
    shift = -4 if anchor == "end" else 4
    return (
        f'<line class="marker" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{TOP + PLOT_HEIGHT}"/>'
        f'<text class="tick" text-anchor="{anchor}" x="{x + shift:.1f}" y="{TOP + 10}">{escape(text)}</text>'
    )


def _svg(title: str, parts: Sequence[str], x_name: str) -> Markup:
    axis = f'<text class="axis" x="{LEFT + PLOT_WIDTH / 2:.1f}" y="{HEIGHT - 6}">{escape(x_name)}</text>'
    return _wrap(title, [*parts, axis], HEIGHT)


def _wrap(title: str, parts: Sequence[str], height: int) -> Markup:
    # Every piece above is markup made here; text from outside went through escape().
    return Markup(f'<svg role="img" viewBox="0 0 {WIDTH} {height}" aria-label="{escape(title)}">{"".join(parts)}</svg>')
