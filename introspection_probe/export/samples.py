"""What is exported, as a pure function of what is known: no server, no registry, no state.

A sample exists only for something that was measured: a missing ratio is a missing series, never 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric as Family

from introspection_probe import __version__
from introspection_probe.records import Alert
from introspection_probe.scoring.counts import ExplanationScores, RoundScores
from introspection_probe.scoring.intervals import paired_difference

LABEL_LIMIT = 128
"""Characters of a label's value: names come from people, and a series' labels are kept in memory by everybody."""


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric that this program exports.

    Attributes:
        name: as scraped.
        labels: the label names, in order.
        help: one sentence.
    """

    name: str
    kind: Literal["gauge", "counter"]
    labels: tuple[str, ...]
    help: str


_TARGET = ("run", "task", "target")
_TASK = ("run", "task")
_RUN = ("run",)

METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric(
            "iprobe_explanation_exact_match_ratio",
            "gauge",
            _TARGET,
            "Share of probes whose explanation equals the target's, flag and content, in the last round.",
        ),
        Metric(
            "iprobe_explanation_content_match_ratio",
            "gauge",
            _TARGET,
            "Share of probes whose explanation states the target's answer without the cue.",
        ),
        Metric(
            "iprobe_explanation_f1_ratio",
            "gauge",
            (*_TARGET, "class"),
            "F1 of saying that the cue changed, or did not change, the answer.",
        ),
        Metric(
            "iprobe_explanation_constant_match_ratio",
            "gauge",
            _TARGET,
            "Exact match that the best single explanation, given to every probe, would have had.",
        ),
        Metric(
            "iprobe_explanation_matches",
            "gauge",
            _TARGET,
            "Probes whose explanation equals the target's in the last round.",
        ),
        Metric("iprobe_explanation_examples", "gauge", _TARGET, "Probes that the target's ratios are taken over."),
        Metric("iprobe_probe_examples", "gauge", _TASK, "Probes measured in the last round."),
        Metric(
            "iprobe_coupling_gap_ratio",
            "gauge",
            (*_TASK, "bound"),
            "Self exact match minus Orig exact match on the same probes, with its 95% interval.",
        ),
        Metric(
            "iprobe_disagreement_examples",
            "gauge",
            _TASK,
            "Probes whose true explanation is no longer the starting model's.",
        ),
        Metric(
            "iprobe_disagreement_self_share_ratio",
            "gauge",
            _TASK,
            "Of the disagreement probes that were resolved either way, the share resolved as Self.",
        ),
        Metric(
            "iprobe_label_agreement_ratio",
            "gauge",
            _TASK,
            "Share of probes whose supervision label is still the true explanation.",
        ),
        Metric(
            "iprobe_behavior_exact_match_ratio",
            "gauge",
            (*_TASK, "variant"),
            "Share of probes answered as the starting model did: with the cue, without it, or both.",
        ),
        Metric(
            "iprobe_behavior_changed_ratio",
            "gauge",
            _TASK,
            "Share of probes whose answer the cue changes.",
        ),
        Metric(
            "iprobe_predicted_changed_ratio",
            "gauge",
            _TASK,
            "Share of parsed explanations that say the cue changed the answer.",
        ),
        Metric(
            "iprobe_parse_failures_total", "counter", _TASK, "Explanations that could not be parsed, over all rounds."
        ),
        Metric(
            "iprobe_mix_loss",
            "gauge",
            (*_RUN, "term"),
            "Mixed loss by term, before its weight: mean over the optimizer steps that the host logged last.",
        ),
        Metric("iprobe_rounds_total", "counter", _RUN, "Rounds taken."),
        Metric("iprobe_round_failures_total", "counter", _RUN, "Rounds that failed."),
        Metric("iprobe_round_duration_seconds", "gauge", _RUN, "Wall-clock time of the last round."),
        Metric(
            "iprobe_round_overhead_ratio", "gauge", _RUN, "Share of the run's wall-clock time that rounds took so far."
        ),
        Metric(
            "iprobe_round_interval_seconds",
            "gauge",
            _RUN,
            "Wall-clock time from the start of the round before the last one to the start of the last one.",
        ),
        Metric("iprobe_last_round_timestamp_seconds", "gauge", _RUN, "Unix time at which the last round ended."),
        Metric("iprobe_last_round_step", "gauge", _RUN, "Optimizer steps done at the last round."),
        Metric("iprobe_train_step", "gauge", _RUN, "Optimizer steps done."),
        Metric(
            "iprobe_alert_active",
            "gauge",
            (*_TASK, "alert"),
            "1 while the condition holds, 0 once it has cleared; absent while it never held.",
        ),
        Metric("iprobe_run_active", "gauge", _RUN, "1 while the run trains, 0 when it has ended."),
        Metric(
            "iprobe_run_start_time_seconds", "gauge", _RUN, "Unix time at which the run began, or went on when resumed."
        ),
        Metric("iprobe_run_info", "gauge", (*_RUN, "model", "version"), "What is running; always 1."),
    )
}


SeriesKey = tuple[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Sample:
    """One exported number: ``labels`` are the values of the metric's label names, in order."""

    metric: str
    labels: tuple[str, ...]
    value: float

    @property
    def key(self) -> SeriesKey:
        """What makes it one series: a later sample of the same key replaces it."""
        return (self.metric, self.labels)


class TakenRound(Protocol):
    """What both a live :class:`~introspection_probe.records.Round` and a stored round tell of themselves."""

    @property
    def step(self) -> int: ...  # noqa: D102
    @property
    def started_at(self) -> datetime: ...  # noqa: D102
    @property
    def duration_s(self) -> float: ...  # noqa: D102


def label(text: str) -> str:
    """A label value that every scraper can hold: no control characters or lone surrogates, at most 128 characters."""
    return "".join(c if c.isprintable() else "\ufffd" for c in text[:LABEL_LIMIT])


def run_samples(run: str, model: str, began: datetime, *, active: bool) -> list[Sample]:
    """What is known of a run before its first round.

    Args:
        began: when it began or, where it was resumed, went on.
    """
    name = label(run)
    return [
        Sample("iprobe_run_info", (name, label(model), __version__), 1),
        Sample("iprobe_run_active", (name,), active),
        Sample("iprobe_run_start_time_seconds", (name,), began.timestamp()),
    ]


def round_samples(run: str, round_: TakenRound, scores: Mapping[str, RoundScores]) -> list[Sample]:
    """What the last round measured; ``scores`` by task."""
    name = label(run)
    samples = [
        Sample("iprobe_round_duration_seconds", (name,), round_.duration_s),
        Sample("iprobe_last_round_timestamp_seconds", (name,), round_.started_at.timestamp() + round_.duration_s),
        Sample("iprobe_last_round_step", (name,), round_.step),
    ]
    for task, task_scores in scores.items():
        samples += _task_samples((name, label(task)), task_scores)
    return samples


def interval_samples(run: str, before: datetime | None, last: datetime) -> list[Sample]:
    """How long rounds lie apart, from the starts of two; nothing without a round before, or where clocks went back."""
    if before is None or last <= before:
        return []
    return [Sample("iprobe_round_interval_seconds", (label(run),), (last - before).total_seconds())]


def loss_samples(run: str, means: Mapping[str, float]) -> list[Sample]:
    """The mixed losses by term; one that is not finite is exported as it is, since a broken loss must be seen."""
    return [Sample("iprobe_mix_loss", (label(run), label(term)), mean) for term, mean in means.items()]


def counter_samples(run: str, rounds: int, failures: int, parse_failures: Mapping[str, int]) -> list[Sample]:
    """What only ever grows; ``parse_failures`` by task."""
    name = label(run)
    return [
        Sample("iprobe_rounds_total", (name,), rounds),
        Sample("iprobe_round_failures_total", (name,), failures),
        *(Sample("iprobe_parse_failures_total", (name, label(task)), count) for task, count in parse_failures.items()),
    ]


def alert_samples(run: str, alerts: Iterable[Alert]) -> list[Sample]:
    """The conditions that hold (1) or have cleared (0)."""
    return [
        Sample("iprobe_alert_active", (label(run), label(alert.task), label(alert.name)), alert.active)
        for alert in alerts
    ]


def families(samples: Iterable[Sample]) -> Iterator[Family]:
    """The samples as Prometheus families, in the order of ``METRICS``; a metric without samples is left out."""
    # By key: two names that are one once they are shortened must not make a page that no scraper accepts.
    series = {sample.key: sample for sample in samples}
    by_metric: dict[str, list[Sample]] = {}
    for sample in series.values():
        by_metric.setdefault(sample.metric, []).append(sample)
    for name, metric in METRICS.items():
        if name in by_metric:
            family_type = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
            family = family_type(name, metric.help, labels=metric.labels)
            for sample in by_metric[name]:
                family.add_metric(sample.labels, sample.value)
            yield family


def _task_samples(task: tuple[str, str], scores: RoundScores) -> Iterator[Sample]:
    yield Sample("iprobe_probe_examples", task, scores.n)
    yield Sample("iprobe_disagreement_examples", task, scores.disagreements)
    yield from _measured("iprobe_disagreement_self_share_ratio", task, scores.paired.self_share)
    yield from _measured("iprobe_label_agreement_ratio", task, scores.label_agreement)
    yield from _measured("iprobe_behavior_changed_ratio", task, scores.behavior_changed_share)
    yield from _measured("iprobe_predicted_changed_ratio", task, scores.predicted_changed_share)
    behavior = scores.behavior
    for variant, value in (
        ("both", behavior.both),
        ("included", behavior.included),
        ("ablated", behavior.ablated),
    ):
        yield from _measured("iprobe_behavior_exact_match_ratio", (*task, variant), value)
    gap = paired_difference(scores.paired)
    if gap is not None:
        for bound, value in (("estimate", gap.estimate), ("lower", gap.lower), ("upper", gap.upper)):
            yield Sample("iprobe_coupling_gap_ratio", (*task, bound), value)
    for name, target in scores.targets.items():
        yield from _target_samples((*task, label(name)), target)


def _target_samples(target: tuple[str, ...], scores: ExplanationScores) -> Iterator[Sample]:
    yield Sample("iprobe_explanation_matches", target, scores.exact_matches)
    yield Sample("iprobe_explanation_examples", target, scores.n)
    yield from _measured("iprobe_explanation_exact_match_ratio", target, scores.exact_match)
    yield from _measured("iprobe_explanation_content_match_ratio", target, scores.content_match)
    yield from _measured("iprobe_explanation_constant_match_ratio", target, scores.constant_match)
    yield from _measured("iprobe_explanation_f1_ratio", (*target, "changed"), scores.changed_f1)
    yield from _measured("iprobe_explanation_f1_ratio", (*target, "unchanged"), scores.unchanged_f1)


def _measured(metric: str, labels: tuple[str, ...], value: float | None) -> Iterator[Sample]:
    if value is not None:
        yield Sample(metric, labels, value)
