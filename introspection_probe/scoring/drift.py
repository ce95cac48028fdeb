"""Has something really changed? Exact tests, an error budget over the looks of a run, change-points.

The p-value functions take numbers or numpy arrays alike, so that a benchmark can judge a million rounds with the very
code that judges one. numpy and scipy are imported where they are used: reading commands do without them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import pi
from typing import TYPE_CHECKING

from introspection_probe.scoring.sign_test import sign_p

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

# Rounds on either side that a change-point is tested over: few, so that the step stays sharp.
WINDOWS = (1, 2, 4)
# A shift is sharp when a step leaves at most this part of what a straight line leaves unexplained around it.
SHARP = 0.5


def spend(budget: float, index: int) -> float:
    """The part of an error budget that the ``index``-th look (from 1) may use: budget * 6 / (pi^2 index^2).

    The parts add up to the budget over endlessly many looks, so by the union bound the chance of even one false alarm
    in a whole run is at most the budget, whatever the dependence between rounds and however long the run.

    >>> round(sum(spend(0.01, k) for k in range(1, 100_000)), 6)
    0.01
    """
    return budget * 6 / (pi * index) ** 2


def fall_p(lost: ArrayLike, gained: ArrayLike) -> NDArray[np.float64]:
    """One-sided exact McNemar test: P(Binomial(lost + gained, 1/2) >= lost).

    Args:
        lost: examples that were right and are wrong.
        gained: examples that were wrong and are right.

    Returns:
        The chance of at least so lopsided a fall when losses and gains are equally likely; 1 without either.
    """
    import numpy as np

    total = np.asarray(lost) + np.asarray(gained)
    return above_p(lost, total, 0.5)


def above_p(count: ArrayLike, total: ArrayLike, rate: ArrayLike) -> NDArray[np.float64]:
    """Exact binomial test that a rate lies above ``rate``: P(Binomial(total, rate) >= count)."""
    import numpy as np
    from scipy.special import bdtrc

    count, total = np.asarray(count, dtype=np.float64), np.asarray(total, dtype=np.int64)
    # bdtrc(k, ...) is P(> k), and is not defined at k = -1.
    tail: NDArray[np.float64] = np.where(count > 0, bdtrc(np.maximum(count - 1, 0), total, rate), 1.0)
    return tail


def below_p(count: ArrayLike, total: ArrayLike, rate: ArrayLike) -> NDArray[np.float64]:
    """Exact binomial test that a rate lies below ``rate``: P(Binomial(total, rate) <= count)."""
    import numpy as np
    from scipy.special import bdtr

    tail: NDArray[np.float64] = bdtr(np.asarray(count, dtype=np.float64), np.asarray(total, dtype=np.int64), rate)
    return tail


@dataclass(frozen=True, slots=True)
class ChangePoint:
    """A sharp shift between two neighbouring rounds.

    Attributes:
        after_step: step of the last round before the shift.
        step: step of the first round after it: the shift happened in between.
        before, after: share of examples that were right, over the rounds of the window on either side.
        p: of the exact sign test over the examples, before any correction for the places looked at.
    """

    after_step: int
    step: int
    before: float
    after: float
    p: float


def change_points(
    steps: Sequence[int],
    matched: Sequence[bytes],
    *,
    alpha: float = 0.01,
    min_effect: float = 0.05,
    levels: Sequence[float] | None = None,
) -> list[ChangePoint]:
    """The sharp shifts in a series of rounds over the same examples, in order.

    Every place between two rounds is tested over 1, 2 and 4 rounds on either side: for each example, how often it was
    right before against how often after, in a two-sided exact sign test. Were the rounds exchangeable, either sign
    would be equally likely, so the test is exact whatever the examples' own rates. The budget is spent over the places
    and the windows: the chance of even one false change-point is at most ``alpha``, however often the growing series
    is looked at. Needs neither numpy nor scipy: reports call it, too.

    Args:
        steps: K steps.
        matched: K times n bytes, 1 where the example was right, 0 where it was wrong, anything else where it was not
            asked (such an example is left out of the windows that hold the round). Earlier rows may be shorter.
        min_effect: shifts of a smaller share of the examples are left out.
        levels: K shares of right examples, where they are known anyway. Then rows are looked at only where the levels
            shift by ``min_effect``, which is everywhere that matters as long as all rounds ask the same examples.
    """
    known = levels is not None
    level = levels if levels is not None else [row.count(1) / max(row.count(0) + row.count(1), 1) for row in matched]
    lanes: dict[int, _Lanes] = {}

    def row(place: int) -> _Lanes:
        if place not in lanes:
            lanes[place] = _Lanes.of(matched[place])
        return lanes[place]

    found: dict[int, ChangePoint] = {}
    for place in range(1, len(steps)):
        windows = [window for window in WINDOWS if window <= min(place, len(steps) - place)]
        if known and not any(
            abs(sum(level[place : place + window]) - sum(level[place - window : place])) >= min_effect * window
            for window in windows
        ):
            continue
        if not _is_step(level[max(place - max(WINDOWS), 0) : place], level[place : place + max(WINDOWS)]):
            continue
        for window in windows:
            shift = _shift(
                [row(index) for index in range(place - window, place)],
                [row(index) for index in range(place, place + window)],
            )
            if abs(shift.after - shift.before) < min_effect:
                continue
            p = sign_p(shift.down, shift.up)
            if p <= spend(alpha, place) / len(WINDOWS) and (place not in found or p < found[place].p):
                found[place] = ChangePoint(steps[place - 1], steps[place], shift.before, shift.after, p)
    return _without_shadows(found)


@dataclass(frozen=True, slots=True)
class _Lanes:
    """A round as two whole numbers with a byte for each example, 1 or 0: what was asked, and what was right.

    Such numbers add up round by round, all examples at once, and no byte ever reaches its neighbour.
    """

    asked: int
    right: int

    @classmethod
    def of(cls, row: bytes) -> _Lanes:
        asked = row.translate(_ASKED)
        return cls(int.from_bytes(asked, "little"), int.from_bytes(row.translate(_RIGHT), "little"))


_ASKED = bytes(value <= 1 for value in range(256))
_RIGHT = bytes(value == 1 for value in range(256))


@dataclass(frozen=True, slots=True)
class _Shift:
    """Shares right before and after, and how many examples were right less often (``down``) and more often after."""

    before: float
    after: float
    down: int
    up: int


def _shift(before: Sequence[_Lanes], after: Sequence[_Lanes]) -> _Shift:
    """Compare as many rounds before as after, at most seven, over the examples that all of them asked."""
    asked = before[0].asked
    for lanes in (*before, *after):
        asked &= lanes.asked
    total = asked.bit_count() * len(before)
    earlier, later = (sum(lanes.right & asked for lanes in side) for side in (before, after))
    # 8 + after - before in each byte: it stays above 0, so nothing is borrowed from the neighbour, and bit 3 says
    # whether the example was right no less often than before.
    difference = 8 * asked + later - earlier
    no_less = (difference >> 3) & asked
    up = (difference | difference >> 1 | difference >> 2) & no_less
    right = [sum((lanes.right & asked).bit_count() for lanes in side) for side in (before, after)]
    return _Shift(
        before=right[0] / max(total, 1),
        after=right[1] / max(total, 1),
        down=asked.bit_count() - no_less.bit_count(),
        up=up.bit_count(),
    )


def _is_step(before: Sequence[float], after: Sequence[float]) -> bool:
    """Whether the levels around a place look like a step rather than a slope. Three rounds cannot tell."""
    levels = [*before, *after]
    if len(levels) < 4:
        return True
    off_line = _scatter(levels) - _explained(levels)
    return _scatter(before) + _scatter(after) <= SHARP * off_line


def _scatter(levels: Sequence[float]) -> float:
    """Sum of squares around the mean."""
    mean = sum(levels) / len(levels)
    return sum((level - mean) ** 2 for level in levels)


def _explained(levels: Sequence[float]) -> float:
    """How much of their scatter the best straight line over equally spaced rounds explains."""
    middle, mean = (len(levels) - 1) / 2, sum(levels) / len(levels)
    together = sum((time - middle) * (level - mean) for time, level in enumerate(levels))
    return together**2 / sum((time - middle) ** 2 for time in range(len(levels)))


def _without_shadows(found: Mapping[int, ChangePoint]) -> list[ChangePoint]:
    """Of shifts in one direction whose windows overlap, the one with the smallest p: the others are its shadow."""
    kept: dict[int, ChangePoint] = {}
    for place, point in sorted(found.items(), key=lambda item: item[1].p):
        if not any(
            abs(other - place) < 2 * max(WINDOWS) and (shift.after > shift.before) == (point.after > point.before)
            for other, shift in kept.items()
        ):
            kept[place] = point
    return [kept[place] for place in sorted(kept)]
