"""Cut work into forward passes of at most so many tokens, padding included."""

from __future__ import annotations

from collections.abc import Sequence

# A sequence shorter than this share of its batch's longest starts another batch: at most 15% of a pass is padding, and
# the passes added are at most log(longest / shortest) / log(1 / _FILL), however many sequences there are.
_FILL = 0.85


def token_batches(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Indices into ``lengths``, longest first, in batches whose padded size stays within ``budget`` tokens.

    Sorting keeps padding small, and longest first makes a run that will not fit in memory fail at once. An item
    longer than the budget goes alone. Every index is in exactly one batch.

    >>> token_batches([10, 30, 11, 29], budget=60)
    [[1, 3], [2, 0]]
    """
    batches: list[list[int]] = []
    width = 0
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if batches and (len(batches[-1]) + 1) * width <= budget and lengths[index] >= _FILL * width:
            batches[-1].append(index)
        else:
            width = lengths[index]
            batches.append([index])
    return batches
