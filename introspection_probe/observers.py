"""Everybody who is told about a run: its history, its metrics, the experiment trackers. Rank 0 only."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from introspection_probe.alerts import AlertConfig, Judgement, RunMonitor, choose_actions
from introspection_probe.baseline import Pinned
from introspection_probe.config import IntrospectionConfig
from introspection_probe.export.prometheus import Exporter
from introspection_probe.export.push import Publisher, parse_target
from introspection_probe.export.trackers import Trackers
from introspection_probe.guard import Guard
from introspection_probe.history import History, HistoryWriter
from introspection_probe.mixture import Mixture
from introspection_probe.records import Alert, LossTerm, MeanLoss, Round, RunInfo, RunStatus
from introspection_probe.scoring.counts import RoundScores


class Observers:
    """Tells all of them, each behind the guard: what one of them cannot take, the others still get.

    Args:
        mixture: the probe sets that rounds measure, at most ``config.max_probes`` of each.
        baseline: the round of an earlier run that alarms compare with; default: the run's first one.
        after_step: the run goes on after this step: what the history holds up to it is where the alarms go on.
    """

    def __init__(
        self,
        info: RunInfo,
        config: IntrospectionConfig,
        guard: Guard,
        *,
        mixture: Mixture,
        report_to: Sequence[str],
        output_dir: Path,
        baseline: Pinned | None = None,
        after_step: int | None = None,
    ) -> None:
        if baseline is not None:
            info = replace(info, config={**info.config, "baseline": baseline.facts()})
        self._guard = guard
        self._elsewhere = Guard("warn")
        self._exporter = Exporter(run=info.name, model=info.model)
        self.port: int | None = None
        if config.prometheus_port is not None:
            with guard("serving metrics"):
                self.port = self._exporter.serve(config.prometheus_port, config.prometheus_host)
        self._publisher: Publisher | None = None
        if config.prometheus is not None:
            target = parse_target(config.prometheus)
            self._publisher = Publisher(target, self._exporter.registry, info.name, on_error=self._publishing_failed)
        self._exporter.set_active(True)
        self._trackers = Trackers(report_to, output_dir)
        self._writer = HistoryWriter(config.db, on_error=self._history_failed)
        self._run_id: int | None = None
        task_of = {probe.example.id: probe.example.task for probe in mixture.measured(config.max_probes)}
        taught = {probe.example.task for part in mixture.parts for probe in part.taught()} if config.mixes else set()
        self._monitor = RunMonitor(
            task_of,
            AlertConfig(alpha=config.alert_alpha, min_effect=config.alert_min_effect),
            baselines=None if baseline is None else baseline.rounds,
            untaught={*task_of.values()} - taught,
        )
        self._stretched = config.max_overhead is not None
        self._actions = choose_actions(config.on_alert, run=info.name, on_error=self._action_failed)
        if after_step is not None:
            with guard("reading the run's earlier rounds"):
                self._replay(config.db, info.uid, after_step)

        def start(history: History) -> None:
            self._run_id = history.start_run(info, after_step=after_step)
            for part in mixture.parts:
                history.save_probe_set(
                    self._run_id,
                    content_hash=part.probe_set.content_hash,
                    name=part.name,
                    task=part.probe_set.task,
                    model=part.probe_set.manifest.model,
                    manifest=asdict(part.probe_set.manifest),
                    probes=part.probe_set.split("probe"),
                )

        self._writer.submit(start)

    def _replay(self, db: str | Path | None, uid: str, after_step: int) -> None:
        """Show the monitor what was measured before this process, so that it goes on where it was."""
        with History.open(db, must_exist=True) as history:
            run = history.find_run(uid)
            for earlier in history.rounds(run.id):
                if earlier.step <= after_step:
                    self._monitor.recall(earlier.step, history.rollouts(run.id, earlier.step), earlier.scores)
            self._monitor.recall_stale(
                Alert(row.name, row.task, row.raised_step, row.severity, row.summary, row.remedy)
                for row in history.alerts(run.id)
                if row.name == "round_stale" and row.stood_at(after_step)
            )
        # What stood when the run was broken off stands until the next round says otherwise.
        self._exporter.observe_alerts(self._monitor.active)

    def _publishing_failed(self, error: Exception) -> None:
        self._failed_elsewhere("publishing metrics", error)

    def _action_failed(self, error: Exception) -> None:
        self._failed_elsewhere("acting on an alert", error)

    def _history_failed(self, error: Exception) -> None:
        self._failed_elsewhere("writing the history", error)

    def _failed_elsewhere(self, doing: str, error: Exception) -> None:
        # In the writer's thread, where raising would stop nothing.
        self._guard.failures[doing] += 1
        self._elsewhere.report(doing, error)

    def round_taken(
        self, round_: Round, scores: Mapping[str, RoundScores], numbers: Mapping[str, float], overhead: float
    ) -> bool:
        """A round and its scores by task; ``numbers`` are the same in flat form for trackers.

        Returns:
            Whether an alert asks for the run to be saved and stopped.
        """
        self._submit(lambda history, run_id: history.record_round(run_id, round_, scores))
        self._submit(lambda history, run_id: history.update_run(run_id, step=round_.step, overhead=overhead))
        with self._guard("exporting metrics"):
            self._exporter.observe_round(round_, scores)
            self._exporter.observe_step(round_.step, overhead=overhead)
        self.track(numbers, round_.step)
        with self._guard("judging a round"):
            return self._judge(round_, scores)
        return False

    def _judge(self, round_: Round, scores: Mapping[str, RoundScores]) -> bool:
        return self._act(self._monitor.look(round_.step, round_.rollouts, scores))

    def _act(self, judgement: Judgement) -> bool:
        for alert in (*judgement.active, *judgement.cleared):
            self._submit(partial(_record_alert, alert))
        self._exporter.observe_alerts((*judgement.active, *judgement.cleared))
        return self._actions.run(judgement, self._action_failed)

    def round_failed(self) -> None:
        """A round that gave nothing."""
        with self._guard("exporting metrics"):
            self._exporter.round_failed()

    def between_rounds(self, step: int, *, every: int, began: int) -> None:
        """Say so, once, when rounds are overdue: see :meth:`RunMonitor.look_between`. Cheap enough for every step."""
        with self._guard("judging the time between rounds"):
            judgement = self._monitor.look_between(step, every=every, began=began, stretched=self._stretched)
            if judgement is not None:
                self._act(judgement)

    def heartbeat(self, step: int, losses: Mapping[str, float] | None = None) -> None:
        """The run lives and is at this step; with the mixed losses by term where they are new."""
        self._submit(lambda history, run_id: history.update_run(run_id, step=step), replaces="heartbeat")
        with self._guard("exporting metrics"):
            self._exporter.observe_step(step, losses)

    def losses_since_round(self, step: int, losses: Mapping[LossTerm, MeanLoss]) -> None:
        """The mixed losses of the steps since the round before, at the one that is due now or at the end."""
        self._submit(lambda history, run_id: history.record_losses(run_id, step, losses))

    def track(self, numbers: Mapping[str, float], step: int) -> None:
        """Numbers for the experiment trackers."""
        with self._guard("logging to the trackers"):
            self._trackers.log(numbers, step)

    def close(self, status: RunStatus, step: int | None = None) -> None:
        """The run is over, at that step or the last one told of: write what is left, and stop serving."""
        with self._guard("exporting metrics"):
            self._exporter.set_active(False)
            self._exporter.close()
        if self._publisher is not None:
            with self._guard("publishing metrics"):
                self._publisher.close()
        with self._guard("logging to the trackers"):
            self._trackers.close()
        self._submit(lambda history, run_id: history.update_run(run_id, step=step, status=status))
        self._writer.close()

    def _submit(self, write: Callable[[History, int], Any], *, replaces: str | None = None) -> None:
        def with_run(history: History) -> None:
            if self._run_id is not None:  # None when the run itself could not be recorded: reported already
                write(history, self._run_id)

        with self._guard("writing the history"):
            self._writer.submit(with_run, replaces=replaces)


def _record_alert(alert: Alert, history: History, run_id: int) -> None:
    history.record_alert(run_id, alert)
