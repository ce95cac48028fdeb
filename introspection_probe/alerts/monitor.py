"""From scored rounds to alarms that an operator can believe.

Every round is compared with the baseline on the same examples, and the error budget is spent over the rounds of the
run, its conditions and its tasks, so that the chance of even one false alarm in a whole run is at most ``alpha``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from introspection_probe.alerts.conditions import (
    TESTS,
    AlertConfig,
    Finding,
    alert,
    behavior_drifted,
    standing,
    without_signal,
)
from introspection_probe.errors import IntrospectionError
from introspection_probe.records import Alert, Behavior, Rollout
from introspection_probe.scoring.comparison import PairedChange, count_pairs
from introspection_probe.scoring.counts import RoundScores
from introspection_probe.scoring.drift import ChangePoint, change_points, spend
from introspection_probe.scoring.quoting import quoted

# A model may need to learn these before they can be lost: see AlertConfig.grace_rounds.
_LEARNED = ("explanations_degenerate", "parse_failures")
# A round of which no explanation can be read does not say that this is over.
_UNREAD = "explanations_degenerate"


@dataclass(frozen=True, slots=True)
class TaskRound:
    """One task's part of a round: its scores, and the rollouts that they were made of, in any order.

    Attributes:
        run: the name of the earlier run that it is from; empty for the run that is watched.
    """

    step: int
    scores: RoundScores
    rollouts: Sequence[Rollout]
    run: str = ""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What one more round changed.

    Attributes:
        active: every alert that stands, with the newest numbers.
        raised: those of ``active`` that did not stand before.
        cleared: those that stood and do no more, with ``active=False``.
    """

    active: tuple[Alert, ...]
    raised: tuple[Alert, ...]
    cleared: tuple[Alert, ...]


class Monitor:
    """Watches one task of one run. Give it every round, in order; a resumed run is given its earlier rounds again.

    It keeps a byte an example and round, whatever the length of the answers.

    Args:
        task: the name that its alerts carry.
        tasks: how many tasks the run has: they share the error budget.
        baseline: a round of an earlier run to compare with. By default the first round is the baseline.
        taught: whether the run trains on the task's labels. Where it does not, it is no matter whether they are true.
    """

    def __init__(
        self,
        task: str,
        config: AlertConfig | None = None,
        *,
        tasks: int = 1,
        baseline: TaskRound | None = None,
        taught: bool = True,
    ) -> None:
        self._task = task
        self._config = config or AlertConfig()
        self._budget = self._config.alpha / (TESTS * tasks)
        self._taught = taught
        self._ids: dict[str, int] = {}
        self._behavior: dict[str, Behavior] = {}
        self._steps: list[int] = []
        self._matched: list[bytes] = []
        self._healthy: set[str] = set()
        self._standing: dict[str, Alert] = {}
        self._facts: dict[str, str] = {}
        # The round with which a fall of the explanations was found, and how deep it was then.
        self._fall: tuple[int, float] | None = None
        self._signal_fact: str | None = None
        # Rounds before the run's own: the pinned baseline, if there is one.
        self._foreign = 0
        self._baseline_run = ""
        if baseline is not None:
            self._start(baseline)
            self._foreign, self._baseline_run = 1, baseline.run

    @property
    def active(self) -> tuple[Alert, ...]:
        """The alerts that stand."""
        return tuple(self._standing.values())

    def look(self, round_: TaskRound) -> Judgement:
        """Judge one more round.

        Raises:
            IntrospectionError: the round has no example in common with the baseline.
        """
        if not self._ids:
            self._start(round_)
            found: dict[str, str] = {}
        else:
            found = self._judge(round_)
        if self._signal_fact is not None:
            found["probe_set_without_signal"] = self._signal_fact
        before, self._facts = self._standing, found
        self._standing = {name: alert(name, self._task, round_.step, fact) for name, fact in found.items()}
        return Judgement(
            active=self.active,
            raised=tuple(now for name, now in self._standing.items() if name not in before),
            cleared=tuple(
                Alert(old.name, old.task, round_.step, old.severity, old.summary, old.remedy, active=False)
                for name, old in before.items()
                if name not in self._standing
            ),
        )

    def change_points(self) -> list[ChangePoint]:
        """The sharp shifts of Self EM in this run so far, up or down, each with the step at which it happened."""
        own = slice(self._foreign, None)
        return change_points(self._steps[own], self._matched[own], alpha=self._config.alpha)

    def _start(self, baseline: TaskRound) -> None:
        if not baseline.rollouts:
            raise IntrospectionError(f"the baseline of task {self._task!r} is empty: measure at least one example")
        self._ids = {rollout.example_id: place for place, rollout in enumerate(baseline.rollouts)}
        self._behavior = {rollout.example_id: rollout.behavior for rollout in baseline.rollouts}
        self._keep(baseline)
        self._signal_fact = without_signal(baseline.scores)
        for finding in standing(baseline.scores, self._config):
            if not finding.failing(spend(self._budget, 1), self._config):
                self._healthy.add(finding.name)

    def _keep(self, round_: TaskRound) -> None:
        row = bytearray(b"\x02" * len(self._ids))  # 2: not asked in this round
        for rollout in round_.rollouts:
            if rollout.example_id in self._ids:
                row[self._ids[rollout.example_id]] = rollout.predicted == rollout.behavior.explanation
        self._steps.append(round_.step)
        self._matched.append(bytes(row))

    def _judge(self, round_: TaskRound) -> dict[str, str]:
        """The facts of the conditions that stand after this round, by name."""
        common = [rollout for rollout in round_.rollouts if rollout.example_id in self._ids]
        if not common:
            raise IntrospectionError(
                f"the round at step {round_.step} has no example of the baseline:"
                " compare rounds that were taken with the same probe set"
            )
        self._keep(round_)
        look = len(self._matched) - 1
        level = spend(self._budget, look)
        moved = sum(rollout.behavior != self._behavior[rollout.example_id] for rollout in common)
        facts = {}
        drift = self._explanations_drifted(look)
        if drift is not None:
            facts["explanations_drifted"] = drift
        findings = [*standing(round_.scores, self._config), behavior_drifted(moved, len(common), self._config)]
        if not self._taught:
            findings = [finding for finding in findings if finding.name != "label_agreement_low"]
        if _UNREAD in self._facts and not any(finding.name == _UNREAD for finding in findings):
            facts[_UNREAD] = self._facts[_UNREAD]
        for finding in findings:
            failing = finding.failing(level, self._config)
            if finding.name in self._standing:
                # It takes more to raise an alarm than to keep it: what is still beyond the limit is not over.
                stands = finding.effect > 0
            else:
                stands = failing and self._may_fail(finding.name, look)
            if stands:
                facts[finding.name] = finding.fact
            if not failing:
                self._healthy.add(finding.name)
        return facts

    def _may_fail(self, name: str, look: int) -> bool:
        if name in self._healthy:
            return True
        if name == "answers_collapsed":
            return False  # it was so from the start, which is what probe_set_without_signal says
        return name not in _LEARNED or look > self._config.grace_rounds

    def _explanations_drifted(self, look: int) -> str | None:
        """Self EM against the baseline's and against the best round's so far; the fact when it fell."""
        if self._fall is not None:
            reference, depth = self._fall
            finding = self._fall_since(reference)
            if finding.effect >= depth / 2:
                return finding.fact + self._shape(finding, reference)
            self._fall = None
        best = max(range(look), key=lambda place: self._matched[place].count(1))
        # The union bound runs over every pair of rounds, so the reference may be chosen by looking at the data.
        for reference in sorted({0, best}):
            finding = self._fall_since(reference)
            if finding.failing(spend(spend(self._budget, look), reference + 1), self._config):
                self._fall = (reference, finding.effect)
                return finding.fact + self._shape(finding, reference)
        return None

    def _fall_since(self, reference: int) -> Finding:
        change = self._change(reference, -1)
        p = change.p_fall
        of_run = f" of run {quoted(self._baseline_run)}" if reference < self._foreign and self._baseline_run else ""
        fact = (
            f"Self EM fell from {change.before or 0:.2f} at step {self._steps[reference]}{of_run} to"
            f" {change.after or 0:.2f} at step {self._steps[-1]} on the same {change.n} examples"
            f" ({change.lost} explanations turned wrong, {change.gained} right; exact McNemar test, p = {p:.1g})"
        )
        return Finding("explanations_drifted", change.fall, p, fact)

    def _change(self, before: int, after: int) -> PairedChange:
        return count_pairs(zip(self._matched[before], self._matched[after], strict=True))

    def _shape(self, fall: Finding, reference: int) -> str:
        """Where the fall happened, if at least half of it happened at once."""
        if reference < self._foreign:
            reference = self._foreign
            if self._change(0, reference).fall >= fall.effect / 2:
                return ", most of it before this run's first round"
        sharp = [
            point
            for point in self.change_points()
            if point.before - point.after >= fall.effect / 2 and point.after_step >= self._steps[reference]
        ]
        if not sharp:
            return ", step by step rather than at once"
        last = sharp[-1]
        return f", sharply between step {last.after_step} and step {last.step}"


def evaluate(
    rounds: Sequence[TaskRound],
    config: AlertConfig | None = None,
    *,
    task: str = "",
    tasks: int = 1,
    baseline: TaskRound | None = None,
) -> list[Alert]:
    """The alerts that stand after the last of these rounds of one run, in order of their steps.

    Args:
        rounds: all rounds of the run so far; the first is the baseline unless one is given.
        task, tasks, baseline: as for :class:`Monitor`.
    """
    monitor = Monitor(task, config, tasks=tasks, baseline=baseline)
    for round_ in rounds:
        monitor.look(round_)
    return list(monitor.active)
