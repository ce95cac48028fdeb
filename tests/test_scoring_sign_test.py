"""The exact sign test against scipy, and the sign-flip test against trying every sign."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from introspection_probe.scoring.sign_test import sign_flip_p, sign_p


@given(st.integers(0, 3000), st.integers(0, 3000))
def test_it_agrees_with_scipys_binomial_test(down, up):
    expected = 1.0 if down + up == 0 else binomtest(down, down + up).pvalue
    assert sign_p(down, up) == pytest.approx(expected, rel=1e-9, abs=1e-300)


@given(st.integers(0, 6), st.integers(0, 4), st.data())
def test_differences_of_two_sizes_agree_with_trying_every_sign(ones, twos, data):
    sizes = [1] * ones + [2] * twos
    total = sum(size * data.draw(st.sampled_from((-1, 1))) for size in sizes)
    sums = [sum(a * b for a, b in zip(signs, sizes, strict=True)) for signs in product((-1, 1), repeat=len(sizes))]
    expected = sum(abs(found) >= abs(total) for found in sums) / len(sums)
    assert sign_flip_p(total, ones, twos) == pytest.approx(expected, rel=1e-12)


def test_ten_thousand_differences_are_no_matter():
    assert sign_p(5200, 4800) == pytest.approx(binomtest(5200, 10_000).pvalue, rel=1e-9)
    assert sign_p(10_000, 0) == 0.0  # 2^-9999 is too small for a float, and no error
