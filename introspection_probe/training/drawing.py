"""Which explanations are mixed in at a step: a function of the seed, the step and the sets that they come from."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from introspection_probe.errors import IntrospectionError


@dataclass(frozen=True, slots=True)
class Share:
    """One set's part in the mixture.

    Attributes:
        count: its examples.
        weight: its share of all that is drawn, relative to the other sets' weights; 0 draws nothing of it.
    """

    count: int
    weight: float


class Drawing:
    """Draws batches of a fixed size from sets of examples, each set its share.

    Within a set each pass over the examples is a permutation, so every example is drawn equally often. After any
    number of draws each set has had its share of them up to a rounding error that does not grow, so over a run the
    shares are exact, also those of which a batch holds less than one example.

    Args:
        shares: the sets in the order in which their examples stand one after another.
        size: examples in a batch.

    Raises:
        IntrospectionError: nothing to draw, or a set without examples that is to be drawn from.
    """

    def __init__(self, shares: Sequence[Share], size: int, seed: int) -> None:
        if not any(share.weight for share in shares) or any(share.weight and not share.count for share in shares):
            raise IntrospectionError(
                "there is nothing to mix in: the train split is empty; build a larger probe set, or set "
                "explanation_weight=0 to measure only"
            )
        self._size = size
        self._seed = seed
        starts = np.cumsum([0, *(share.count for share in shares)])
        self._sets = [
            (place, int(starts[place]), share.count) for place, share in enumerate(shares) if share.weight > 0
        ]
        # Of what the sets before left over, the part that is this set's: exact, so that nothing drifts.
        weights = [Fraction(share.weight) for share in shares if share.weight > 0]
        self._parts = [weight / sum(weights[place:]) for place, weight in enumerate(weights)]

    def batch(self, step: int) -> list[int]:
        """Indices of the examples of a step's batch, set by set."""
        before, after = self._drawn(step * self._size), self._drawn((step + 1) * self._size)
        batch = []
        for (place, start, count), first, last in zip(self._sets, before, after, strict=True):
            passes = (divmod(draw, count) for draw in range(first, last))
            batch += [start + int(self._permutation(place, epoch, count)[offset]) for epoch, offset in passes]
        return batch

    @property
    def steps_of_a_pass(self) -> int:
        """Steps after which every example was drawn at least once."""
        return max(self._steps_until(index, count) for index, (_, _, count) in enumerate(self._sets))

    def _steps_until(self, index: int, draws: int) -> int:
        steps = 1
        while self._drawn(steps * self._size)[index] < draws:
            steps *= 2
        return bisect_left(range(steps), draws, key=lambda step: self._drawn(step * self._size)[index])

    def _drawn(self, total: int) -> list[int]:
        """How many of the first ``total`` draws are each set's.

        Each set takes its rounded part of what the sets before it left. Both numbers grow by 0 or 1 with each draw, so
        the counts never fall back, and none needs the history of draws.
        """
        counts = []
        for part in self._parts:
            mine = (2 * total * part.numerator + part.denominator) // (2 * part.denominator)
            counts.append(mine)
            total -= mine
        return counts

    def _permutation(self, place: int, epoch: int, count: int) -> NDArray[np.int64]:
        # The first set draws as a set alone does.
        return _permutation((self._seed, epoch, place) if place else (self._seed, epoch), count)


@lru_cache(maxsize=32)
def _permutation(entropy: tuple[int, ...], count: int) -> NDArray[np.int64]:
    return np.random.default_rng(list(entropy)).permutation(count)
