"""`iprobe report --check`: the conditions that a run must hold, for a CI gate.

The alerts were judged by exact tests with an error budget when the rounds were taken. A threshold is the user's own
number, and is held against the estimate, the number in the report: the same probes answered greedily give the same
estimate again, so a gate on it does not flap. The interval stands beside it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from introspection_probe.alerts.conditions import CONDITIONS
from introspection_probe.history import AlertRow, RunRow
from iprobe.formatting import duration_text
from iprobe.measures import MEASURES, Measure
from iprobe.summary import Summary
from iprobe.text import safe_text
from iprobe.values import value_interval_text, value_text

Kind = Literal["run", "alert", "threshold"]


@dataclass(frozen=True, slots=True)
class Thresholds:
    """The least that is asked for, each None where nothing is."""

    min_self_em: float | None = None
    min_gap: float | None = None
    min_label_agreement: float | None = None


@dataclass(frozen=True, slots=True)
class Checked:
    """One condition, judged.

    Attributes:
        name: stable, for programs: ``run_status``, ``round_taken``, an alert's name, a threshold's.
        task: None for what is asked of the whole run.
        says: why it holds or does not, in sentences; foreign text in it is safe already.
    """

    name: str
    task: str | None
    kind: Kind
    holds: bool
    says: str


def run_checks(summaries: Sequence[Summary], thresholds: Thresholds) -> list[Checked]:
    """Every condition of a run, judged.

    Args:
        summaries: of one run, one for each task to check; a run without any task has one without.
    """
    checked = [_status(summaries[0])]
    for summary in summaries:
        checked.append(_taken(summary))
        if summary.rounds:
            checked += _alerts(summary)
            checked += _thresholds(summary, thresholds)
    return checked


def _status(summary: Summary) -> Checked:
    run = summary.run
    if summary.stale:
        silent = duration_text((summary.now - run.updated_at).total_seconds())
        says = f"The run says running, but was silent for {silent}: it is probably dead."
    else:
        says = f"The run is {run.status} at step {run.step}."
    return Checked("run_status", None, "run", run.status != "failed" and not summary.stale, says)


def _taken(summary: Summary) -> Checked:
    if not summary.rounds:
        return Checked("round_taken", summary.task, "run", False, "No round was taken, so nothing was measured.")
    says = f"{len(summary.rounds)} rounds were taken, the last one at step {summary.rounds[-1].step}."
    return Checked("round_taken", summary.task, "run", True, says)


def _alerts(summary: Summary) -> Iterator[Checked]:
    """One for each condition that this program knows, and for alerts that stand of a newer one's."""
    standing = {alert.name: alert for alert in summary.active_alerts}
    for name in dict.fromkeys([*CONDITIONS, *standing]):
        alert = standing.get(name)
        step = summary.rounds[-1].step
        says = f"No such alert stands at step {step}." if alert is None else _alert_words(alert)
        yield Checked(safe_text(name, 80), summary.task, "alert", alert is None, says)


def _alert_words(alert: AlertRow) -> str:
    said = safe_text(f"{alert.summary} {alert.remedy}", 1200)
    return f"{safe_text(alert.severity)} since step {alert.raised_step}: {said}"


def _thresholds(summary: Summary, thresholds: Thresholds) -> Iterator[Checked]:
    by_key = {measure.key: measure for measure in MEASURES}
    for name, key, least in (
        ("min_self_em", "self_exact_match", thresholds.min_self_em),
        ("min_gap", "coupling_gap", thresholds.min_gap),
        ("min_label_agreement", "label_agreement", thresholds.min_label_agreement),
    ):
        if least is not None:
            yield _threshold(summary, name, by_key[key], least)


def _threshold(summary: Summary, name: str, measure: Measure, least: float) -> Checked:
    assert summary.latest is not None  # asked only where a round was taken
    value = measure.value(summary.latest)
    interval = measure.interval(summary.latest) if measure.interval is not None else None
    if value is None or interval is None:
        says = f"{measure.label} was not measured; it must be {least:g} or more."
        return Checked(name, summary.task, "threshold", False, says)
    holds = value >= least
    says = (
        f"{measure.label} is {value_text(measure, value)} (95% interval {value_interval_text(measure, interval)})"
        f" on {summary.latest.n} probes; it must be {least:g} or more."
    )
    if interval.lower < least < interval.upper:
        says += f" The interval holds {least:g}: only more probes could tell for sure."
    return Checked(name, summary.task, "threshold", holds, says)


def failed(checked: Sequence[Checked]) -> list[Checked]:
    """Those that do not hold."""
    return [one for one in checked if not one.holds]


def result_words(checked: Sequence[Checked]) -> str:
    """``all 12 conditions hold``, ``2 of 12 conditions do not hold``."""
    count = len(failed(checked))
    if not count:
        return f"all {len(checked)} conditions hold"
    return f"{count} of {len(checked)} conditions {'does' if count == 1 else 'do'} not hold"


def label(one: Checked, run: RunRow) -> str:
    """How a condition is named where those of several tasks stand together; safe."""
    return one.name if one.task is None or len(run.tasks) <= 1 else f"{one.name} ({safe_text(one.task, 60)})"
