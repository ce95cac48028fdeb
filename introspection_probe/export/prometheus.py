"""The live metrics of one run, for Prometheus to scrape. docs/metrics.md lists them."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from types import TracebackType
from typing import Self

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from introspection_probe.export.samples import (
    Sample,
    SeriesKey,
    TakenRound,
    alert_samples,
    counter_samples,
    families,
    interval_samples,
    label,
    loss_samples,
    round_samples,
    run_samples,
)
from introspection_probe.export.server import MetricsServer
from introspection_probe.records import Alert
from introspection_probe.scoring.counts import RoundScores


class Exporter(Collector):
    """What is now known of a run, as Prometheus samples in a registry of its own; a context manager.

    Safe to use from several threads: a scrape sees either all of a round or nothing of it.

    Attributes:
        registry: holds this exporter alone, so that nothing of the host's own metrics is served.

    Args:
        run: the run's name, the label ``run`` of every series.
        model: the model's name or path.
    """

    def __init__(self, run: str, model: str) -> None:
        self._run = run
        self._model = model
        self._lock = threading.Lock()
        self._began = datetime.now(UTC)
        self._active = True
        self._round: list[Sample] = []
        self._round_started: datetime | None = None
        self._step: dict[SeriesKey, Sample] = {}
        self._alerts: dict[SeriesKey, Sample] = {}
        self._rounds = 0
        self._failures = 0
        self._parse_failures: dict[str, int] = {}
        self._server: MetricsServer | None = None
        self.registry = CollectorRegistry()
        self.registry.register(self)

    def observe_round(self, round_: TakenRound, scores: Mapping[str, RoundScores]) -> None:
        """A round was taken; what the one before measured and this one did not is gone.

        Args:
            scores: by task.
        """
        samples = round_samples(self._run, round_, scores)
        with self._lock:
            self._round = samples + interval_samples(self._run, self._round_started, round_.started_at)
            self._round_started = round_.started_at
            self._rounds += 1
            for task, task_scores in scores.items():
                self._parse_failures[task] = self._parse_failures.get(task, 0) + task_scores.parse_failures

    def observe_step(
        self, step: int, mix_losses: Mapping[str, float] | None = None, *, overhead: float | None = None
    ) -> None:
        """An optimizer step was done.

        Args:
            step: steps done.
            mix_losses: the mixed loss by term (``"explanation"``, ``"kl"``), before its weight, over the steps since
                the last ones told; a term that is not finite is exported as it is, since a broken loss must be seen.
            overhead: share of the wall time that rounds took so far.
        """
        name = label(self._run)
        samples = [Sample("iprobe_train_step", (name,), step), *loss_samples(self._run, mix_losses or {})]
        if overhead is not None and math.isfinite(overhead):
            samples.append(Sample("iprobe_round_overhead_ratio", (name,), overhead))
        with self._lock:
            self._step.update((sample.key, sample) for sample in samples)

    def round_failed(self) -> None:
        """A round could not be taken."""
        with self._lock:
            self._failures += 1

    def observe_alerts(self, alerts: Iterable[Alert]) -> None:
        """The conditions as they stand now. One that was active and is not among them counts as cleared."""
        samples = alert_samples(self._run, alerts)
        with self._lock:
            self._alerts = {key: replace(sample, value=0) for key, sample in self._alerts.items()}
            self._alerts.update((sample.key, sample) for sample in samples)

    def set_active(self, active: bool) -> None:
        """Whether the run trains now. A run that has ended must not alarm as stale."""
        with self._lock:
            self._active = active

    def collect(self) -> Iterator[Family]:
        """For the registry: the families as they stand."""
        with self._lock:
            samples = [
                *run_samples(self._run, self._model, self._began, active=self._active),
                *counter_samples(self._run, self._rounds, self._failures, self._parse_failures),
                *self._step.values(),
                *self._round,
                *self._alerts.values(),
            ]
        return families(samples)

    def serve(self, port: int, addr: str = "127.0.0.1") -> int:
        """Serve ``http://addr:port/metrics`` until :meth:`close`; the port that is really used.

        A busy port moves to the next free one, and the log says which; 0 means any free one. Serving again moves
        to the new place.

        Raises:
            IntrospectionError: it cannot listen there.
        """
        self.close()
        self._server = MetricsServer(make_wsgi_app(self.registry), port, addr)
        return self._server.port

    def close(self) -> None:
        """Stop serving. What was observed is kept."""
        if self._server is not None:
            self._server.close()
            self._server = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
