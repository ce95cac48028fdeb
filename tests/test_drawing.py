"""What is drawn at which step from several sets, against counting and against the draw of one set alone."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from introspection_probe.errors import IntrospectionError
from introspection_probe.training import Drawing, Share

shares = st.lists(
    st.builds(Share, st.integers(1, 40), st.floats(0.01, 100.0)) | st.just(Share(5, 0.0)), min_size=1, max_size=6
).filter(lambda sets: any(share.weight for share in sets))


def test_one_set_is_drawn_in_seeded_permutations_one_after_another() -> None:
    drawing = Drawing([Share(7, 3.0)], size=3, seed=5)
    passes = [index for epoch in range(9) for index in np.random.default_rng([5, epoch]).permutation(7)]
    assert [index for step in range(21) for index in drawing.batch(step)] == passes
    assert drawing.steps_of_a_pass == 3


@settings(max_examples=60, deadline=None)
@given(sets=shares, size=st.integers(1, 9), seed=st.integers(0, 3), steps=st.integers(1, 120))
def test_each_set_has_its_share_of_the_draws_so_far_and_its_examples_are_drawn_equally_often(
    sets: list[Share], size: int, seed: int, steps: int
) -> None:
    drawing = Drawing(sets, size, seed)
    batches = [drawing.batch(step) for step in range(steps)]
    assert {len(batch) for batch in batches} == {size}
    times = Counter(index for batch in batches for index in batch)
    start, total = 0, sum(share.weight for share in sets)
    for share in sets:
        drawn = [times[index] for index in range(start, start + share.count)]
        start += share.count
        # However long the run: rounding at most once a set.
        assert abs(sum(drawn) - steps * size * share.weight / total) <= len(sets) / 2
        assert max(drawn) - min(drawn) <= 1
    assert sum(times.values()) == steps * size
    # Whoever asks for a step alone gets what the whole run drew.
    assert Drawing(sets, size, seed).batch(steps - 1) == batches[-1]


def test_every_batch_holds_the_shares_that_fit_it() -> None:
    drawing = Drawing([Share(30, 1.0), Share(10, 0.5), Share(20, 0.5)], size=8, seed=0)
    for step in range(50):
        batch = drawing.batch(step)
        kinds = Counter("abc"[(index >= 30) + (index >= 40)] for index in batch)
        assert kinds == {"a": 4, "b": 2, "c": 2}


def test_a_share_smaller_than_an_example_a_batch_is_drawn_now_and_then() -> None:
    drawing = Drawing([Share(10, 99.0), Share(10, 1.0)], size=4, seed=0)
    rare = [step for step in range(1000) if any(index >= 10 for index in drawing.batch(step))]
    assert len(rare) == 40
    assert {later - sooner for sooner, later in pairwise(rare)} == {25}
    assert drawing.steps_of_a_pass == 250 - 12  # the tenth of every hundredth draw, rounded


def test_sets_of_one_size_are_not_drawn_in_step() -> None:
    batch = Drawing([Share(50, 1.0), Share(50, 1.0)], size=100, seed=0).batch(0)
    assert batch[:50] != [index - 50 for index in batch[50:]]


@pytest.mark.parametrize("sets", [[Share(0, 1.0)], [Share(3, 1.0), Share(0, 1.0)], [Share(3, 0.0)]])
def test_nothing_to_draw_is_refused(sets: list[Share]) -> None:
    with pytest.raises(IntrospectionError, match="nothing to mix in"):
        Drawing(sets, 4, 0)
