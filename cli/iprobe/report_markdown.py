"""The report as GitHub Markdown, for pull requests and issues."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from introspection_probe.history import AlertRow, ExampleRow
from iprobe.formatting import sparkline
from iprobe.measures import Row
from iprobe.summary import Summary
from iprobe.text import markdown_code, markdown_text
from iprobe.values import change_interval_text, change_text, value_interval_text, value_text
from iprobe.words import (
    cost_words,
    does_words,
    loss_words,
    next_steps,
    says_note,
    shift_words,
    started_words,
    status_words,
)

_NAME = 200
_TEXT = 600
_SPARK = 16


def to_markdown(summary: Summary) -> str:
    """The whole report, ending in a line break."""
    return "\n".join(_lines(summary)) + "\n"


def _lines(summary: Summary) -> Iterator[str]:
    run = summary.run
    yield f"## Introspection report: {markdown_code(run.name, _NAME)}"
    yield ""
    yield f"- model: {markdown_code(run.model, _NAME)}"
    if summary.task is not None:
        yield f"- task: {markdown_code(summary.task, _NAME)}"
    yield f"- status: {markdown_text(status_words(run, stale=summary.stale, now=summary.now))}"
    yield f"- started: {markdown_text(started_words(run, summary.now))}"
    yield f"- rounds: {markdown_text(cost_words(summary))}"
    mixed = loss_words(summary.losses, _SPARK)
    if mixed is not None:
        yield f"- mixed losses: {markdown_text(mixed)}"
    yield ""
    if summary.rows:
        yield from _table(summary)
    if summary.verdict is not None:
        yield ""
        shifted = shift_words(summary.shifts)
        sentences = " ".join([summary.verdict.reason, *summary.verdict.notes, *([shifted] if shifted else [])])
        yield f"**{markdown_text(summary.verdict.headline)}** {markdown_text(sentences)}"
    if summary.active_alerts:
        yield ""
        yield from (_alert(alert) for alert in summary.active_alerts)
    if summary.examples:
        yield ""
        yield "### Where explanation and behaviour part"
        yield ""
        yield f"{len(summary.examples)} of {summary.parted} at step {summary.rounds[-1].step}:"
        yield ""
        for example in summary.examples:
            yield from _example(example)
    yield ""
    yield "### Next"
    yield ""
    yield from (f"- {markdown_code(command)}: {why}" for command, why in next_steps(summary))


def _table(summary: Summary) -> Iterator[str]:
    steps = [scored.step for scored in summary.rounds]
    if len(steps) == 1:
        yield from markdown_table(
            ["", f"step {steps[0]}", "95%"],
            [
                [
                    _label(row),
                    value_text(row.measure, row.latest),
                    value_interval_text(row.measure, row.latest_interval),
                ]
                for row in summary.rows
            ],
        )
        return
    yield from markdown_table(
        ["", f"step {steps[0]}", "95%", f"step {steps[-1]}", "95%", "change", "95%", "trend"],
        [
            [
                _label(row),
                value_text(row.measure, row.baseline),
                value_interval_text(row.measure, row.baseline_interval),
                value_text(row.measure, row.latest),
                value_interval_text(row.measure, row.latest_interval),
                change_text(row),
                change_interval_text(row),
                sparkline(row.curve, _SPARK),
            ]
            for row in summary.rows
        ],
    )


def _label(row: Row) -> str:
    label = row.measure.label
    return f"&emsp;{label.strip()}" if label.startswith(" ") else label


def markdown_table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """A GitHub table whose first column is text and whose others are numbers. The caller has escaped the cells."""
    yield f"| {' | '.join(titles)} |"
    yield f"| --- |{' ---: |' * (len(titles) - 1)}"
    yield from (f"| {' | '.join(row)} |" for row in rows)


def _alert(alert: AlertRow) -> str:
    name = markdown_code(alert.name, _NAME)
    sentences = markdown_text(f"{alert.summary} {alert.remedy}", 2 * _TEXT)
    return f"- **{markdown_text(alert.severity)}** {name} since step {alert.raised_step}: {sentences}"


def _example(example: ExampleRow) -> Iterator[str]:
    yield f"- says {markdown_code(example.predicted_text, _TEXT)} ({markdown_text(says_note(example))})"
    yield f"  - does: {markdown_text(does_words(example.behavior))}"
    if example.responses is not None:
        yield f"  - wrote with the cue: {markdown_code(example.responses.included, _TEXT)}"
        yield f"  - wrote without it: {markdown_code(example.responses.ablated, _TEXT)}"
    if example.cue is not None:
        yield f"  - cue: {markdown_code(example.cue, _TEXT)}"
    if example.prompt is not None:
        yield f"  - asked: {markdown_code(example.prompt, _TEXT)}"
