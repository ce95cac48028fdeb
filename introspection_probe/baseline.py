"""What a run is compared with: M0 as the probe set has it, and a round of an earlier run where one is pinned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from introspection_probe.alerts import TaskRound
from introspection_probe.config import IntrospectionConfig
from introspection_probe.errors import IntrospectionError
from introspection_probe.guard import Guard
from introspection_probe.history import History, HistoryUnavailableError, RunRow, ScoredRound
from introspection_probe.mixture import Mixture
from introspection_probe.scoring.counts import RoundScores
from introspection_probe.scoring.quoting import quoted

_SAME = 0.95
_SHOWN_STEPS = 8


def not_m0(who: str, scores: Mapping[str, RoundScores]) -> list[str]:
    """A sentence for each task whose probes ``who`` answers otherwise than the probe set says M0 did."""
    shares = {task: task_scores.behavior.both for task, task_scores in scores.items()}
    return [
        f"{who} answers {same:.0%} of the {task} probes as the probe set says M0 did: the set was built "
        "from another model, so Orig describes that one; build a set from the run's starting model"
        for task, same in shares.items()
        if same is not None and same < _SAME
    ]


@dataclass(frozen=True, slots=True)
class Pinned:
    """A round of an earlier run, as the baseline of this one.

    Attributes:
        asked: what the user called it.
        uid, name, step: the run and the round.
        rounds: by task.
    """

    asked: str
    uid: str
    name: str
    step: int
    rounds: Mapping[str, TaskRound]

    def facts(self) -> dict[str, Any]:
        """What the history keeps of it, JSON-able."""
        return {"asked": self.asked, "uid": self.uid, "name": self.name, "step": self.step}


def read_baseline(config: IntrospectionConfig, mixture: Mixture, uid: str, guard: Guard) -> Pinned | None:
    """The baseline that the configuration pins; None where it pins none, or the database is away (which is told).

    Args:
        uid: of the run that is to be compared; once it is in the history, it stays with the round it found first.

    Raises:
        IntrospectionError: no such run or round, or one that was taken with other probes.
    """
    if config.baseline is None:
        return None
    try:
        try:
            opened = History.open(config.db, must_exist=True)
        except HistoryUnavailableError:
            raise
        except IntrospectionError as error:
            raise IntrospectionError(f"baseline is {quoted(config.baseline)}: {error}") from error
        with opened as history:
            return pin(history, config.baseline, mixture, uid=uid)
    except HistoryUnavailableError as error:
        guard.report("reading the pinned baseline", error)
        return None


def pin(history: History, asked: str, mixture: Mixture, *, uid: str) -> Pinned:
    """The round that ``asked`` means: a run's number, name or uid, with ``@STEP`` or else its last round.

    Raises:
        IntrospectionError: as :func:`read_baseline`.
    """
    run, step = _kept(history, asked, uid) or _named(history, asked)
    rounds = {scored.step: scored for scored in history.rounds(run.id)}
    if not rounds:
        raise IntrospectionError(f"baseline is {quoted(asked)}: run {quoted(run.name)} has no round yet")
    if step is None:
        step = max(rounds)
    if step not in rounds:
        raise IntrospectionError(
            f"baseline is {quoted(asked)}: run {quoted(run.name)} has no round at step {step}, but at "
            f"{_list(sorted(rounds))}"
        )
    _check_sets(history, asked, run, mixture)
    taken = {task: _task_round(history, asked, run, rounds[step], task) for task in mixture.tasks}
    return Pinned(asked, run.uid, run.name, step, taken)


def _kept(history: History, asked: str, uid: str) -> tuple[RunRow, int] | None:
    """What the same words meant when the run began: by now its own name may mean the run itself."""
    own = _run(history, uid)
    kept = own.config.get("baseline") if own is not None and own.uid == uid else None
    if not isinstance(kept, Mapping) or kept.get("asked") != asked:
        return None
    run = _run(history, str(kept.get("uid")))
    return None if run is None else (run, int(kept["step"]))


def _named(history: History, asked: str) -> tuple[RunRow, int | None]:
    whole = _run(history, asked)
    if whole is not None:
        return whole, None
    name, at, step = asked.rpartition("@")
    here = bool(at and name and step.isascii() and step.isdecimal() and len(step) < 10)
    try:
        return history.find_run(name if here else asked), int(step) if here else None
    except HistoryUnavailableError:
        raise
    except IntrospectionError as error:
        raise IntrospectionError(f"baseline is {quoted(asked)}: {error}") from error


def _run(history: History, ref: str) -> RunRow | None:
    try:
        return history.find_run(ref)
    except HistoryUnavailableError:
        raise
    except IntrospectionError:
        return None


def _check_sets(history: History, asked: str, run: RunRow, mixture: Mixture) -> None:
    """Rounds compare example by example, so the prompts have to be the same ones."""
    known = history.content_hashes(run.id)
    for part in mixture.parts:
        if part.probe_set.content_hash not in known:
            raise IntrospectionError(
                f"baseline is {quoted(asked)}: run {quoted(run.name)} was not measured with the probe set "
                f"{quoted(part.name)} ({part.probe_set.content_hash[:12]}), so there is nothing to compare example by "
                "example: measure its checkpoint with that set (`iprobe probe`) and pin the run that makes"
            )


def _task_round(history: History, asked: str, run: RunRow, scored: ScoredRound, task: str) -> TaskRound:
    rollouts = history.rollouts(run.id, scored.step, task=task)
    if task not in scored.scores or not rollouts:
        raise IntrospectionError(
            f"baseline is {quoted(asked)}: the round at step {scored.step} of run {quoted(run.name)} did not measure "
            f"task {quoted(task)}: pin a round that did"
        )
    return TaskRound(scored.step, scored.scores[task], rollouts, run=run.name)


def _list(steps: Sequence[int]) -> str:
    """The steps as text, the middle of a long list left out."""
    if len(steps) > _SHOWN_STEPS:
        return f"{', '.join(map(str, steps[: _SHOWN_STEPS - 1]))} ... {steps[-1]}"
    return ", ".join(map(str, steps))
