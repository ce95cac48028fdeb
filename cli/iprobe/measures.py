"""The rows of the report's table: which numbers, in which order, with which interval.

A row reads a :class:`RoundScores`; it never computes a score of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from introspection_probe.scoring import Interval, RoundScores, paired_difference, wilson
from introspection_probe.scoring.intervals import difference

Kind = Literal["ratio", "difference", "count"]


@dataclass(frozen=True, slots=True)
class Measure:
    """One row: its name in JSON, its label, its short label for narrow terminals, and how it is read.

    Attributes:
        group: rows of a group stand together.
        interval: the 95% interval, or None for a number that has none in closed form (F1, counts).
    """

    key: str
    label: str
    short: str
    group: int
    kind: Kind
    value: Callable[[RoundScores], float | None]
    interval: Callable[[RoundScores], Interval | None] | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """A measure over the rounds of a run: first, last, their difference, and the whole curve.

    ``change`` and its interval are None with fewer than two rounds, or where an end was not measured. The interval
    takes the two rounds for independent samples. They are over the same examples, so the true one is narrower.
    """

    measure: Measure
    baseline: float | None
    baseline_interval: Interval | None
    latest: float | None
    latest_interval: Interval | None
    change: float | None
    change_interval: Interval | None
    curve: tuple[float | None, ...]


def _rate(
    key: str,
    label: str,
    short: str,
    group: int,
    counts: Callable[[RoundScores], tuple[int, int]],
) -> Measure:
    """A measure that is a count over a total, with Wilson's interval."""

    def value(scores: RoundScores) -> float | None:
        count, total = counts(scores)
        return count / total if total else None

    return Measure(key, label, short, group, "ratio", value, lambda scores: wilson(*counts(scores)))


MEASURES: tuple[Measure, ...] = (
    _rate("self_exact_match", "Self EM", "Self EM", 0, lambda s: (s.self_scores.exact_matches, s.n)),
    _rate("orig_exact_match", "Orig EM", "Orig EM", 0, lambda s: (s.orig_scores.exact_matches, s.n)),
    Measure(
        "coupling_gap",
        "Coupling gap",
        "Coupling gap",
        0,
        "difference",
        lambda s: s.paired.estimate,
        lambda s: paired_difference(s.paired),
    ),
    _rate(
        "constant_match",
        "Best constant (Self)",
        "Best constant",
        0,
        lambda s: (s.self_scores.constant_matches, s.n),
    ),
    _rate(
        "self_share",
        "Self share",
        "Self share",
        0,
        lambda s: (s.paired.self_only, s.paired.self_only + s.paired.orig_only),
    ),
    _rate("content_match", "Content match", "Content match", 1, lambda s: (s.self_scores.content_matches, s.n)),
    Measure("changed_f1", "Changed F1", "Changed F1", 1, "ratio", lambda s: s.self_scores.changed_f1),
    Measure("unchanged_f1", "Unchanged F1", "Unchanged F1", 1, "ratio", lambda s: s.self_scores.unchanged_f1),
    _rate(
        "predicted_changed_share",
        "Says “changed”",
        "Says “changed”",
        1,
        lambda s: (s.predicted_changed, s.predicted_changed + s.predicted_unchanged),
    ),
    _rate(
        "behavior_changed_share",
        "Truly changed",
        "Truly changed",
        1,
        lambda s: (s.behavior_changed, s.n),
    ),
    Measure("parse_failures", "Parse failures", "Parse failures", 1, "count", lambda s: float(s.parse_failures)),
    _rate("behavior_both", "Behaviour EM", "Behaviour EM", 2, lambda s: (s.behavior.both_matches, s.behavior.n)),
    _rate(
        "behavior_included",
        "  cue included",
        "  included",
        2,
        lambda s: (s.behavior.included_matches, s.behavior.n),
    ),
    _rate(
        "behavior_ablated",
        "  cue ablated",
        "  ablated",
        2,
        lambda s: (s.behavior.ablated_matches, s.behavior.n),
    ),
    _rate(
        "label_agreement",
        "Label agreement",
        "Label agreement",
        2,
        lambda s: (s.label_agreement_matches, s.n),
    ),
)


def rows(rounds: Sequence[RoundScores]) -> list[Row]:
    """Every measure over the scored rounds of one task, oldest first; an empty list when there is no round."""
    return [_row(measure, rounds) for measure in MEASURES] if rounds else []


def _row(measure: Measure, rounds: Sequence[RoundScores]) -> Row:
    def interval(scores: RoundScores) -> Interval | None:
        return measure.interval(scores) if measure.interval is not None else None

    curve = tuple(measure.value(scores) for scores in rounds)
    first, last = interval(rounds[0]), interval(rounds[-1])
    several = len(rounds) > 1
    known = several and curve[0] is not None and curve[-1] is not None
    return Row(
        measure=measure,
        baseline=curve[0],
        baseline_interval=first,
        latest=curve[-1],
        latest_interval=last,
        change=curve[-1] - curve[0] if known else None,  # type: ignore[operator]  # known says both are numbers
        change_interval=difference(first, last) if several and first and last else None,
        curve=curve,
    )
