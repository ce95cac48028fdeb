"""The exact sign test, in whole numbers and without numpy or scipy, so that reading commands start fast."""

from __future__ import annotations

from collections.abc import Collection


def sign_p(down: int, up: int) -> float:
    """Two-sided exact sign test, which is McNemar's: are ``down`` and ``up`` one coin's heads and tails?

    >>> round(sign_p(9, 1), 4)
    0.0215
    >>> sign_p(0, 0)
    1.0
    """
    return sign_flip_p(down - up, down + up)


def sign_flip_p(total: int, ones: int, twos: int = 0) -> float:
    """Exact sign-flip test of paired differences of size 1 and 2.

    When neither of two rounds is better, a difference is as likely as its opposite, on every example, so the chance of
    a sum at least so far from 0 can be counted out. With ``twos`` 0 it is McNemar's exact test.

    Args:
        total: the sum of the differences.
        ones, twos: how many of them are 1 and 2 in size; those of 0 say nothing.

    Returns:
        P(\\|S\\| >= \\|total\\|), S the sum under random signs; 1 when nothing differs.
    """
    if total == 0:
        return 1.0
    # Of the ones, k are positive: their sum is 2k - ones. Together with the twos it must reach the total.
    needed = {
        positive: max(0, -(-(abs(total) - 2 * (2 * positive - twos) + ones) // 2)) for positive in range(twos + 1)
    }
    tails = _tails(ones, set(needed.values()))
    chances = _binomials(twos)
    ways = sum(chances[positive] * tails[least] for positive, least in needed.items())
    # The mirror image is as likely, and the two do not overlap, as the total is not 0.
    return 2 * ways / (1 << (ones + twos))


def _binomials(n: int) -> list[int]:
    row = [1]
    for k in range(n):
        row.append(row[-1] * (n - k) // (k + 1))
    return row


def _tails(n: int, wanted: Collection[int]) -> dict[int, int]:
    """How many subsets of n things have at least k members, for each wanted k from 0 on."""
    tails = {k: 0 for k in wanted if k > n}
    size, tail = 1, 1
    for k in range(n, min(wanted) - 1, -1):
        if k in wanted:
            tails[k] = tail
        size = size * k // (n - k + 1)
        tail += size
    return tails
