"""What `iprobe watch` shows of a look, for a terminal of any size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from rich.console import Console, Group, RenderableType
from rich.text import Text

from introspection_probe.alerts.conditions import MISSED_ROUNDS
from introspection_probe.history import AlertRow
from iprobe.formatting import duration_text
from iprobe.report_table import VERDICT_STYLES, prose, table
from iprobe.summary import Summary
from iprobe.text import safe_end, safe_text, some_names
from iprobe.watching import Look
from iprobe.words import loss_words, status_words

# From the fullest to the barest: the rows, and whether the verdict's reason is shown.
_KEY = (
    *("self_exact_match", "orig_exact_match", "coupling_gap", "self_share", "changed_f1", "unchanged_f1"),
    *("parse_failures", "behavior_both", "label_agreement"),
)
_FEWEST = ("self_exact_match", "orig_exact_match", "coupling_gap")
_LAYOUTS: tuple[tuple[Sequence[str] | None, bool], ...] = ((None, True), (_KEY, True), (_KEY, False), (_FEWEST, False))
# A round that is late by less than this is no matter, however short the usual interval.
_LATE_S = 60.0
_CURVE = 8


def render(look: Look, console: Console, *, footer: str | None = None) -> RenderableType:
    """The fullest view that fits the console's height."""
    if look.summary is None:
        return Group(Text(waiting_words(look)), *([Text(footer, style="dim")] if footer else []))
    view: RenderableType = ""
    for keys, reason in _LAYOUTS:
        view = _view(look, look.summary, console.width, keys, footer, reason=reason)
        if len(console.render_lines(view, pad=False)) < console.height:
            break
    return view


def waiting_words(look: Look) -> str:
    """What is waited for; safe text."""
    return f"Waiting for a run: {look.trouble}"


def _view(
    look: Look, summary: Summary, width: int, keys: Sequence[str] | None, footer: str | None, *, reason: bool
) -> RenderableType:
    shown = summary if keys is None else replace(summary, rows=tuple(r for r in summary.rows if r.measure.key in keys))
    parts: list[RenderableType] = [_header(summary, width), *_status(look, summary, width)]
    parts += [_alarm(alarm, summary, width) for alarm in look.alarms]
    if shown.rows:
        parts += ["", table(shown, width)]
    if summary.verdict is not None:
        style = VERDICT_STYLES.get(summary.verdict.kind, "bold yellow")
        parts += ["", prose(Text(safe_text(summary.verdict.headline), style=style), width)]
        if reason:
            parts.append(prose(Text(safe_text(summary.verdict.reason)), width))
    if footer:
        parts += ["", Text(footer, style="dim")]
    return Group(*parts)


def _header(summary: Summary, width: int) -> Text:
    run = summary.run
    text = Text(safe_text(run.name, min(width, 60)), style="bold")
    task = "" if summary.task is None else f", {safe_text(summary.task, 40)}"
    others = f" (also {some_names(summary.other_tasks)})" if summary.other_tasks else ""
    text.append(f"  run {run.id}{task}{others}, {safe_end(run.model, min(width, 60))}", style="not bold dim")
    return text


def _status(look: Look, summary: Summary, width: int) -> list[RenderableType]:
    status = Text(status_words(summary.run, stale=summary.stale, now=summary.now))
    if summary.stale or summary.run.status == "failed":
        status.stylize("bold yellow")
    lines: list[RenderableType] = [status, rounds_text(look, summary)]
    mixed = loss_words(summary.losses, _CURVE)
    if mixed is not None:
        lines.append(Text(f"mixed losses: {mixed}"))
    if look.trouble is not None:
        lines.append(prose(Text(f"Cannot read the history, trying again: {look.trouble}", style="bold yellow"), width))
    if not look.alarms and summary.rounds:
        lines.append(Text("no alarm", style="green"))
    return lines


def rounds_text(look: Look, summary: Summary) -> Text:
    """When the last round was taken, and whether the next is overdue."""
    age = look.round_age_s
    if age is None:
        return Text("no round was taken yet")
    usually = "" if look.every_s is None else f", usually every {duration_text(look.every_s)}"
    step = summary.rounds[-1].step
    if summary.run.status != "running":
        return Text(f"{len(summary.rounds)} rounds, the last one at step {step}{usually}")
    if look.every_s is not None and age > MISSED_ROUNDS * look.every_s and age > _LATE_S:
        return Text(
            f"overdue: the last round was at step {step}, {duration_text(age)} ago{usually}", style="bold yellow"
        )
    return Text(f"{len(summary.rounds)} rounds, the last one at step {step}, {duration_text(age)} ago{usually}")


def _alarm(alarm: AlertRow, summary: Summary, width: int) -> RenderableType:
    text = Text(f"● {safe_text(alarm.severity)}: {safe_text(alarm.name, 60)}")
    text.stylize("bold red" if alarm.severity == "critical" else "bold yellow")
    of_task = "" if alarm.task == summary.task else f" of {safe_text(alarm.task, 40)}"
    text.append(f"{of_task} since step {alarm.raised_step}. {safe_text(alarm.summary, 2 * width)}", style="not bold")
    return prose(text, width)


def clock_text(moment: datetime) -> str:
    """``10:22:31 UTC``."""
    return f"{moment:%H:%M:%S} UTC"
