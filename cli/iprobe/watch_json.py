"""What `iprobe watch --format json` prints of a look: the words of the report's JSON, the latest round alone."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from iprobe.report_json import alert_json, losses_json, round_json, run_json, time_json, verdict_json
from iprobe.watching import Look


def to_json(look: Look, now: datetime) -> dict[str, Any]:
    """A look, JSON-able; ``run`` is null while there is none. ``trouble`` says why the rest may be out of date."""
    summary = look.summary
    at = {"at": time_json(now), "trouble": look.trouble}
    if summary is None:
        return {**at, "run": None}
    latest = None
    if summary.latest is not None:
        latest = round_json(summary.rounds[-1], summary.latest)
    return {
        **at,
        **run_json(summary),
        "verdict": verdict_json(summary.verdict),
        "alerts": [alert_json(alert) for alert in look.alarms],
        "rounds": len(summary.rounds),
        "round_every_s": look.every_s,
        "round_age_s": look.round_age_s,
        "round": latest,
        "losses": losses_json(summary.losses[-1]) if summary.losses else None,
    }
