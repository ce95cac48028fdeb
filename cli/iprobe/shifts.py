"""Sharp shifts of Self EM over a run's rounds, found without reading more rollouts than it takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import overload

from introspection_probe.history import History, ScoredRound
from introspection_probe.scoring.drift import ChangePoint, change_points


def find_shifts(history: History, run_id: int, task: str, rounds: Sequence[ScoredRound]) -> tuple[ChangePoint, ...]:
    """The change-points of Self EM over these rounds of one task, oldest first.

    A run may have a million rollouts. The counts of its rounds are known already, so only the rounds around a shift in
    them are read example by example.
    """
    return tuple(
        change_points(
            [scored.step for scored in rounds],
            _Rows(history, run_id, task, rounds),
            levels=[scored.scores[task].self_scores.exact_match or 0.0 for scored in rounds],
        )
    )


class _Rows(Sequence[bytes]):
    """The rounds as `change_points` takes them, each read when it is looked at."""

    def __init__(self, history: History, run_id: int, task: str, rounds: Sequence[ScoredRound]) -> None:
        self._history, self._run_id, self._task, self._rounds = history, run_id, task, rounds
        self._place: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._rounds)

    @overload
    def __getitem__(self, index: int) -> bytes: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[bytes]: ...
    def __getitem__(self, index: int | slice) -> bytes | Sequence[bytes]:
        if isinstance(index, slice):
            return [self[place] for place in range(len(self))[index]]
        found = self._history.matches(self._run_id, self._rounds[index].step, task=self._task)
        for example in found:
            self._place.setdefault(example, len(self._place))
        row = bytearray(b"\x02" * len(self._place))  # 2: not asked in this round
        for example, right in found.items():
            row[self._place[example]] = right
        return bytes(row)
