"""Curves as geometry: where lines, bands, marks and labels stand, in percent of the chart's area.

Pure functions of plain values, without markup and without colours; a value of None is a gap in the line, never 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from introspection_probe.scoring import Interval

# With more rounds than this, marks run into a thick line; only ends and lone points keep theirs.
_MARKS = 40
# The height of a line of text, in percent of the height of a chart.
_LABEL = 8.0
_X_TICKS = 5

Look = Literal["self", "orig", "plain", "first", "second", "third"]
"""How a series is drawn. Each look has its own dash and mark besides its colour."""


@dataclass(frozen=True, slots=True)
class Scale:
    """The vertical axis: its ends, its ticks from bottom to top, and whether they carry a sign."""

    lower: float
    upper: float
    ticks: tuple[float, ...]
    signed: bool = False
    decimals: int = 2

    def y(self, value: float) -> float:
        """Percent from the top."""
        return 100 * (self.upper - value) / (self.upper - self.lower)


RATIO = Scale(0.0, 1.0, (0.0, 0.25, 0.5, 0.75, 1.0))
"""Shares are always drawn from 0 to 1, so that two charts can be compared with the eye."""


@dataclass(frozen=True, slots=True)
class Series:
    """One curve over the rounds.

    Attributes:
        values: one a round.
        intervals: one a round, or none at all.
        latest: the last value as text, written at the end of the curve.
    """

    name: str
    look: Look
    values: Sequence[float | None]
    intervals: Sequence[Interval | None] = ()
    latest: str = ""


@dataclass(frozen=True, slots=True)
class Mark:
    """A round's point. ``low`` and ``high`` are the ends of its interval where no band can show it."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Label:
    """A text at a height."""

    y: float
    text: str


@dataclass(frozen=True, slots=True)
class Curve:
    """A series, drawn. ``line`` and ``band`` are SVG path data in a box of 1000 by 1000; empty where there is none."""

    name: str
    look: Look
    line: str
    band: str
    marks: tuple[Mark, ...]
    label: Label | None


@dataclass(frozen=True, slots=True)
class Tick:
    """A tick of the horizontal axis; ``minor`` ones may be left out where there is little room."""

    x: float
    text: str
    minor: bool


@dataclass(frozen=True, slots=True)
class Column:
    """The stretch of the chart that is nearer to one round than to any other."""

    left: float
    width: float
    x: float
    index: int


@dataclass(frozen=True, slots=True)
class Drawing:
    """A chart: its curves and both axes."""

    curves: tuple[Curve, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Label, ...]
    columns: tuple[Column, ...]


@dataclass(frozen=True, slots=True)
class Axis:
    """The horizontal axis, shared by all charts of a task: training steps."""

    first: int
    last: int

    @classmethod
    def over(cls, steps: Sequence[int]) -> Axis:
        """From the first of these steps to the last; at least one is needed."""
        return cls(min(steps), max(steps))

    def x(self, step: int) -> float:
        """Percent from the left; the middle where there is only one step."""
        return 50.0 if self.first == self.last else 100 * (step - self.first) / (self.last - self.first)

    def ticks(self) -> tuple[Tick, ...]:
        """Round steps, at most six of them."""
        if self.first == self.last:
            return (Tick(50.0, f"{self.first:,}", minor=False),)
        size = _nice((self.last - self.first) / _X_TICKS, whole=True)
        start = -(-self.first // size)
        steps = [index * size for index in range(int(start), int(self.last // size) + 1)]
        return tuple(Tick(self.x(int(step)), f"{int(step):,}", bool(i % 2)) for i, step in enumerate(steps))


def difference_scale(intervals: Sequence[Interval | None], values: Sequence[float | None]) -> Scale:
    """An axis around 0 for differences: wide enough for all, and never so fine that noise looks like a mountain."""
    ends = [v for v in values if v is not None]
    ends += [end for interval in intervals if interval is not None for end in (interval.lower, interval.upper)]
    low, high = min([-0.1, *ends]), max([0.1, *ends])
    size = _nice((high - low) / 4)
    bottom, top = math.floor(low / size - 1e-9), math.ceil(high / size - 1e-9)
    return Scale(bottom * size, top * size, tuple(index * size for index in range(bottom, top + 1)), signed=True)


def zero_scale(values: Sequence[float | None]) -> Scale:
    """An axis from 0 up for what has no upper end, such as losses."""
    top = max([value for value in values if value is not None and value > 0], default=1.0)
    size = _nice(top / 4)
    count = math.ceil(top / size - 1e-9)
    decimals = max(2, math.ceil(-math.log10(size) - 1e-9))
    return Scale(0.0, count * size, tuple(index * size for index in range(count + 1)), decimals=decimals)


def draw(axis: Axis, steps: Sequence[int], series: Sequence[Series], scale: Scale, *, columns: int = 60) -> Drawing:
    """The chart of these series, each with one value a step.

    Args:
        steps: ascending.
        columns: with more rounds than this the chart has no columns to point at.
    """
    xs = [axis.x(step) for step in steps]
    return Drawing(
        curves=_with_labels([_curve(xs, one, scale) for one in series], series, scale),
        x_ticks=axis.ticks(),
        y_ticks=tuple(Label(scale.y(value), _tick_text(value, scale)) for value in scale.ticks),
        columns=_columns(xs) if len(xs) <= columns else (),
    )


def _curve(xs: Sequence[float], series: Series, scale: Scale) -> Curve:
    intervals = series.intervals or [None] * len(xs)
    ys = [None if value is None else scale.y(value) for value in series.values]
    lines, bands, marks = [], [], []
    for stretch in _stretches(ys):
        points = [(xs[index], y) for index in stretch if (y := ys[index]) is not None]
        if len(points) > 1:
            lines.append(_path(points))
        for index in stretch:
            interval, y = intervals[index], ys[index]
            alone = len(points) == 1
            if y is not None and (alone or len(xs) <= _MARKS or index == len(xs) - 1):
                shown = alone and interval is not None
                marks.append(
                    Mark(
                        xs[index],
                        y,
                        scale.y(interval.lower) if shown and interval is not None else None,
                        scale.y(interval.upper) if shown and interval is not None else None,
                    )
                )
        known = [(xs[index], interval) for index in stretch if (interval := intervals[index]) is not None]
        if len(known) > 1:
            above = [(x, scale.y(interval.upper)) for x, interval in known]
            below = [(x, scale.y(interval.lower)) for x, interval in reversed(known)]
            bands.append(_path([*above, *below]) + "Z")
    return Curve(series.name, series.look, "".join(lines), "".join(bands), tuple(marks), None)


def _stretches(ys: Sequence[float | None]) -> Iterator[list[int]]:
    """The indices of neighbouring values, without the gaps between them."""
    stretch: list[int] = []
    for index, y in enumerate(ys):
        if y is not None:
            stretch.append(index)
        elif stretch:
            yield stretch
            stretch = []
    if stretch:
        yield stretch


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{10 * x:.1f} {10 * y:.1f}" for x, y in points)


def _with_labels(curves: Sequence[Curve], series: Sequence[Series], scale: Scale) -> tuple[Curve, ...]:
    """The curves with their last values written beside them, no two over each other."""
    ends = {i: scale.y(last) for i, one in enumerate(series) if one.latest and (last := one.values[-1]) is not None}
    places = dict(zip(sorted(ends, key=lambda i: ends[i]), _spread(sorted(ends.values())), strict=True))
    return tuple(
        Curve(c.name, c.look, c.line, c.band, c.marks, Label(places[i], series[i].latest) if i in places else None)
        for i, c in enumerate(curves)
    )


def _spread(heights: Sequence[float]) -> list[float]:
    """Ascending heights, moved as little as is needed to be a line of text apart, within the chart."""
    placed: list[float] = []
    for height in heights:
        placed.append(max(height, placed[-1] + _LABEL) if placed else height)
    limit = 100.0
    for index in range(len(placed) - 1, -1, -1):
        placed[index] = min(placed[index], limit)
        limit = placed[index] - _LABEL
    return placed


def _columns(xs: Sequence[float]) -> tuple[Column, ...]:
    edges = [0.0, *((a + b) / 2 for a, b in pairwise(xs)), 100.0]
    return tuple(Column(edges[i], edges[i + 1] - edges[i], x, i) for i, x in enumerate(xs))


def _nice(size: float, *, whole: bool = False) -> float:
    """The next 1, 2 or 5 times a power of ten, from ``size`` up."""
    power = 10.0 ** math.floor(math.log10(size))
    nice = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= size * (1 - 1e-9))
    return max(1.0, nice) if whole else nice


def _tick_text(value: float, scale: Scale) -> str:
    text = f"{value:{'+' if scale.signed else ''}.{scale.decimals}f}"
    if float(text) == 0:
        return "0"
    return text.rstrip("0").removesuffix(".").replace("-", "\u2212")
