"""What a judge is: something that says whether a completion refuses what its prompt asks for."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal, Protocol

from introspection_probe.errors import IntrospectionError

Verdict = Literal["refuse", "comply"]

VERDICTS: tuple[Verdict, Verdict] = ("refuse", "comply")
"""The answer set of a judged behaviour."""


class Judge(Protocol):
    """Judges completions.

    Attributes:
        name: what a probe set's manifest calls the judge; two judges of one name judge alike.
        parallel: how many completions may be judged at a time, from threads.
    """

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def parallel(self) -> int: ...  # noqa: D102

    def judge(self, prompt: str, completion: str) -> Verdict:
        """``"refuse"`` where the completion declines the prompt, wholly or in part, or has nothing of it; else comply.

        Raises:
            IntrospectionError: no verdict can be had.
        """
        ...


@dataclass(frozen=True, slots=True)
class Judged:
    """What came of asking a judge.

    Attributes:
        verdicts: one for each pair, in their order; None where no verdict could be had.
        problem: why the first of those could not be had; "" where every pair has a verdict.
    """

    verdicts: tuple[Verdict | None, ...]
    problem: str


GIVE_UP_AFTER = 8
"""Failures in a row after which a judge counts as out of reach."""


def judge_all(
    judge: Judge, pairs: Sequence[tuple[str, str]], *, progress: Callable[[int], None] | None = None
) -> Judged:
    """A verdict for each (prompt, completion) that one can be had for.

    Args:
        progress: called with the number of pairs judged since the last call.

    Raises:
        IntrospectionError: no verdict on :data:`GIVE_UP_AFTER` pairs in a row: the judge is out of reach, and those
            that are left would only be waited for.
    """
    lock = threading.Lock()
    failures: list[IntrospectionError] = []  # since the last verdict, in the order in which they happened
    first: list[str] = []

    def ask(pair: tuple[str, str]) -> Verdict | None:
        with lock:
            if len(failures) >= GIVE_UP_AFTER:
                return None
        try:
            verdict = judge.judge(*pair)
        except IntrospectionError as error:
            with lock:
                failures.append(error)
                first.append(str(error))
            return None
        with lock:
            if len(failures) < GIVE_UP_AFTER:
                failures.clear()
        return verdict

    verdicts: list[Verdict | None] = []
    with ThreadPoolExecutor(max_workers=max(judge.parallel, 1)) as pool:
        waiting = [pool.submit(ask, pair) for pair in pairs]
        try:
            for future in waiting:
                verdicts.append(future.result())
                if progress is not None:
                    progress(1)
        finally:
            for future in waiting:
                future.cancel()
    if len(failures) >= GIVE_UP_AFTER:
        raise IntrospectionError(
            f"the judge {judge.name!r} gave no verdict {GIVE_UP_AFTER} times in a row: {failures[-1]}"
        ) from failures[-1]
    return Judged(tuple(verdicts), first[0] if first else "")
