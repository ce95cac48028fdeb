"""What `iprobe compare` says, gathered from the history: two runs over the examples that both measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from introspection_probe.errors import IntrospectionError
from introspection_probe.history import ExampleRow, History, MixedLosses, RunRow, ScoredRound
from introspection_probe.records import Explanation, Rollout
from introspection_probe.scoring.head_to_head import HeadToHead, PairedExample, Telling, compare_head_to_head, tell
from iprobe.text import safe_text, some_names

# Built twice from the same model, on other hardware, a few of M0's answers that hang by a thread fall otherwise.
# Such examples are left out. With more of them it was not the same model, and Orig means two things.
_MAX_RELABELLED = 0.05


@dataclass(frozen=True, slots=True)
class TaskComparison:
    """One task.

    Attributes:
        a_step, b_step: the rounds that are compared.
        a_only, b_only: examples that only one of them measured.
        relabelled: common examples left out because E(M0) is not the same in both.
        a_losses, b_losses: the mixed losses up to those rounds; None where nothing was mixed in.
    """

    task: str
    a_step: int
    b_step: int
    found: HeadToHead
    telling: Telling
    a_only: int
    b_only: int
    relabelled: int
    a_losses: MixedLosses | None
    b_losses: MixedLosses | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """Run A against run B, for each task that both measured."""

    a: RunRow
    b: RunRow
    tasks: tuple[TaskComparison, ...]


def compare_runs(history: History, a_ref: str, b_ref: str, step: int | None, task: str | None) -> Comparison:
    """Compare two runs at their last rounds, or both at ``step``.

    Raises:
        IntrospectionError: no such run, round or task; the same run twice; no example in common; examples that are
            other questions, or have other labels, in the one than in the other.
    """
    a, b = history.find_run(a_ref), history.find_run(b_ref)
    if a.id == b.id:
        raise IntrospectionError(f"{_name(a)} is compared with itself: name two runs, `iprobe runs` lists them")
    a_rounds, b_rounds = (_rounds(history, run, step) for run in (a, b))
    common = _common_tasks(a, b, a_rounds, b_rounds, task)
    return Comparison(a, b, tuple(_compare_task(history, a, b, a_rounds, b_rounds, name) for name in common))


def _name(run: RunRow) -> str:
    return f"run {run.id} ({safe_text(run.name, 60)!r})"


def _rounds(history: History, run: RunRow, step: int | None) -> list[ScoredRound]:
    """The run's rounds, those at ``step`` alone where one is asked for; never none."""
    rounds = history.rounds(run.id)
    if not rounds:
        raise IntrospectionError(f"{_name(run)} has no round yet: wait for its first one")
    if step is None:
        return rounds
    at = [scored for scored in rounds if scored.step == step]
    if not at:
        steps = [scored.step for scored in rounds]
        nearest = sorted(sorted(steps, key=lambda other: abs(other - step))[:3])
        raise IntrospectionError(
            f"{_name(run)} has no round at step {step}: the nearest of its {len(steps)} are at"
            f" {', '.join(map(str, nearest))}"
        )
    return at


def _common_tasks(
    a: RunRow, b: RunRow, a_rounds: Sequence[ScoredRound], b_rounds: Sequence[ScoredRound], task: str | None
) -> list[str]:
    a_tasks, b_tasks = (
        list(dict.fromkeys(name for scored in rounds for name in scored.scores)) for rounds in (a_rounds, b_rounds)
    )
    common = [name for name in a_tasks if name in b_tasks and task in (None, name)]
    if not common:
        wanted = "" if task is None else f" {safe_text(task, 60)!r}"
        has = "; ".join(f"{_name(run)} has {some_names(names)}" for run, names in ((a, a_tasks), (b, b_tasks)))
        raise IntrospectionError(f"the two rounds have no task{wanted} in common: {has}")
    return common


def _compare_task(
    history: History,
    a: RunRow,
    b: RunRow,
    a_rounds: Sequence[ScoredRound],
    b_rounds: Sequence[ScoredRound],
    task: str,
) -> TaskComparison:
    a_step, b_step = (max(scored.step for scored in rounds if task in scored.scores) for rounds in (a_rounds, b_rounds))
    a_examples = {example.example_id: example for example in history.examples(a.id, a_step, task=task)}
    b_examples = {example.example_id: example for example in history.examples(b.id, b_step, task=task)}
    common = [(example, b_examples[key]) for key, example in a_examples.items() if key in b_examples]
    if not common:
        raise IntrospectionError(
            f"{_name(a)} and {_name(b)} have no example of {safe_text(task, 60)!r} in common:"
            " compare runs that use the same probe set"
        )
    _same_questions(a, b, task, common)
    kept = _same_labels(a, b, task, common)
    found = compare_head_to_head(
        [PairedExample(_rollout(ours), _rollout(theirs), _label(ours, theirs)) for ours, theirs in kept]
    )
    return TaskComparison(
        task=task,
        a_step=a_step,
        b_step=b_step,
        found=found,
        telling=tell(found),
        a_only=len(a_examples) - len(common),
        b_only=len(b_examples) - len(common),
        relabelled=len(common) - len(kept),
        a_losses=_losses(history, a, a_step),
        b_losses=_losses(history, b, b_step),
    )


def _losses(history: History, run: RunRow, step: int) -> MixedLosses | None:
    """What the run's last steps up to this one cost."""
    return max((losses for losses in history.losses(run.id) if losses.step <= step), key=lambda o: o.step, default=None)


_Pairs = Sequence[tuple[ExampleRow, ExampleRow]]


def _same_questions(a: RunRow, b: RunRow, task: str, common: _Pairs) -> None:
    for ours, theirs in common:
        if ours.prompt is None or theirs.prompt is None:
            continue  # the probe set was not saved; the id is all there is
        if (ours.prompt, ours.cue, ours.options) != (theirs.prompt, theirs.cue, theirs.options):
            raise IntrospectionError(
                f"example {safe_text(ours.example_id, 60)!r} of {safe_text(task, 60)!r} is another question in"
                f" {_name(a)} than in {_name(b)}: compare runs that use the same probe set"
            )


def _same_labels(a: RunRow, b: RunRow, task: str, common: _Pairs) -> _Pairs:
    """The examples whose E(M0) is the same in both runs, as far as it is known."""
    kept = [
        (ours, theirs)
        for ours, theirs in common
        if ours.m0 is None or theirs.m0 is None or ours.m0.explanation == theirs.m0.explanation
    ]
    other = len(common) - len(kept)
    if other > _MAX_RELABELLED * len(common):
        raise IntrospectionError(
            f"the labels of {safe_text(task, 60)!r} mean two things: E(M0) differs on {other} of {len(common)} common"
            f" examples between {_name(a)} and {_name(b)}, whose probe sets were made from different models:"
            " compare runs that use the same probe set"
        )
    return kept


def _rollout(example: ExampleRow) -> Rollout:
    return Rollout(example.example_id, example.behavior, example.predicted_text, example.predicted)


def _label(ours: ExampleRow, theirs: ExampleRow) -> Explanation | None:
    return None if ours.m0 is None or theirs.m0 is None else ours.m0.explanation
