"""Two rounds against each other on the same examples, and what may be said of the difference in words.

The rounds are called A and B: of two runs, or of one. Every p-value is exact, two-sided and paired: McNemar's test
for what an example meets or not, its extension to differences of size 1 and 2, the sign-flip test, for the gap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, sqrt
from typing import Literal

from introspection_probe.errors import IntrospectionError
from introspection_probe.records import Explanation, Rollout
from introspection_probe.scoring.comparison import PairedChange, count_pairs
from introspection_probe.scoring.counts import PairedCounts
from introspection_probe.scoring.intervals import Interval, difference, paired_difference, wilson
from introspection_probe.scoring.sign_test import sign_flip_p

# A difference is told from 5% on, for each test by itself.
SIGNIFICANT = 0.05
# Where a difference would be found in four of five comparisons: 1.96 + 0.84 standard errors.
_POWER_Z = 2.80
# However few examples tell A from B: from 8 that all speak for one side on average, 6 or more (p = 0.03) come in 81%.
_FEWEST = 8


@dataclass(frozen=True, slots=True)
class PairedExample:
    """One example as A and B measured it.

    Attributes:
        label: E(M0), the same for both; None where it is not known.
    """

    a: Rollout
    b: Rollout
    label: Explanation | None


@dataclass(frozen=True, slots=True)
class GapChange:
    """The coupling gap of A and of B over the same examples.

    Attributes:
        a, b: Self against Orig, of each.
        ones, twos: examples on which their Self minus Orig differs by 1 and by 2.
        correlation: of Self minus Orig between A and B, over the examples; 0 where one of them does not vary.
    """

    a: PairedCounts
    b: PairedCounts
    ones: int
    twos: int
    correlation: float

    @property
    def p(self) -> float:
        """Two-sided exact sign-flip test that the gaps differ."""
        total = (self.b.self_only - self.b.orig_only) - (self.a.self_only - self.a.orig_only)
        return sign_flip_p(total, self.ones, self.twos)

    @property
    def interval(self) -> Interval:
        """B's gap - A's, with its 95% interval (MOVER on Newcombe's paired intervals, with their correlation)."""
        a, b = paired_difference(self.a), paired_difference(self.b)
        assert a is not None
        assert b is not None  # a comparison holds at least one example
        return difference(a, b, self.correlation)


@dataclass(frozen=True, slots=True)
class HeadToHead:
    """A against B over their common examples; at least one.

    Attributes:
        self_match: was the explanation true of the model's own behaviour?
        orig_match: was it E(M0)? None where that is not known of every example.
        gap: Self minus Orig; None where Orig is.
        parse_failures: could the explanation not be parsed?
        same_both, same_included, same_ablated: examples that A and B answer alike: both answers, on ``x``, on ``x\\C``.
    """

    self_match: PairedChange
    orig_match: PairedChange | None
    gap: GapChange | None
    parse_failures: PairedChange
    same_both: int
    same_included: int
    same_ablated: int

    @property
    def n(self) -> int:
        """Examples."""
        return self.self_match.n

    @property
    def agreement(self) -> Interval:
        """Share of the examples that both answer alike, with and without the cue, and its 95% interval."""
        interval = wilson(self.same_both, self.n)
        assert interval is not None
        return interval

    @property
    def smallest_seen(self) -> float:
        """About the least difference in Self EM that so many examples would show in four of five comparisons.

        From the share of examples that told A from B here (Miettinen 1968).
        """
        discordant = self.self_match.lost + self.self_match.gained
        return min(1.0, max(_POWER_Z * sqrt(discordant) / self.n, _FEWEST / self.n))


@dataclass(frozen=True, slots=True)
class Telling:
    """What may be said of B against A.

    Attributes:
        kind: stable, for programs; about Self EM.
        sentence: the same in words, with the numbers.
        notes: what else is told apart, or why something is not; may be empty.
    """

    kind: Literal["worse", "better", "no_difference"]
    sentence: str
    notes: tuple[str, ...]


def compare_head_to_head(examples: Sequence[PairedExample]) -> HeadToHead:
    """Count the examples.

    Raises:
        IntrospectionError: there is none.
    """
    if not examples:
        raise IntrospectionError(
            "the two rounds have no example in common: compare rounds that were taken with the same probe set"
        )
    self_hits = [(_is_self(pair.a), _is_self(pair.b)) for pair in examples]
    orig_match = gap = None
    if all(pair.label is not None for pair in examples):
        orig_hits = [(pair.a.predicted == pair.label, pair.b.predicted == pair.label) for pair in examples]
        orig_match = count_pairs(orig_hits)
        gap = _gap(self_hits, orig_hits)
    behaviors = [(pair.a.behavior, pair.b.behavior) for pair in examples]
    return HeadToHead(
        self_match=count_pairs(self_hits),
        orig_match=orig_match,
        gap=gap,
        parse_failures=count_pairs((pair.a.predicted is None, pair.b.predicted is None) for pair in examples),
        same_both=sum(a == b for a, b in behaviors),
        same_included=sum(a.included == b.included for a, b in behaviors),
        same_ablated=sum(a.ablated == b.ablated for a, b in behaviors),
    )


def tell(found: HeadToHead) -> Telling:
    """What the comparison says, in words."""
    own = found.self_match
    against = f"Self EM {_share(own.after)} against {_share(own.before)} on {found.n} common probes"
    test = f"exact McNemar {_p(own.p)}"
    notes = tuple(note for note in (_gap_note(found), _parse_note(found)) if note)
    if own.p <= SIGNIFICANT:
        kind: Literal["worse", "better"] = "worse" if own.fall > 0 else "better"
        return Telling(kind, f"B explains itself {kind} than A: {against}, {test}.", notes)
    return Telling(
        "no_difference",
        f"No difference can be told: {against}, {test}; with so many probes a difference under"
        f" {_points(found.smallest_seen)} points would easily go unseen.",
        notes,
    )


def _gap_note(found: HeadToHead) -> str | None:
    if found.gap is None:
        return "Orig EM and the gap are left out: not every probe's label, E(M0), is in the history."
    if found.gap.p > SIGNIFICANT:
        return None
    a, b = found.gap.a.estimate or 0.0, found.gap.b.estimate or 0.0
    word = "larger" if b > a else "smaller"
    return f"B's coupling gap is {word} than A's: {b:+.2f} against {a:+.2f}, exact sign-flip {_p(found.gap.p)}."


def _parse_note(found: HeadToHead) -> str | None:
    failures = found.parse_failures
    if failures.p > SIGNIFICANT:
        return None
    a, b = failures.kept + failures.lost, failures.kept + failures.gained
    word = "more" if b > a else "less"
    return (
        f"B's explanations fail to parse {word} often than A's: {b} of {found.n} against {a},"
        f" exact McNemar {_p(failures.p)}."
    )


def _gap(self_hits: Sequence[tuple[bool, bool]], orig_hits: Sequence[tuple[bool, bool]]) -> GapChange:
    leans = [(own[0] - old[0], own[1] - old[1]) for own, old in zip(self_hits, orig_hits, strict=True)]
    sizes = [abs(b - a) for a, b in leans]
    counts = []
    for side in (0, 1):
        cells = [(own[side], old[side]) for own, old in zip(self_hits, orig_hits, strict=True)]
        both, self_only = cells.count((True, True)), cells.count((True, False))
        counts.append(PairedCounts(both, self_only, cells.count((False, True)), cells.count((False, False))))
    return GapChange(counts[0], counts[1], sizes.count(1), sizes.count(2), _correlation(leans))


def _correlation(pairs: Sequence[tuple[int, int]]) -> float:
    n = len(pairs)
    a, b = sum(pair[0] for pair in pairs), sum(pair[1] for pair in pairs)
    # In whole numbers, times n squared.
    together = n * sum(pair[0] * pair[1] for pair in pairs) - a * b
    spread_a, spread_b = (
        n * sum(pair[0] ** 2 for pair in pairs) - a * a,
        n * sum(pair[1] ** 2 for pair in pairs) - b * b,
    )
    return together / sqrt(spread_a * spread_b) if spread_a and spread_b else 0.0


def _is_self(rollout: Rollout) -> bool:
    return rollout.predicted == rollout.behavior.explanation


def _share(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.3f}"


def _p(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}"


def _points(share: float) -> int:
    return ceil(100 * share)
