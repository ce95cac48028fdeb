"""How large a fall of Self EM has to be before these probes show it, and how many probes show a given one.

Two ways of seeing are asked about: the alarm ``explanations_drifted``, which spends its error budget as
:mod:`introspection_probe.alerts.monitor` does, and the 95% interval of a paired change, as ``iprobe compare`` shows it.
All chances are sums over the exact distribution of what turned wrong and what turned right, judged by the very test.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

from introspection_probe.alerts.conditions import TESTS, AlertConfig
from introspection_probe.scoring.drift import above_p, fall_p, spend
from introspection_probe.scoring.intervals import newcombe

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Integers = NDArray[np.int64]

EXACT_MATCH = 0.8
"""Self EM before the fall that is asked about."""

CHURN = 0.05
"""Share of explanations that turn wrong from round to round without any fall, and as many that turn right: that of
the simulated runs of benchmarks/alarms.py."""

CHANCE = 0.8
"""A fall that is found with this chance counts as seen: the usual power."""

MAX_PROBES = 1_000_000

Power = Callable[[int, float], float]
"""The chance that a number of probes shows a fall."""


def alarm_power(n: int, fall: float, *, look: int, config: AlertConfig | None = None, tasks: int = 1) -> float:
    """The chance that ``explanations_drifted`` is raised at one round against the baseline.

    Args:
        n: probes.
        fall: of Self EM, as a share of the probes, 0 to about 0.7.
        look: which round after the baseline it is, from 1: the later, the less error budget it has.
        config: what counts as an alarm.
        tasks: how many tasks share the error budget.
    """
    config = config or AlertConfig()
    level = spend(spend(config.alpha / (TESTS * tasks), look), 1)
    return _chance(n, fall, lambda discordant: _least_lost_for_alarm(n, discordant, level, config.min_effect))


def interval_power(n: int, fall: float) -> float:
    """The chance that the 95% interval of the paired change lies wholly below 0."""
    return _chance(n, fall, lambda discordant: _least_lost_for_interval(n, discordant))


def smallest_seen(n: int, power: Power) -> float | None:
    """The smallest fall that ``n`` probes show with a chance of :data:`CHANCE`, to a tenth of a point.

    None where not even the largest possible fall is seen.
    """
    largest = EXACT_MATCH - CHURN
    if power(n, largest) < CHANCE:
        return None
    low, high = 0.0, largest
    while high - low > 5e-4:
        middle = (low + high) / 2
        low, high = (low, middle) if power(n, middle) >= CHANCE else (middle, high)
    return high


def probes_needed(fall: float, power: Power) -> int | None:
    """About the fewest probes that show ``fall`` with a chance of :data:`CHANCE`: to two digits, rounded up.

    None where :data:`MAX_PROBES` are not enough.
    """
    high = 16
    while power(high, fall) < CHANCE:
        high *= 2
        if high > MAX_PROBES:
            return None
    low = high // 2
    while high - low > max(high // 100, 1):
        middle = (low + high) // 2
        low, high = (low, middle) if power(middle, fall) >= CHANCE else (middle, high)
    return _two_digits(high)


def _two_digits(count: int) -> int:
    unit = int(10 ** max(len(str(count)) - 2, 0))
    return -(-count // unit) * unit


def _chance(n: int, fall: float, least_lost: Callable[[Integers], Integers]) -> float:
    """P(lost >= least_lost(lost + gained)), where each probe is lost with chance churn + fall, gained with churn."""
    import numpy as np

    lost, moved = CHURN + fall, 2 * CHURN + fall
    spread = 6 * (n * moved * (1 - moved)) ** 0.5 + 6
    discordant = np.arange(max(int(n * moved - spread), 0), min(int(n * moved + spread), n) + 1)
    least = least_lost(discordant)
    possible = least <= discordant
    seen = np.where(possible, above_p(np.where(possible, least, 0), discordant, lost / moved), 0.0)
    return float((_binomial(n, moved, discordant) * seen).sum())


def _binomial(n: int, rate: float, counts: Integers) -> NDArray[np.float64]:
    """P(Binomial(n, rate) = count)."""
    import numpy as np
    from scipy.special import gammaln, xlog1py, xlogy

    ways = gammaln(n + 1) - gammaln(counts + 1) - gammaln(n - counts + 1)
    chances: NDArray[np.float64] = np.exp(ways + xlogy(counts, rate) + xlog1py(n - counts, -rate))
    return chances


def _least_lost_for_alarm(n: int, discordant: Integers, level: float, min_effect: float) -> Integers:
    """The fewest losses among so many discordant probes that raise the alarm; more than all of them where none do."""
    import numpy as np

    # fall_p falls as losses rise: bisect in all places at once.
    low, high = np.full_like(discordant, -1), discordant + 1
    while (high - low > 1).any():
        middle = (low + high) // 2
        enough = (fall_p(middle, discordant - middle) <= level) & (2 * middle - discordant >= min_effect * n)
        open_ = high - low > 1
        high = np.where(open_ & enough, middle, high)
        low = np.where(open_ & ~enough, middle, low)
    return high


def _least_lost_for_interval(n: int, discordant: Integers) -> Integers:
    import numpy as np

    least, found = (int(discordant[0]) + 1) // 2, []
    for total in discordant:
        # One discordant probe more asks for at most one loss more, so the search goes on from where it was.
        while least <= total and not _excludes_zero(n, int(total), least):
            least += 1
        found.append(least)
    return np.array(found)


@cache
def _excludes_zero(n: int, discordant: int, lost: int) -> bool:
    kept = min(max(round(EXACT_MATCH * n) - lost, 0), n - discordant)
    interval = newcombe(kept, discordant - lost, lost, n - discordant - kept)
    return interval is not None and interval.upper < 0
