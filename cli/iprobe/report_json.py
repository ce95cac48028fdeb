"""The report as one JSON object. Ratios that were not measured are null; texts are as stored."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from introspection_probe.history import AlertRow, ExampleRow, MixedLosses, ScoredRound
from introspection_probe.records import Behavior, Explanation, Responses
from introspection_probe.scoring import ExplanationScores, Interval, RoundScores, Verdict, paired_difference, wilson
from introspection_probe.scoring.drift import ChangePoint
from iprobe.measures import Row
from iprobe.summary import Summary


def to_json(summary: Summary) -> dict[str, Any]:
    """The whole report, JSON-able."""
    return {
        **run_json(summary),
        "verdict": verdict_json(summary.verdict),
        "alerts": [alert_json(alert) for alert in summary.alerts],
        "changes": {row.measure.key: _change(row) for row in summary.rows},
        "change_points": [_shift(shift) for shift in summary.shifts],
        "losses": [losses_json(losses) for losses in summary.losses],
        "rounds": [round_json(scored, summary.scores(scored)) for scored in summary.rounds],
        "examples": [_example(example) for example in summary.examples],
        "examples_total": summary.parted,
    }


def run_json(summary: Summary) -> dict[str, Any]:
    """The run, its task in view, and how it stands."""
    run = summary.run
    return {
        "run": run.name,
        "run_id": run.id,
        "uid": run.uid,
        "kind": run.kind,
        "model": run.model,
        "task": summary.task,
        "tasks": list(summary.tasks),
        "status": run.status,
        "stale": summary.stale,
        "step": run.step,
        "started_at": time_json(run.started_at),
        "resumed_at": time_json(run.resumed_at),
        "updated_at": time_json(run.updated_at),
        "overhead": run.overhead,
    }


def time_json(moment: datetime | None) -> str | None:
    """ISO 8601 with the offset."""
    return None if moment is None else moment.isoformat()


def verdict_json(verdict: Verdict | None) -> dict[str, Any] | None:
    """What the gap means; null while there is no round."""
    if verdict is None:
        return None
    return {
        "kind": verdict.kind,
        "headline": verdict.headline,
        "reason": verdict.reason,
        "notes": list(verdict.notes),
    }


def alert_json(alert: AlertRow) -> dict[str, Any]:
    """An alert from where it was raised to where it cleared."""
    return {
        "name": alert.name,
        "task": alert.task,
        "severity": alert.severity,
        "active": alert.active,
        "summary": alert.summary,
        "remedy": alert.remedy,
        "raised_step": alert.raised_step,
        "raised_at": time_json(alert.raised_at),
        "cleared_step": alert.cleared_step,
        "cleared_at": time_json(alert.cleared_at),
    }


def losses_json(losses: MixedLosses) -> dict[str, Any]:
    """Mixed losses of a stretch: a term that is not mixed in is absent, one that was not finite is null."""
    return {"step": losses.step, "steps": losses.steps, "means": dict(losses.means)}


def _shift(shift: ChangePoint) -> dict[str, Any]:
    return {
        "after_step": shift.after_step,
        "step": shift.step,
        "before": shift.before,
        "after": shift.after,
        "p": shift.p,
    }


def _change(row: Row) -> dict[str, Any]:
    interval = row.change_interval
    return {
        "baseline": row.baseline,
        "latest": row.latest,
        "change": row.change,
        "lower": None if interval is None else interval.lower,
        "upper": None if interval is None else interval.upper,
    }


def round_json(scored: ScoredRound, scores: RoundScores) -> dict[str, Any]:
    """A round and what it counted of one task."""
    behavior = scores.behavior
    return {
        "step": scored.step,
        "n": scores.n,
        "started_at": time_json(scored.started_at),
        "duration_s": scored.duration_s,
        "tokens": scored.tokens,
        "generated": scored.generated,
        "unjudged": scored.unjudged,
        "path": scored.path,
        "targets": {name: _target(target) for name, target in scores.targets.items()},
        "behavior": {"both": behavior.both, "included": behavior.included, "ablated": behavior.ablated},
        "coupling_gap": _interval(paired_difference(scores.paired)),
        "self_share": scores.paired.self_share,
        "disagreements": scores.disagreements,
        "label_agreement": scores.label_agreement,
        "predicted_changed_share": scores.predicted_changed_share,
        "behavior_changed_share": scores.behavior_changed_share,
        "parse_failures": scores.parse_failures,
    }


def _target(scores: ExplanationScores) -> dict[str, Any]:
    interval = wilson(scores.exact_matches, scores.n)
    return {
        "n": scores.n,
        "exact_match": scores.exact_match,
        "exact_match_interval": None if interval is None else [interval.lower, interval.upper],
        "content_match": scores.content_match,
        "flag_match": scores.flag_match,
        "changed_f1": scores.changed_f1,
        "unchanged_f1": scores.unchanged_f1,
        "exact_matches": scores.exact_matches,
        "content_matches": scores.content_matches,
        "flag_matches": scores.flag_matches,
        "constant": {"explanation": _explanation(scores.constant), "exact_match": scores.constant_match},
    }


def _interval(interval: Interval | None) -> dict[str, float | None]:
    if interval is None:
        return {"estimate": None, "lower": None, "upper": None}
    return {"estimate": interval.estimate, "lower": interval.lower, "upper": interval.upper}


def _example(example: ExampleRow) -> dict[str, Any]:
    return {
        "id": example.example_id,
        "prompt": example.prompt,
        "cue": example.cue,
        "cue_option": example.cue_option,
        "options": list(example.options),
        "behavior": _behavior(example.behavior),
        "m0": _behavior(example.m0),
        "predicted_text": example.predicted_text,
        "predicted": _explanation(example.predicted),
        "responses": _responses(example.responses),
        "m0_responses": _responses(example.m0_responses),
    }


def _behavior(behavior: Behavior | None) -> dict[str, str] | None:
    return None if behavior is None else {"included": behavior.included, "ablated": behavior.ablated}


def _responses(responses: Responses | None) -> dict[str, str] | None:
    return None if responses is None else {"included": responses.included, "ablated": responses.ablated}


def _explanation(explanation: Explanation | None) -> dict[str, Any] | None:
    return None if explanation is None else {"changed": explanation.changed, "content": explanation.content}
