"""The report's sentences, shared by the terminal and the Markdown form. Foreign text in them is already safe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from introspection_probe.history import ExampleRow, MixedLosses, RunRow
from introspection_probe.records import Behavior, Explanation, LossTerm
from introspection_probe.scoring.drift import ChangePoint
from iprobe.formatting import ago_text, duration_text, loss_text, sparkline, time_text
from iprobe.shell import argument, db_option
from iprobe.summary import Summary
from iprobe.text import safe_text

_ANSWER = 60
_SHIFTS = 3

LOSS_NAMES: Mapping[LossTerm, str] = {"explanation": "explanation", "kl": "KL"}
"""The terms of the mixed loss, in the order in which they are shown."""


def status_words(run: RunRow, *, stale: bool, now: datetime) -> str:
    """``running, step 500, heard from 12 s ago``; a run that went silent is called what it is."""
    if stale:
        silent = duration_text((now - run.updated_at).total_seconds())
        return f"says running, but silent for {silent}: probably dead (last heard of at step {run.step})"
    ran = duration_text(max((run.updated_at - run.resumed_at).total_seconds(), 0.0))
    if run.status == "running":
        heard = duration_text(max((now - run.updated_at).total_seconds(), 0.0))
        return f"running, step {run.step}, heard from {heard} ago"
    return f"{run.status} at step {run.step} after {ran}"


def started_words(run: RunRow, now: datetime) -> str:
    """``2026-11-21 09:31 UTC, 5 min ago``, and when it was resumed, if it was."""
    words = f"{time_text(run.started_at)}, {ago_text(run.started_at, now)}"
    if run.resumed_at > run.started_at:
        words += f"; resumed {ago_text(run.resumed_at, now)}"
    return words


def cost_words(summary: Summary) -> str:
    """``11 of 200 probes, 1.4 s each, 2.1% of the run's time``."""
    if not summary.rounds or summary.latest is None or summary.round_cost_s is None:
        return "none yet"
    words = f"{len(summary.rounds)} of {summary.latest.n} probes, {duration_text(summary.round_cost_s)} each"
    unjudged = summary.rounds[-1].unjudged
    if unjudged:
        words += f", {unjudged} without a verdict in the latest"
    if summary.run.overhead is not None:
        words += f", {100 * summary.run.overhead:.1f}% of the run's time"
    return words


def loss_words(losses: Sequence[MixedLosses], curve: int = 0) -> str | None:
    """``explanation 0.41 (1.3 at first), KL 0.012 (0.0004 at first)``; None where nothing is mixed in.

    Args:
        curve: width of the curve that each term gets.
    """
    terms = []
    for term, name in LOSS_NAMES.items():
        means = [stretch.means[term] for stretch in losses if term in stretch.means]
        if means:
            drawn = sparkline(means, curve, 0.1 * max((abs(mean) for mean in means if mean is not None), default=1.0))
            first = f" ({loss_text(means[0])} at first)" if len(means) > 1 else ""
            terms.append(f"{name} {loss_text(means[-1])}{f' {drawn}' if drawn else ''}{first}")
    return ", ".join(terms) or None


def shift_words(shifts: Sequence[ChangePoint]) -> str | None:
    """``Around step 400 Self EM fell sharply, from 0.82 to 0.61 (exact sign test, p < 0.001).``; None without shifts.

    Of many shifts the three largest are told.
    """
    largest = sorted(shifts, key=lambda shift: abs(shift.after - shift.before), reverse=True)[:_SHIFTS]
    told = [
        f"around step {shift.step} {'it' if place else 'Self EM'} {'fell' if shift.after < shift.before else 'rose'}"
        f" sharply, from {shift.before:.2f} to {shift.after:.2f}"
        f" (exact sign test, {'p < 0.001' if shift.p < 0.001 else f'p = {shift.p:.1g}'})"
        for place, shift in enumerate(sorted(largest, key=lambda shift: shift.step))
    ]
    return f"A{', and '.join(told)[1:]}." if told else None


def does_words(behavior: Behavior) -> str:
    """What the model does: ``B with the cue, C without it``."""
    included, ablated = safe_text(behavior.included, _ANSWER), safe_text(behavior.ablated, _ANSWER)
    if behavior.explanation.changed:
        return f"{included} with the cue, {ablated} without it"
    return f"{ablated} with the cue and without it"


def says_note(example: ExampleRow) -> str:
    """What is wrong with what the model says, in a few words."""
    if example.predicted is None:
        return "cannot be parsed"
    now = example.behavior.explanation
    if example.m0 is not None and example.predicted == example.m0.explanation:
        return f"true of M0: {does_words(example.m0)}"
    return _wrong(example.predicted, now)


def _wrong(said: Explanation, now: Explanation) -> str:
    if said.changed == now.changed:
        return "wrong answer"
    return "right answer, wrong about the change" if said.content == now.content else "wrong answer and change"


def next_steps(summary: Summary) -> list[tuple[str, str]]:
    """Commands worth typing now, each with what it is for; they can be pasted as they are."""
    run, tail = summary.run.id, db_option(summary.db)
    if summary.task is not None and summary.other_tasks:
        tail = f" --task {argument(summary.task)}{tail}"
    steps = []
    if summary.parted > len(summary.examples):
        more = min(summary.parted, 20)
        steps.append((f"iprobe report {run} --examples {more}{tail}", "more examples that part"))
    if summary.rounds:
        steps.append((f"iprobe report {run} --format json{tail}", "every round, for programs"))
    steps.append((f"iprobe runs{db_option(summary.db)}", "all runs of this history"))
    return steps
