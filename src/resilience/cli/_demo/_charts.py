"""
Line charts as inline SVG: what the report draws with.

Colours come from the page, so that one drawing serves dark and light; lines differ in their dashes too, and
every drawing says in words what it shows.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

WIDTH: Final = 560
HEIGHT: Final = 210
LEFT: Final = 44
RIGHT: Final = 12
TOP: Final = 12
BOTTOM: Final = 34
TICKS: Final = 5
"""About so many lines of the grid."""

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Series:
    """One line: its name, which is its class in CSS too, and its points from left to right."""

    name: str
    points: Sequence[Point]


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """
    One drawing.

    Attributes:
        key: Its id in the page.
        title: What it shows, with the unit.
        seconds: Length of the axis of time.
        series: The lines.
        fault: When something is wrong, or None.
        least_top: The axis of values reaches this high at least.

    """

    key: str
    title: str
    seconds: float
    series: Sequence[Series]
    fault: tuple[float, float] | None = None
    least_top: float = 1.0


def step(top: float, ticks: int = TICKS) -> float:
    """
    Return the distance of round numbers of which about *ticks* reach *top*.

    Example:
        >>> step(60.0), step(7.0), step(0.4)
        (20.0, 2.0, 0.1)

    """
    rough = top / ticks
    magnitude = 10.0 ** math.floor(math.log10(rough))
    return next(factor * magnitude for factor in (1, 2, 5, 10) if factor * magnitude >= rough * 0.999)


def number(value: float) -> str:
    """Return a number as short as it can be."""
    return f"{value:.6g}"


def label(anchor: str, x: str, y: float, text: str) -> str:
    """Return a label of an axis."""
    return f'<text class="tick" text-anchor="{anchor}" x="{x}" y="{y:.1f}">{text}</text>'


def svg(chart: Chart) -> str:
    """Return the drawing as an element of HTML."""
    highest = max((y for series in chart.series for _, y in series.points), default=0.0)
    grid = step(max(chart.least_top, highest))
    top = grid * math.ceil(max(chart.least_top, highest) / grid - 1e-9)
    wide, high = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def x(value: float) -> str:
        return f"{LEFT + wide * min(value, chart.seconds) / chart.seconds:.1f}"

    def y(value: float) -> str:
        return f"{TOP + high * (1 - value / top):.1f}"

    parts: list[str] = []
    if chart.fault is not None:
        begin, end = chart.fault
        width = float(x(end)) - float(x(begin))
        parts.append(
            f'<rect class="fault" x="{x(begin)}" y="{TOP}" width="{width:.1f}" height="{high}"/>'
            f'<text class="fault-label" x="{float(x(begin)) + 5:.1f}" y="{TOP + 13}">fault</text>'
        )
    for count in range(round(top / grid) + 1):
        value = count * grid
        parts.append(
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(value)}" y2="{y(value)}"/>'
            + label("end", str(LEFT - 6), float(y(value)) + 4, number(value))
        )
    along = step(chart.seconds, 6)
    for count in range(math.floor(chart.seconds / along + 1e-9) + 1):
        value = count * along
        parts.append(label("middle", x(value), HEIGHT - BOTTOM + 17, number(value)))
    parts.append(label("end", str(WIDTH - RIGHT), HEIGHT - 3, "seconds"))
    for series in chart.series:
        inside = [(at, value) for at, value in series.points if 0 <= at <= chart.seconds]
        points = " ".join(f"{x(at)},{y(max(0.0, value))}" for at, value in inside)
        if points:
            parts.append(f'<polyline class="line {series.name}" points="{points}"/>')
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-labelledby="{chart.key}-t {chart.key}-d">'
        f'<title id="{chart.key}-t">{escape(chart.title)}</title>'
        f'<desc id="{chart.key}-d">{escape(_in_words(chart))}</desc>{"".join(parts)}</svg>'
    )


def _in_words(chart: Chart) -> str:
    """Return what the lines do, for who does not see them."""
    said: list[str] = []
    spans = [("all of it", (0.0, chart.seconds))]
    if chart.fault is not None:
        spans = [
            ("before the fault", (0.0, chart.fault[0])),
            ("during it", chart.fault),
            ("after it", (chart.fault[1], chart.seconds)),
        ]
    for series in chart.series:
        means: list[str] = []
        for name, (begin, end) in spans:
            values = [value for at, value in series.points if begin <= at < end]
            if values:
                means.append(f"{sum(values) / len(values):.1f} {name}")
        said.append(f"{series.name}: on average {', '.join(means)}." if means else f"{series.name}: nothing.")
    return " ".join(said)
