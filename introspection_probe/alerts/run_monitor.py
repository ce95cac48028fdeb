"""All tasks of a run under watch: one error budget, and rounds that do not come."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from introspection_probe.alerts.conditions import AlertConfig, round_stale
from introspection_probe.alerts.monitor import Judgement, Monitor, TaskRound
from introspection_probe.errors import IntrospectionError
from introspection_probe.records import Alert, Rollout
from introspection_probe.scoring.counts import RoundScores
from introspection_probe.scoring.drift import ChangePoint


class RunMonitor:
    """Watches all tasks of a run: one :class:`Monitor` a task, which share the error budget.

    Args:
        task_of: the task of every example id of the probe split.
        baselines: by task, a round of an earlier run to compare with; the others' baseline is their first round.
        untaught: tasks whose labels the run does not train on.
    """

    def __init__(
        self,
        task_of: Mapping[str, str],
        config: AlertConfig | None = None,
        *,
        baselines: Mapping[str, TaskRound] | None = None,
        untaught: Collection[str] = (),
    ) -> None:
        self._task_of = task_of
        tasks = sorted(set(task_of.values()))
        pinned = baselines or {}
        self._monitors = {
            task: Monitor(task, config, tasks=len(tasks), baseline=pinned.get(task), taught=task not in untaught)
            for task in tasks
        }
        # By task: where a judge is down, the rounds of one task go on while the other's do not.
        self._last_step: dict[str, int] = {}
        self._gap: dict[str, int] = {}
        self._stale: dict[str, Alert] = {}

    @property
    def active(self) -> tuple[Alert, ...]:
        """Every alert that stands, of all tasks."""
        judged = (alert for monitor in self._monitors.values() for alert in monitor.active)
        return (*judged, *self._stale.values())

    def look(self, step: int, rollouts: Sequence[Rollout], scores: Mapping[str, RoundScores]) -> Judgement:
        """Judge one more round. What stands about a task that it did not measure stands on.

        Args:
            rollouts: of all tasks, in any order.
            scores: by task, of the same rollouts.

        Raises:
            IntrospectionError: an example that is not in the probe split, or as :meth:`Monitor.look`.
        """
        by_task: dict[str, list[Rollout]] = {task: [] for task in self._monitors}
        for rollout in rollouts:
            if rollout.example_id not in self._task_of:
                raise IntrospectionError(
                    f"the example {rollout.example_id!r} at step {step} is not in this run's probe set:"
                    " judge rounds with the set that they were taken with"
                )
            by_task[self._task_of[rollout.example_id]].append(rollout)
        judged = {
            task: monitor.look(TaskRound(step, scores[task], by_task[task]))
            for task, monitor in self._monitors.items()
            if task in scores
        }
        for task in judged:
            if task in self._last_step:
                self._gap[task] = step - self._last_step[task]
            self._last_step[task] = step
        over = [replace(self._stale.pop(task), step=step, active=False) for task in judged if task in self._stale]
        return Judgement(
            active=self.active,
            raised=tuple(alert for part in judged.values() for alert in part.raised),
            cleared=(*(alert for part in judged.values() for alert in part.cleared), *over),
        )

    def recall(self, step: int, rollouts: Sequence[Rollout], scores: Mapping[str, RoundScores]) -> None:
        """A round that was taken before this process began, so that the run is judged on where it was.

        Examples that are no longer measured are left out, and so is a task of which nothing is left.
        """
        known = [rollout for rollout in rollouts if rollout.example_id in self._task_of]
        tasks = {self._task_of[rollout.example_id] for rollout in known}
        self.look(step, known, {task: task_scores for task, task_scores in scores.items() if task in tasks})

    def look_between(self, step: int, *, every: int, began: int, stretched: bool = False) -> Judgement | None:
        """Between two rounds: what is new when rounds are overdue, once; else None. Cheap enough for every step.

        Args:
            step: optimizer steps done.
            every: steps between rounds.
            began: the step at which the run began or went on; counts while there was no round.
            stretched: a budget of time holds rounds back. That is told once; then the distance of the last two rounds
                is the usual one.
        """
        raised: list[Alert] = []
        for task in sorted(self._monitors.keys() - self._stale.keys()):
            usual = max(every, self._gap.get(task, 0)) if stretched else every
            stale = round_stale(task, step=step, last=self._last_step.get(task, began), now=step, every=usual)
            if stale is not None:
                self._stale[task] = stale
                raised.append(stale)
        return Judgement(active=self.active, raised=tuple(raised), cleared=()) if raised else None

    def recall_stale(self, alerts: Iterable[Alert]) -> None:
        """Rounds were overdue when the run was broken off: these alerts stand until the next round."""
        self._stale = {alert.task: alert for alert in alerts if alert.task in self._monitors}

    def change_points(self) -> dict[str, list[ChangePoint]]:
        """The sharp shifts of Self EM so far, by task."""
        return {task: monitor.change_points() for task, monitor in self._monitors.items()}
