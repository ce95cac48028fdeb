"""What building measured, as a table and the sentences under it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import RenderableType

    from introspection_probe.building import BuildSummary
    from introspection_probe.probe_set import ProbeSet
    from introspection_probe.probe_set.signals import Signal

_SHOWN_ANSWERS = 6


def build_summary(probe_set: ProbeSet, summary: BuildSummary, out: Path) -> RenderableType:
    """Everything that `iprobe build` says about a set."""
    from rich.console import Group
    from rich.text import Text

    from iprobe.formatting import duration_text
    from iprobe.text import safe_text

    parts: list[RenderableType] = []
    if summary.tried:
        parts += [Text(f"Prompt styles tried on {max(signal.n for signal in summary.tried)} questions", style="bold")]
        parts += [signal_table(summary.tried, chosen=probe_set.style.name), Text()]
    for name, reason in summary.refused.items():
        parts += [Text(f"{safe_text(name, 60)} cannot be used: {safe_text(reason, 300)}", style="yellow")]
    parts += [
        Text(f"The probe set, in style {safe_text(probe_set.style.name, 60)}", style="bold"),
        signal_table((summary.signal,)),
    ]
    parts += [Text(signal_legend(summary.signal), style="dim")]
    parts += [
        Text(),
        Text(
            f"{summary.train} examples to train on, {summary.probe} to measure, from {safe_text(summary.source, 200)}, "
            f"in {duration_text(summary.seconds)}."
        ),
        Text(f"Saved in {safe_text(str(out), 400)} as {probe_set.content_hash[:12]}."),
    ]
    for sentence in _left_out(summary):
        parts += [Text(sentence)]
    for warning in summary.warnings:
        parts += [Text(f"Warning: {safe_text(warning, 600)}.", style="yellow")]
    return Group(*parts)


def _left_out(summary: BuildSummary) -> list[str]:
    """What is not in the set for good reasons, or stands elsewhere than it would have."""
    from iprobe.text import safe_text

    sentences = []
    if summary.duplicates:
        sentences.append(f"{summary.duplicates} questions were there already, with the same cue, and were left out.")
    if summary.joined:
        sentences.append(f"{summary.joined} questions have the words of others and stand on the same side as those.")
    if summary.unbalanced:
        sentences.append(f"{summary.unbalanced} examples were left out to balance the set.")
    if summary.values:
        counts = sorted(summary.values.items(), key=lambda item: (item[1], item[0]))
        (least, fewest), (most, largest) = counts[0], counts[-1]
        sentences.append(
            f"Balanced over {len(counts)} values: {fewest} questions of {safe_text(least, 40)} to {largest} of "
            f"{safe_text(most, 40)}."
        )
    return sentences


def signal_table(signals: Sequence[Signal], chosen: str | None = None) -> RenderableType:
    """A line a style."""
    from rich.table import Table
    from rich.text import Text

    from iprobe.formatting import NOT_MEASURED
    from iprobe.text import safe_text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim", collapse_padding=True)
    for title in ("style", "changed", "followed", "lively", "with cue", "without"):
        table.add_column(title, justify="left" if title == "style" else "right", no_wrap=True)
    for signal in signals:
        followed = signal.followed_share
        cells = (
            safe_text(signal.style, 40),
            f"{signal.changed_share:.0%}",
            NOT_MEASURED if followed is None else f"{followed:.0%}",
            f"{signal.liveliness:.2f}",
            _distribution(signal.included_answers, signal.n),
            _distribution(signal.ablated_answers, signal.n),
        )
        table.add_row(*map(Text, cells), style="bold" if signal.style == chosen else "")
    return table


def _distribution(counts: Mapping[str, int], n: int) -> str:
    """How the answers are distributed, in percent: ``12/40/30/18``; of many answers, only the usual one's share."""
    if len(counts) > _SHOWN_ANSWERS:
        return f"at most {max(counts.values()) / n:.0%}"
    return "/".join(f"{count / n * 100:.0f}" for count in counts.values())


def signal_legend(signal: Signal) -> str:
    """What the columns of the table mean."""
    from iprobe.text import safe_text

    answers = list(signal.ablated_answers)
    named = "/".join(safe_text(answer, 16) for answer in answers) if len(answers) <= _SHOWN_ANSWERS else "all answers"
    return (
        "changed: answers that are others without the cue; followed: answers that the cue names; lively: how much "
        f"there is to explain, from 0 to 1; then the answers with and without the cue, {named} in percent."
    )
