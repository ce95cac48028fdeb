"""What `iprobe serve` exports of a history: the last round of every run, as samples."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from introspection_probe.export.samples import (
    Sample,
    alert_samples,
    counter_samples,
    interval_samples,
    label,
    loss_samples,
    round_samples,
    run_samples,
)
from introspection_probe.history import AlertRow, History, MixedLosses, RunRow, ScoredRound
from introspection_probe.records import Alert

ABANDONED_AFTER = timedelta(days=1)
"""A run that says "running" tells of itself at least once a minute; after a day of silence nobody waits for it."""


@dataclass(slots=True)
class _Known:
    """What was read of a run, so that a scrape reads only what is new.

    Attributes:
        resumed_at, updated_at: of the run when it was read.
        last: the last round; the only one whose scores are kept.
        starts: when each round of the present session began, by step.
        failures: unparseable explanations by task, for each step.
    """

    resumed_at: datetime
    updated_at: datetime
    last: ScoredRound | None = None
    starts: dict[int, datetime] = field(default_factory=dict)
    failures: dict[int, dict[str, int]] = field(default_factory=dict)
    alerts: list[AlertRow] = field(default_factory=list)
    losses: list[MixedLosses] = field(default_factory=list)

    def add(self, scored: ScoredRound) -> None:
        self.last = scored
        self.failures[scored.step] = {task: scores.parse_failures for task, scores in scored.scores.items()}
        if scored.started_at >= self.resumed_at:
            self.starts[scored.step] = scored.started_at


class StoredSamples:
    """Reads the samples of the latest runs; what has not changed since the last reading is not read again.

    Args:
        open_history: opened anew for every reading, so that a replaced or restarted database is no matter.
        limit: how many names of runs, the latest first.
    """

    def __init__(self, open_history: Callable[[], History], limit: int) -> None:
        self._open = open_history
        self._limit = limit
        self._known: dict[int, _Known] = {}

    def read(self, now: datetime | None = None) -> list[Sample]:
        """The samples of all runs; of several runs with one name, those of the latest.

        Raises:
            IntrospectionError: the history cannot be read.
        """
        now = now or datetime.now(UTC)
        with self._open() as history:
            latest: dict[str, RunRow] = {}
            for run in history.latest_of_each_name(self._limit):
                latest.setdefault(label(run.name), run)  # two long names may have one label
            self._known = {run.id: self._refreshed(history, run) for run in latest.values()}
        return [sample for run in latest.values() for sample in _samples(run, self._known[run.id], now)]

    def _refreshed(self, history: History, run: RunRow) -> _Known:
        known = self._known.get(run.id)
        if known is not None and known.updated_at == run.updated_at:
            return known
        if known is None or known.resumed_at != run.resumed_at or known.last is None:
            known = _Known(run.resumed_at, run.updated_at)
            new = history.rounds(run.id)
        else:
            new = history.rounds(run.id, since_step=known.last.step)
        for scored in new:
            known.add(scored)
        known.alerts = history.alerts(run.id)
        known.losses = history.losses(run.id)[-1:]
        known.updated_at = run.updated_at
        return known


def _samples(run: RunRow, known: _Known, now: datetime) -> Iterator[Sample]:
    active = run.status == "running" and now - run.updated_at < ABANDONED_AFTER
    yield from run_samples(run.name, run.model, run.resumed_at, active=active)
    yield Sample("iprobe_train_step", (label(run.name),), run.step)
    if run.overhead is not None:
        yield Sample("iprobe_round_overhead_ratio", (label(run.name),), run.overhead)
    for losses in known.losses:
        # A broken loss must be seen.
        means: dict[str, float] = {term: math.nan if mean is None else mean for term, mean in losses.means.items()}
        yield from loss_samples(run.name, means)
    if known.last is not None:
        yield from round_samples(run.name, known.last, known.last.scores)
        starts = [known.starts[step] for step in sorted(known.starts)[-2:]]
        if len(starts) == 2:
            yield from interval_samples(run.name, *starts)
    failures: dict[str, int] = {}
    for counts in known.failures.values():
        for task, count in counts.items():
            failures[task] = failures.get(task, 0) + count
    # How often rounds failed is not in the history, and "not measured" is not 0.
    counters = counter_samples(run.name, len(known.failures), 0, failures)
    yield from (sample for sample in counters if sample.metric != "iprobe_round_failures_total")
    # Alerts come in the order they were raised: of one condition the last row is how it stands now.
    standing = {(row.task, row.name): row for row in known.alerts}
    yield from alert_samples(
        run.name,
        [
            Alert(row.name, row.task, row.raised_step, row.severity, row.summary, row.remedy, active=row.active)
            for row in standing.values()
        ],
    )
