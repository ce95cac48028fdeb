"""The report as a person reads it in a terminal of any width."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from introspection_probe.history import AlertRow, ExampleRow
from iprobe.formatting import NOT_MEASURED, sparkline
from iprobe.summary import Summary
from iprobe.text import safe_end, safe_text, some_names
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

_GAP = 2
_CURVE = 8
# From this width on a line of prose is hard to follow with the eye.
_PROSE = 100

VERDICT_STYLES: Mapping[str, str] = {"coupled": "bold green", "coupling_lost": "bold red"}
"""By kind; every other is bold yellow."""


def render(summary: Summary, console: Console) -> RenderableType:
    """The whole report for this console's width."""
    width = console.width
    parts: list[RenderableType] = [_header(summary, width)]
    if summary.rows:
        parts += ["", table(summary, width), "", *_verdict(summary, width)]
    else:
        parts += ["", Text("No round was taken yet: the first one appears here as soon as it is stored.")]
    for alert in summary.active_alerts:
        parts += ["", _alert(alert, width)]
    if summary.examples:
        # Where the cue can be underlined in the question it need not be said again.
        underlines = console.is_terminal and not console.is_dumb_terminal
        parts += ["", *_examples(summary, width, underlines=underlines)]
    parts += ["", _next(summary, width)]
    return Group(*parts)


def _header(summary: Summary, width: int) -> RenderableType:
    run = summary.run
    room = max(width - 8, 8)
    task = safe_text(summary.task or NOT_MEASURED, room)
    if summary.other_tasks:
        task += f"  (also {some_names(summary.other_tasks)}: choose with --task)"
    lines: list[tuple[str, Text]] = [
        ("run", Text(safe_text(run.name, room), style="bold")),
        ("model", Text(safe_end(run.model, room))),
        ("task", Text(task)),
        (
            "status",
            Text(status_words(run, stale=summary.stale, now=summary.now), style="bold yellow" if summary.stale else ""),
        ),
        ("started", Text(started_words(run, summary.now))),
    ]
    if summary.rounds:
        lines.append(("rounds", Text(cost_words(summary))))
    mixed = loss_words(summary.losses, _CURVE)
    if mixed is not None:
        lines.append(("losses", Text(mixed)))
    grid = Table.grid(padding=(0, 1))
    grid.add_column(no_wrap=True, style="dim")
    grid.add_column(overflow="fold")
    for label, value in lines:
        grid.add_row(label, value)
    return grid


@dataclass(frozen=True, slots=True)
class _Column:
    """A column with its cells as text."""

    key: str
    title: str
    cells: list[str]
    style: str = ""
    left: bool = False

    @property
    def width(self) -> int:
        return max(cell_len(self.title), *(cell_len(cell) for cell in self.cells))


@dataclass(frozen=True, slots=True)
class _Layout:
    """One way to fit the table; what it leaves out, it leaves out for all rows.

    Attributes:
        trend: width of the curves.
        dropped: keys of the columns left out.
        compact: short labels and intervals.
        numbered: the columns' titles give the steps.
    """

    trend: int
    dropped: frozenset[str] = frozenset()
    compact: bool = False
    numbered: bool = True


_NO_BASELINE_INTERVAL = frozenset({"baseline 95%"})
_NO_INTERVALS = frozenset({"baseline 95%", "change 95%", "latest 95%"})
# From the fullest to the barest: the first that fits is taken.
_LAYOUTS = (
    _Layout(16),
    _Layout(8),
    _Layout(16, _NO_BASELINE_INTERVAL),
    _Layout(8, _NO_BASELINE_INTERVAL),
    _Layout(8, _NO_BASELINE_INTERVAL, compact=True),
    _Layout(8, _NO_BASELINE_INTERVAL | {"change 95%"}, compact=True),
    _Layout(8, _NO_INTERVALS, compact=True),
    _Layout(8, _NO_INTERVALS | {"trend"}, compact=True),
    _Layout(8, _NO_INTERVALS | {"trend"}, compact=True, numbered=False),
    _Layout(8, _NO_INTERVALS | {"trend", "change"}, compact=True, numbered=False),
    _Layout(8, _NO_INTERVALS | {"trend", "change", "baseline"}, compact=True, numbered=False),
)


def table(summary: Summary, width: int) -> Table:
    """The summary's rows, with the columns that fit; it has at least one row."""
    columns = _fitting(summary, width)
    grid = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="dim", collapse_padding=True)
    for column in columns:
        grid.add_column(
            column.title,
            justify="left" if column.left else "right",
            style=column.style,
            no_wrap=True,
            overflow="ellipsis",
        )
    groups = [row.measure.group for row in summary.rows]
    for index, group in enumerate(groups):
        if index and group != groups[index - 1]:
            grid.add_row()
        grid.add_row(*(Text(column.cells[index]) for column in columns))
    return grid


def _fitting(summary: Summary, width: int) -> list[_Column]:
    """The columns of the first layout that fits, of the barest one where none does."""
    kept: list[_Column] = []
    for layout in _LAYOUTS:
        kept = [column for column in _columns(summary, layout) if column.key not in layout.dropped]
        if sum(column.width for column in kept) + _GAP * (len(kept) - 1) <= width:
            break
    return kept


def _columns(summary: Summary, layout: _Layout) -> list[_Column]:
    rows, compact = summary.rows, layout.compact
    first, last = (f"step {summary.rounds[end].step}" for end in (0, -1))
    if not layout.numbered:
        first, last = "first", "latest"

    def intervals(key: str, cells: list[str]) -> _Column:
        return _Column(key, "95%", cells, "dim", left=True)

    name = _Column("name", "", [row.measure.short if compact else row.measure.label for row in rows], left=True)
    latest = [
        _Column("latest", last, [value_text(row.measure, row.latest) for row in rows], "bold"),
        intervals(
            "latest 95%", [value_interval_text(row.measure, row.latest_interval, compact=compact) for row in rows]
        ),
    ]
    if len(summary.rounds) == 1:
        return [name, *latest]
    return [
        name,
        _Column("baseline", first, [value_text(row.measure, row.baseline) for row in rows]),
        intervals(
            "baseline 95%",
            [value_interval_text(row.measure, row.baseline_interval, compact=compact) for row in rows],
        ),
        *latest,
        _Column("change", "change", [change_text(row) for row in rows]),
        intervals("change 95%", [change_interval_text(row, compact=compact) for row in rows]),
        _Column("trend", "trend", [sparkline(row.curve, layout.trend) for row in rows], "cyan", left=True),
    ]


def _verdict(summary: Summary, width: int) -> Iterator[RenderableType]:
    if summary.verdict is None:
        return
    style = VERDICT_STYLES.get(summary.verdict.kind, "bold yellow")
    yield prose(Text(safe_text(summary.verdict.headline), style=style), width)
    for sentence in (summary.verdict.reason, *summary.verdict.notes):
        yield prose(Text(safe_text(sentence)), width)
    shifted = shift_words(summary.shifts)
    if shifted is not None:
        yield prose(Text(shifted), width)


def _alert(alert: AlertRow, width: int) -> RenderableType:
    style = "bold red" if alert.severity == "critical" else "bold yellow"
    text = Text()
    text.append(f"● {safe_text(alert.severity)}: {safe_text(alert.name, 80)}", style=style)
    text.append(f" since step {alert.raised_step}\n", style="dim")
    text.append(f"{safe_text(alert.summary, 600)} {safe_text(alert.remedy, 600)}")
    return prose(text, width)


def _examples(summary: Summary, width: int, *, underlines: bool) -> Iterator[RenderableType]:
    title = Text("Where explanation and behaviour part", style="bold")
    title.append(f"  {len(summary.examples)} of {summary.parted} at step {summary.rounds[-1].step}", style="dim")
    yield title
    for example in summary.examples:
        yield Padding(_example(example, min(width, _PROSE), underlines=underlines), (1, 0, 0, 0))


def _example(example: ExampleRow, width: int, *, underlines: bool) -> RenderableType:
    # Room for the question: three lines beside the label.
    room = max(3 * (width - 7), 60)
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True, style="dim")
    grid.add_column(overflow="fold", max_width=max(width - 7, 10))
    prompt, cue = safe_text(example.prompt or "", room), safe_text(example.cue or "", room)
    start = prompt.rfind(cue) if underlines and cue else -1
    if prompt:
        asked = Text(prompt)
        if start >= 0:
            asked.stylize("underline", start, start + len(cue))
        grid.add_row("asked", asked)
    if cue and start < 0:
        grid.add_row("cue", Text(cue))
    grid.add_row("does", Text(does_words(example.behavior)))
    if example.responses is not None:
        grid.add_row("wrote", Text(f"“{safe_text(example.responses.included, room)}” with the cue"))
        grid.add_row("", Text(f"“{safe_text(example.responses.ablated, room)}” without it"))
    says = Text(f"“{safe_text(example.predicted_text, room)}”")
    says.append(f"  {says_note(example)}", style="dim")
    grid.add_row("says", says)
    return grid


def _next(summary: Summary, width: int) -> RenderableType:
    steps = next_steps(summary)
    longest = max(cell_len(command) for command, _ in steps)
    beside = longest + _GAP + max(cell_len(why) for _, why in steps) <= width
    text = Text()
    text.append("Next", style="bold")
    for command, why in steps:
        text.append(f"\n{command}")
        if beside:
            text.append(" " * (longest - cell_len(command) + _GAP) + why, style="dim")
    return text


def prose(text: Text, width: int) -> RenderableType:
    """Text in lines that the eye can follow, on a console of that width."""
    return Padding(text, (0, max(width - _PROSE, 0), 0, 0), expand=False)
