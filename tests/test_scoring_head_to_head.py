"""Two rounds against each other: counts by a plain loop, p-values by scipy, intervals and power by simulation."""

from __future__ import annotations

import random

import numpy as np
import pytest
from scipy.stats import binomtest, permutation_test

from introspection_probe.errors import IntrospectionError
from introspection_probe.records import Behavior, Explanation, Rollout
from introspection_probe.scoring.head_to_head import HeadToHead, PairedExample, compare_head_to_head, tell

OPTIONS = "ABC"


def example(rng: random.Random, a_right: float = 0.7, b_right: float = 0.5, moved: float = 0.3) -> PairedExample:
    """A and B behave as M0 did or not, and say what they do, what M0 did, or nothing."""
    label = Behavior(rng.choice(OPTIONS), rng.choice(OPTIONS))

    def rollout(right: float) -> Rollout:
        now = Behavior(rng.choice(OPTIONS), rng.choice(OPTIONS)) if rng.random() < moved else label
        luck = rng.random()
        said = now.explanation if luck < right else label.explanation if luck < 0.95 else None
        return Rollout("x", now, "", said)

    return PairedExample(rollout(a_right), rollout(b_right), label.explanation)


def examples(n: int, seed: int = 0, **rates: float) -> list[PairedExample]:
    rng = random.Random(seed)
    return [example(rng, **rates) for _ in range(n)]


def scores(pairs: list[PairedExample]) -> dict[str, np.ndarray]:
    """Each row's values, 2 x n, by a plain loop."""
    table: dict[str, list[list[int]]] = {"self": [], "orig": [], "gap": [], "failed": []}
    for rollout in ("a", "b"):
        sides = [getattr(pair, rollout) for pair in pairs]
        own = [int(side.predicted == Explanation(*flag(side.behavior))) for side in sides]
        old = [int(side.predicted == pair.label) for side, pair in zip(sides, pairs, strict=True)]
        table["self"].append(own)
        table["orig"].append(old)
        table["gap"].append([one - other for one, other in zip(own, old, strict=True)])
        table["failed"].append([int(side.predicted is None) for side in sides])
    return {name: np.array(rows) for name, rows in table.items()}


def flag(behavior: Behavior) -> tuple[bool, str]:
    return behavior.included != behavior.ablated, behavior.ablated


@pytest.mark.parametrize("seed", range(8))
def test_every_count_and_test_agrees_with_a_plain_loop_and_scipy(seed):
    pairs = examples(80, seed)
    found, expected = compare_head_to_head(pairs), scores(pairs)
    for change, name in ((found.self_match, "self"), (found.orig_match, "orig"), (found.parse_failures, "failed")):
        a, b = expected[name]
        assert (change.before, change.after, change.n) == (a.mean(), b.mean(), 80)
        lost, gained = int((a > b).sum()), int((b > a).sum())
        assert change.p == pytest.approx(binomtest(lost, lost + gained).pvalue if lost + gained else 1.0)
    a, b = expected["gap"]
    assert (found.gap.a.estimate, found.gap.b.estimate) == (pytest.approx(a.mean()), pytest.approx(b.mean()))
    assert found.gap.interval.estimate == pytest.approx((b - a).mean())
    assert found.gap.correlation == pytest.approx(np.corrcoef(a, b)[0, 1])
    behaviors = [(pair.a.behavior, pair.b.behavior) for pair in pairs]
    assert found.same_both == sum(one == other for one, other in behaviors)
    assert found.same_included == sum(one.included == other.included for one, other in behaviors)
    assert found.same_ablated == sum(one.ablated == other.ablated for one, other in behaviors)


@pytest.mark.parametrize("seed", range(5))
def test_the_gap_s_p_value_is_that_of_every_exchange_of_a_and_b(seed):
    pairs = [pair for pair in examples(200, seed, moved=0.6) if differs(pair)][:14]
    found = compare_head_to_head(pairs)
    a, b = scores(pairs)["gap"]

    def total(x, y, axis):
        return np.sum(y - x, axis=axis)

    exact = permutation_test((a, b), total, permutation_type="samples", vectorized=True, n_resamples=np.inf)
    assert found.gap.ones + found.gap.twos == 14
    # scipy doubles the smaller tail, which is the same for a symmetric distribution but for a total of 0.
    assert found.gap.p == pytest.approx(min(1.0, exact.pvalue) if (b - a).sum() else 1.0)


def differs(pair: PairedExample) -> bool:
    a, b = scores([pair])["gap"]
    return bool(a != b)


def test_the_gap_s_interval_covers_the_truth():
    """95% of the time, by simulation, with A and B that go together as two runs of one recipe do."""
    rng = np.random.default_rng(0)
    values = np.array([-1, 0, 1])
    truth, covered = 0.1, 0
    for _ in range(400):
        a = rng.choice(values, 150, p=[0.1, 0.7, 0.2])
        b = np.where(rng.random(150) < 0.5, a, rng.choice(values, 150, p=[0.05, 0.55, 0.4]))
        # E[b] - E[a] = 0.5 * (0.35 - 0.1) = 0.125
        truth = 0.5 * (0.35 - 0.1)
        found = compare_head_to_head([pair_of(int(x), int(y)) for x, y in zip(a, b, strict=True)])
        covered += found.gap.interval.lower <= truth <= found.gap.interval.upper
    assert 0.92 <= covered / 400 <= 0.99


def pair_of(a: int, b: int) -> PairedExample:
    """An example whose Self minus Orig is a for A and b for B."""
    label, now = Explanation(True, "B"), Behavior("C", "C")
    said = {1: now.explanation, -1: label, 0: None}
    return PairedExample(Rollout("x", now, "", said[a]), Rollout("x", now, "", said[b]), label)


def right_pair(a: bool, b: bool) -> PairedExample:
    now = Behavior("A", "B")
    said = {True: now.explanation, False: None}
    return PairedExample(Rollout("x", now, "", said[a]), Rollout("x", now, "", said[b]), now.explanation)


@pytest.mark.parametrize(("n", "discordant"), [(200, 0.3), (200, 0.02), (1000, 0.2), (60, 0.4)])
def test_the_smallest_difference_seen_is_seen_in_about_four_of_five_comparisons(n, discordant):
    rng = np.random.default_rng(1)
    many = round(n * discordant)
    even = [right_pair(False, False)] * (n - many) + [right_pair(k % 2 == 0, k % 2 == 1) for k in range(many)]
    smallest = compare_head_to_head(even).smallest_seen
    either = max(discordant, smallest)
    lost, gained = (either + smallest) / 2, (either - smallest) / 2
    draws = rng.multinomial(n, [lost, gained, 1 - lost - gained], size=600)
    p = [binomtest(int(down), int(down + up)).pvalue if down + up else 1.0 for down, up, _ in draws]
    assert 0.68 <= np.mean(np.array(p) <= 0.05) <= 0.9


def told(lost: int, gained: int, kept: int = 100) -> HeadToHead:
    return compare_head_to_head(
        [right_pair(True, True)] * kept + [right_pair(True, False)] * lost + [right_pair(False, True)] * gained
    )


def test_the_words_follow_the_test():
    worse, better, none = tell(told(20, 3)), tell(told(3, 20)), tell(told(6, 4))
    assert (worse.kind, better.kind, none.kind) == ("worse", "better", "no_difference")
    assert worse.sentence.startswith(
        "B explains itself worse than A: Self EM 0.837 against 0.976 on 123 common probes, exact McNemar p < 0.001"
    )
    assert better.sentence.startswith("B explains itself better than A: Self EM 0.976 against 0.837")
    points = int(none.sentence.split("a difference under ")[1].split()[0])
    assert points == pytest.approx(100 * told(6, 4).smallest_seen, abs=1)
    assert "No difference can be told" in none.sentence
    assert any("fail to parse more often than A's: 20 of 123 against 3" in note for note in worse.notes)
    assert none.notes == ()


def test_two_runs_that_never_differ_show_no_difference():
    same = tell(told(0, 0))
    assert same.kind == "no_difference"
    assert "p = 1;" in same.sentence
    assert "under 8 points" in same.sentence


def test_a_gap_that_differs_is_noted():
    pairs = [pair_of(1, 0)] * 12 + [pair_of(0, 0)] * 30 + [pair_of(1, -1)] * 3
    notes = tell(compare_head_to_head(pairs)).notes
    assert any("B's coupling gap is smaller than A's: -0.07 against +0.33" in note for note in notes)


def test_without_labels_there_is_no_orig_and_no_gap():
    pairs = examples(20)
    found = compare_head_to_head([*pairs[:-1], PairedExample(pairs[-1].a, pairs[-1].b, None)])
    assert (found.orig_match, found.gap, found.n) == (None, None, 20)
    assert any("left out" in note for note in tell(found).notes)


def test_without_examples_nothing_can_be_compared():
    with pytest.raises(IntrospectionError, match="no example in common"):
        compare_head_to_head([])
