"""Confidence intervals in closed form, without scipy, so that reading commands start fast."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

from introspection_probe.errors import IntrospectionError
from introspection_probe.scoring.counts import PairedCounts


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with the bounds of its confidence interval."""

    estimate: float
    lower: float
    upper: float


def wilson(count: int, total: int, confidence: float = 0.95) -> Interval | None:
    """Wilson's score interval of a rate, without continuity correction (E. B. Wilson 1927).

    Returns:
        The interval, or None when ``total`` is 0: nothing was measured.

    Raises:
        IntrospectionError: a count outside 0..total, or a confidence outside (0, 1).

    >>> interval = wilson(8, 10)
    >>> round(interval.lower, 3), round(interval.upper, 3)
    (0.49, 0.943)
    """
    z = _z(confidence)
    if not 0 <= count <= total:
        raise IntrospectionError(f"a count of {count} out of {total} is impossible: it must lie in 0..{total}")
    if total == 0:
        return None
    p = count / total
    centre = (p + z * z / (2 * total)) / (1 + z * z / total)
    half = z * sqrt(p * (1 - p) / total + z * z / (4 * total * total)) / (1 + z * z / total)
    # At 0 and at total the bound is exactly 0 and 1; rounding must not put it beside the estimate.
    return Interval(p, 0.0 if count == 0 else centre - half, 1.0 if count == total else centre + half)


def paired_difference(paired: PairedCounts, confidence: float = 0.95) -> Interval | None:
    """The coupling gap, Self EM - Orig EM, with its interval; None when no example was measured.

    Raises:
        IntrospectionError: as :func:`newcombe`.
    """
    return newcombe(paired.both, paired.self_only, paired.orig_only, paired.neither, confidence)


def newcombe(both: int, first_only: int, second_only: int, neither: int, confidence: float = 0.95) -> Interval | None:
    """Interval of the difference of two rates on the same examples: R. G. Newcombe 1998, method 10.

    "Improved confidence intervals for the difference between binomial proportions based on paired data",
    Statistics in Medicine 17: the two Wilson intervals combined by square-and-add, with the
    continuity-corrected correlation between the rates.

    Args:
        both, first_only, second_only, neither: how many examples each of the two got right.

    Returns:
        The interval of first - second, or None when all counts are 0.

    Raises:
        IntrospectionError: a negative count, or a confidence outside (0, 1).
    """
    if min(both, first_only, second_only, neither) < 0:
        raise IntrospectionError(
            f"counts of {both}, {first_only}, {second_only}, {neither} are impossible: none may be negative"
        )
    n = both + first_only + second_only + neither
    first = wilson(both + first_only, n, confidence)
    second = wilson(both + second_only, n, confidence)
    if first is None or second is None:
        return None
    correlation = _correlation(both, first_only, second_only, neither)
    estimate = (first_only - second_only) / n
    return Interval(
        estimate,
        estimate - _square_and_add(first.estimate - first.lower, second.upper - second.estimate, correlation),
        estimate + _square_and_add(first.upper - first.estimate, second.estimate - second.lower, correlation),
    )


def difference(earlier: Interval, later: Interval, correlation: float = 0.0) -> Interval:
    """``later - earlier`` with the interval that follows from theirs (MOVER; G. Y. Zou and A. Donner 2008).

    Args:
        correlation: of the two estimates. 0 takes them for independent, which is on the safe side where they are of
            the same examples, whose results mostly go together.
    """
    estimate = later.estimate - earlier.estimate
    below = _square_and_add(later.estimate - later.lower, earlier.upper - earlier.estimate, correlation)
    above = _square_and_add(later.upper - later.estimate, earlier.estimate - earlier.lower, correlation)
    return Interval(estimate, estimate - below, estimate + above)


def _correlation(both: int, first_only: int, second_only: int, neither: int) -> float:
    margins = (both + first_only) * (second_only + neither) * (both + second_only) * (first_only + neither)
    if margins == 0:
        return 0.0
    n = both + first_only + second_only + neither
    association: float = both * neither - first_only * second_only
    if association > 0:
        association = max(association - n / 2, 0.0)
    return association / sqrt(margins)


def _square_and_add(below: float, above: float, correlation: float) -> float:
    return sqrt(max(below * below - 2 * correlation * below * above + above * above, 0.0))


def _z(confidence: float) -> float:
    if not 0 < confidence < 1:
        raise IntrospectionError(f"a confidence of {confidence} is impossible: give one between 0 and 1")
    if confidence == 0.95:
        return 1.959963984540054  # statistics takes 10 ms to import, and nearly every caller wants this one
    from statistics import NormalDist

    return NormalDist().inv_cdf((1 + confidence) / 2)
