"""What `iprobe watch` looks at: one run of the history, of which every look reads only what is new."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from statistics import median

from introspection_probe.history import (
    AlertRow,
    History,
    HistoryUnavailableError,
    MixedLosses,
    NotThereError,
    RunRow,
    ScoredRound,
)
from iprobe.summary import Course, Summary, summarize
from iprobe.text import safe_text


@dataclass(frozen=True, slots=True)
class Look:
    """What there is to see.

    Attributes:
        summary: None while there is no run yet.
        alarms: the alerts that stand, of all tasks.
        every_s: how far apart the rounds of this session of the run usually are, in seconds; None with fewer than two.
        trouble: why the history cannot be read just now, or what is waited for; None when all is well.
    """

    summary: Summary | None
    alarms: tuple[AlertRow, ...] = ()
    every_s: float | None = None
    trouble: str | None = None

    @property
    def ended(self) -> bool:
        """Whether the run says that it has ended, so that nothing new is to come."""
        return self.summary is not None and self.summary.run.status != "running"

    @property
    def round_age_s(self) -> float | None:
        """Seconds since the last round of the task was finished."""
        if self.summary is None or not self.summary.rounds:
            return None
        last = self.summary.rounds[-1]
        return max((self.summary.now - last.started_at).total_seconds() - last.duration_s, 0.0)

    @property
    def news(self) -> tuple[object, ...]:
        """What changes only when something happened, whatever the time."""
        if self.summary is None:
            return (self.trouble,)
        run, rounds = self.summary.run, self.summary.rounds
        # A round may be taken again at the same step, by a run that was resumed.
        last = (rounds[-1].step, rounds[-1].started_at) if rounds else None
        alarms = tuple((alarm.name, alarm.task) for alarm in self.alarms)
        return (run.id, run.resumed_at, run.status, last, alarms, self.summary.stale, self.trouble)


class Watched:
    """Looks at a run again and again. It opens the history anew each time, so a replaced or restarted one is no matter.

    Args:
        ref: as for `iprobe report`; once it was found, the run stays the same even when a later one fits.
        task: which task of the run; the first one by default.
    """

    def __init__(self, db: str | None, ref: str | None, task: str | None) -> None:
        self._db, self._ref, self._task = db, ref, task
        self._run: RunRow | None = None
        self._rounds: dict[int, ScoredRound] = {}
        self._alerts: list[AlertRow] = []
        self._losses: list[MixedLosses] = []
        self._looked = False

    def look(self) -> Look:
        """The run as it is now.

        Raises:
            IntrospectionError: waiting would not help: another file than a history, a task that the run does not have.
            HistoryUnavailableError: the history could not be read at the first look. Later this is ``trouble``.
        """
        first, self._looked = not self._looked, True
        trouble = None
        try:
            with History.open(self._db, must_exist=True) as history:
                self._read(history)
        except NotThereError as error:
            if self._run is None:
                return Look(None, trouble=safe_text(str(error), 500))
            trouble = f"the history is gone: {safe_text(str(error), 500)}"
        except HistoryUnavailableError as error:
            if first:
                raise
            trouble = safe_text(str(error), 500)
        if self._run is None:
            return Look(None, trouble=trouble)
        rounds = [self._rounds[step] for step in sorted(self._rounds)]
        course = Course.of(self._run, rounds, self._alerts, self._losses, self._db)
        summary = summarize(course, self._task_now(course))
        return Look(
            summary=summary,
            alarms=tuple(alert for alert in self._alerts if alert.active),
            every_s=_usual_interval(rounds, since=self._run.resumed_at),
            trouble=trouble,
        )

    def _read(self, history: History) -> None:
        known = self._run
        run = history.find_run(self._ref if known is None else str(known.id))
        if known is not None and known.uid != run.uid:
            raise NotThereError(f"run {known.id} is now another one, {run.name!r}: watch again")
        if known is not None and known.updated_at == run.updated_at:
            return
        # A resumed run takes earlier rounds again, so all of them are read again.
        resumed = known is None or known.resumed_at != run.resumed_at
        since = None if resumed or not self._rounds else max(self._rounds)
        new = {scored.step: scored for scored in history.rounds(run.id, since_step=since)}
        self._rounds = new if resumed else self._rounds | new
        self._alerts = history.alerts(run.id)
        self._losses = history.losses(run.id)
        self._run = run

    def _task_now(self, course: Course) -> str | None:
        """The task asked for; before the first round, a run may not know its tasks yet."""
        return self._task if course.tasks else None


def _usual_interval(rounds: Iterable[ScoredRound], since: datetime) -> float | None:
    starts = [scored.started_at for scored in rounds if scored.started_at >= since]
    gaps = [(later - earlier).total_seconds() for earlier, later in pairwise(starts)]
    return median(gaps) if gaps else None
