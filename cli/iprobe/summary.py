"""What a report says, gathered from the history before anything is rendered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from statistics import median

from introspection_probe.errors import IntrospectionError
from introspection_probe.history import AlertRow, ExampleRow, History, MixedLosses, RunRow, ScoredRound
from introspection_probe.scoring import RoundScores, Verdict, judge
from introspection_probe.scoring.drift import ChangePoint
from iprobe.measures import Row, rows
from iprobe.shifts import find_shifts
from iprobe.text import safe_text, some_names

# The callback touches the run at least once a minute; ten silent minutes are a crash, a hang or a very long step.
STALE_AFTER = timedelta(minutes=10)

# Examples looked at to find the few most telling ones; a report must not read a whole round of ten thousand.
_CONSIDERED = 200


@dataclass(frozen=True, slots=True)
class Summary:
    """One task of one run.

    Attributes:
        task: None while the run has neither a task nor a round.
        tasks: all tasks of the run.
        rounds: the rounds that measured the task, oldest first.
        alerts: the task's alerts, cleared ones too.
        examples: some examples of the last round where explanation and behaviour part.
        verdict: what the last round's gap means; None while there is no round.
        losses: the mixed losses from round to round, of the whole run; empty where nothing is mixed in.
        shifts: the sharp shifts of Self EM, oldest first.
        stale: the run says "running", but nothing was heard of it for so long that it is probably dead.
        db: which history, as the user named it; None for the default.
    """

    run: RunRow
    task: str | None
    tasks: tuple[str, ...]
    rounds: tuple[ScoredRound, ...]
    rows: tuple[Row, ...]
    alerts: tuple[AlertRow, ...]
    examples: tuple[ExampleRow, ...]
    verdict: Verdict | None
    stale: bool
    now: datetime
    db: str | None = None
    shifts: tuple[ChangePoint, ...] = ()
    losses: tuple[MixedLosses, ...] = ()

    @property
    def latest(self) -> RoundScores | None:
        """The last round's scores."""
        return self.scores(self.rounds[-1]) if self.rounds else None

    def scores(self, scored: ScoredRound) -> RoundScores:
        """The task's scores in a round of this summary."""
        assert self.task is not None
        return scored.scores[self.task]

    @property
    def parted(self) -> int:
        """Examples of the last round whose explanation is not true of the behaviour beside it."""
        return self.latest.n - self.latest.self_scores.exact_matches if self.latest else 0

    @property
    def active_alerts(self) -> tuple[AlertRow, ...]:
        """The alerts that hold now."""
        return tuple(alert for alert in self.alerts if alert.active)

    @property
    def round_cost_s(self) -> float | None:
        """Median duration of a round, in seconds."""
        return median(scored.duration_s for scored in self.rounds) if self.rounds else None

    @property
    def other_tasks(self) -> tuple[str, ...]:
        """The run's tasks that this summary leaves out."""
        return tuple(name for name in self.tasks if name != self.task)


@dataclass(frozen=True, slots=True)
class Course:
    """What was read of a run, for the summaries of all its tasks.

    Attributes:
        tasks: those that it names and those that its rounds measured.
    """

    run: RunRow
    tasks: tuple[str, ...]
    rounds: Sequence[ScoredRound]
    alerts: Sequence[AlertRow]
    losses: Sequence[MixedLosses]
    now: datetime
    db: str | None

    @classmethod
    def of(
        cls,
        run: RunRow,
        rounds: Sequence[ScoredRound],
        alerts: Sequence[AlertRow],
        losses: Sequence[MixedLosses],
        db: str | None,
    ) -> Course:
        """As it stands now; ``db`` is repeated in the commands that the report suggests."""
        tasks = tuple(dict.fromkeys([*run.tasks, *(name for scored in rounds for name in scored.scores)]))
        return cls(run, tasks, rounds, alerts, losses, datetime.now(UTC), db)


def read_course(history: History, ref: str | None, db: str | None = None) -> Course:
    """The run that ``ref`` means: its number, its name, the beginning of its uid; by default the latest.

    Raises:
        IntrospectionError: no such run.
    """
    run = history.find_run(ref)
    return Course.of(run, history.rounds(run.id), history.alerts(run.id), history.losses(run.id), db)


def summarize(course: Course, task: str | None) -> Summary:
    """The summary of one task, the first one by default, without what takes rollouts: see :func:`with_rollouts`.

    Raises:
        IntrospectionError: the run has no such task.
    """
    run, tasks = course.run, course.tasks
    if task is not None and task not in tasks:
        known = f"it has {some_names(tasks)}" if tasks else "it has no round yet"
        raise IntrospectionError(f"run {safe_text(run.name, 60)!r} has no task {safe_text(task, 60)!r}: {known}")
    chosen = task or next(iter(tasks), None)
    rounds = tuple(scored for scored in course.rounds if chosen in scored.scores)
    scores = [scored.scores[chosen] for scored in rounds] if chosen is not None else []
    longest = max((scored.duration_s for scored in course.rounds), default=0.0)
    return Summary(
        run=run,
        task=chosen,
        tasks=tasks,
        rounds=rounds,
        rows=tuple(rows(scores)),
        alerts=tuple(alert for alert in course.alerts if alert.task == chosen),
        examples=(),
        verdict=judge(scores[-1]) if scores else None,
        stale=is_stale(run, longest, course.now),
        now=course.now,
        db=course.db,
        losses=tuple(course.losses),
    )


def with_rollouts(history: History, summary: Summary, examples: int) -> Summary:
    """The summary with its sharp shifts, and at most so many examples."""
    run, task = summary.run, summary.task
    if task is None or not summary.rounds:
        return summary
    shown: tuple[ExampleRow, ...] = ()
    if examples:
        limit = max(examples, _CONSIDERED)
        shown = _telling(history.disagreements(run.id, summary.rounds[-1].step, task=task, limit=limit))[:examples]
    return replace(summary, examples=shown, shifts=find_shifts(history, run.id, task, summary.rounds))


def _telling(examples: Sequence[ExampleRow]) -> tuple[ExampleRow, ...]:
    """The most telling first: true of M0 but no longer of the model, then other explanations, then none at all."""

    def rank(example: ExampleRow) -> int:
        if example.predicted is None:
            return 2
        return 0 if example.m0 is not None and example.predicted == example.m0.explanation else 1

    return tuple(sorted(examples, key=rank))


def is_stale(run: RunRow, longest_round_s: float, now: datetime) -> bool:
    """Whether a run that says "running" was silent for longer than ten minutes and than twice its longest round."""
    silent = now - run.updated_at
    return run.status == "running" and silent > max(STALE_AFTER, timedelta(seconds=2 * longest_round_s))
