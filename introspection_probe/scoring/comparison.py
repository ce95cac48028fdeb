"""Two rounds on the same examples: what was right and is wrong, what was wrong and is right."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from introspection_probe.errors import IntrospectionError
from introspection_probe.records import Rollout
from introspection_probe.scoring.counts import ratio
from introspection_probe.scoring.drift import fall_p
from introspection_probe.scoring.intervals import Interval, newcombe
from introspection_probe.scoring.sign_test import sign_p


@dataclass(frozen=True, slots=True)
class PairedChange:
    """A score that an example meets or not, before and after: Self EM unless something else is said.

    Attributes:
        kept: right before and after.
        lost: right before, wrong after.
        gained: wrong before, right after.
        neither: wrong before and after.
    """

    kept: int
    lost: int
    gained: int
    neither: int

    @property
    def n(self) -> int:
        """Examples that both rounds hold."""
        return self.kept + self.lost + self.gained + self.neither

    @property
    def before(self) -> float | None:
        """The score before, over the common examples."""
        return ratio(self.kept + self.lost, self.n)

    @property
    def after(self) -> float | None:
        """The score after, over the common examples."""
        return ratio(self.kept + self.gained, self.n)

    @property
    def fall(self) -> float:
        """How far the score fell, as a share of the common examples; negative when it rose, 0 without examples."""
        return (self.lost - self.gained) / self.n if self.n else 0.0

    @property
    def p_fall(self) -> float:
        """One-sided exact McNemar test that it fell."""
        return float(fall_p(self.lost, self.gained))

    @property
    def p(self) -> float:
        """Two-sided exact McNemar test that it changed."""
        return sign_p(self.lost, self.gained)

    def interval(self, confidence: float = 0.95) -> Interval | None:
        """The change, after - before, with its paired interval; None without common examples."""
        return newcombe(self.kept, self.gained, self.lost, self.neither, confidence)


def count_pairs(pairs: Iterable[tuple[bool | int, bool | int]]) -> PairedChange:
    """Count (right before, right after) pairs; pairs that hold anything but 0 and 1 were not asked and do not count."""
    cells = list(pairs)
    return PairedChange(cells.count((1, 1)), cells.count((1, 0)), cells.count((0, 1)), cells.count((0, 0)))


def compare(before: Sequence[Rollout], after: Sequence[Rollout]) -> PairedChange:
    """Two rounds, of one run or of two, over the examples that both hold, whatever their order.

    Raises:
        IntrospectionError: they have no example in common.
    """
    right = {rollout.example_id: _is_right(rollout) for rollout in before}
    pairs = [(right[r.example_id], _is_right(r)) for r in after if r.example_id in right]
    if not pairs:
        raise IntrospectionError(
            "the two rounds have no example in common: compare rounds that were taken with the same probe set"
        )
    return count_pairs(pairs)


def _is_right(rollout: Rollout) -> bool:
    return rollout.predicted == rollout.behavior.explanation
