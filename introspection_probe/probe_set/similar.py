"""Questions that are the same but for spelling, or nearly the same: exact, and fast for ten thousand.

How alike two questions are is the weighted Jaccard index of their word triples: the weight of the triples that both
have, over that of the triples that either has. A triple weighs as much as it tells about which question it is (the
logarithm of how rare it is), so that the wording which a task puts around every question counts nothing.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

NEAR = 0.8
"""Index from which two questions count as near-same."""

_WORD = re.compile(r"\w+")
_END_CHARS = 1000
"""Of a longer text only so much of both ends is read: a story that differs in the middle alone is the same story."""

_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Match:
    """A question and the one on the other side that is most like it.

    Attributes:
        left, right: places in the two lists.
        similarity: the weighted Jaccard index; 1 for the same words in the same order.
    """

    left: int
    right: int
    similarity: float


def normalized(text: str) -> str:
    """The words of a text in lower case, without punctuation, in Unicode's compatibility form."""
    if len(text) > 2 * _END_CHARS:
        text = f"{text[:_END_CHARS]} {text[-_END_CHARS:]}"
    return " ".join(_WORD.findall(unicodedata.normalize("NFKC", text).casefold()))


def near_same(left: Sequence[str], right: Sequence[str], *, near: float = NEAR) -> list[Match]:
    """For each text of ``left`` with a same or near-same one in ``right``, the best match, in the order of ``left``.

    Every pair with an index of at least ``near`` is found. Texts are compared only where they share one of their rarest
    triples, and so many of these are looked at that the rest weighs less than near-same texts must share (Bayardo, Ma
    and Srikant 2007, "Scaling up all pairs similarity search").
    """
    left_words, right_words = [normalized(text) for text in left], [normalized(text) for text in right]
    same: dict[str, int] = {}
    for place, words in enumerate(right_words):
        same.setdefault(words, place)
    (left_triples, right_triples), weights = _weighted(left_words, right_words)
    index: dict[int, list[int]] = {}
    for place, triples in enumerate(right_triples):
        for triple in _rarest(triples, weights, near):
            index.setdefault(triple, []).append(place)
    right_sets = [frozenset(triples) for triples in right_triples]
    right_totals = [sum(weights[triple] for triple in triples) for triples in right_triples]
    found = []
    for place, (words, triples) in enumerate(zip(left_words, left_triples, strict=True)):
        if words in same:
            found.append(Match(place, same[words], 1.0))
            continue
        total = sum(weights[triple] for triple in triples)
        candidates = {other for triple in _rarest(triples, weights, near) for other in index.get(triple, ())}
        best = Match(place, -1, near - _ROUNDING)
        for other in sorted(candidates):
            shared = sum(weights[triple] for triple in right_sets[other].intersection(triples))
            alike = shared / (total + right_totals[other] - shared)
            if alike > best.similarity:
                best = Match(place, other, alike)
        if best.right >= 0:
            found.append(best)
    return found


def _rarest(triples: Sequence[int], weights: Mapping[int, float], near: float) -> Sequence[int]:
    """The first of these triples, rarest first: the others weigh less than what a near-same text shares with this."""
    from_here_on = list(accumulate(weights[triple] for triple in reversed(triples)))[::-1]
    if not from_here_on or from_here_on[0] <= 0:
        return ()
    least = near * from_here_on[0] - _ROUNDING
    return [triple for triple, rest in zip(triples, from_here_on, strict=True) if rest >= least]


def _weighted(*sides: Sequence[str]) -> tuple[list[list[list[int]]], dict[int, float]]:
    """The triples of each text of each side as numbers, the rarest first; and the weight of each."""
    numbers: dict[str, int] = {}
    triples = [[{numbers.setdefault(t, len(numbers)) for t in _triples(text)} for text in side] for side in sides]
    times = Counter(number for side in triples for text in side for number in text)
    texts = sum(map(len, sides))
    # The rank makes the order the same for all texts, which the look-up by the rarest triples needs.
    rank = {number: place for place, (number, _) in enumerate(sorted(times.items(), key=lambda i: (i[1], i[0])))}
    ordered = [[sorted(text, key=rank.__getitem__) for text in side] for side in triples]
    return ordered, {number: math.log(texts / count) for number, count in times.items()}


def _triples(words: str) -> set[str]:
    split = words.split()
    return {" ".join(split[start : start + 3]) for start in range(max(len(split) - 2, 1))}
