"""A comparison as a person reads it in a terminal of any width."""

from __future__ import annotations

from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from iprobe.compare_report import TITLES, rows, sentences, side_words, sides
from iprobe.comparing import Comparison, TaskComparison
from iprobe.report_table import prose
from iprobe.text import safe_text

_GAP = 2
# What a narrow terminal does without, the first to go first: by column of the table.
_EXPENDABLE = ("95%", "A", "B", "p")
_STYLES = {"worse": "bold red", "better": "bold green", "no_difference": "bold"}


def render(comparison: Comparison, width: int) -> RenderableType:
    """The whole comparison."""
    parts: list[RenderableType] = []
    for one in comparison.tasks:
        parts += [""] if parts else []
        parts += [_header(comparison, one, width), "", _table(one, width), ""]
        parts.append(prose(Text(one.telling.sentence, style=_STYLES[one.telling.kind]), width))
        parts += [prose(Text(sentence), width) for sentence in sentences(one)]
    return Group(*parts)


def _header(comparison: Comparison, one: TaskComparison, width: int) -> RenderableType:
    room = max(width - 6, 8)
    grid = Table.grid(padding=(0, 1))
    grid.add_column(no_wrap=True, style="dim")
    grid.add_column(overflow="fold")
    grid.add_row("task", Text(safe_text(one.task, room)))
    for name, run, step, losses in sides(comparison, one):
        side = Text(safe_text(run.name, min(room, 60)), style="bold")
        side.append(f"  {side_words(run, step, losses)}", style="not bold dim")
        grid.add_row(name, side)
    return grid


def _table(one: TaskComparison, width: int) -> Table:
    for compact in (False, True):
        columns = _columns(one, compact=compact)
        if _width(columns) <= width:
            break
    for title in _EXPENDABLE:
        if _width(columns) > width:
            columns.pop(title)
    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="dim", collapse_padding=True)
    for title in columns:
        table.add_column(title, justify="left" if title in ("", "95%") else "right", no_wrap=True, overflow="ellipsis")
    for cells in zip(*columns.values(), strict=True):
        table.add_row(*(Text(cell) for cell in cells))
    return table


def _columns(one: TaskComparison, *, compact: bool) -> dict[str, list[str]]:
    found = rows(one.found)
    cells = zip(*(row.cells(compact=compact) for row in found), strict=True)
    return {"": [row.label for row in found]} | {
        title: list(column) for title, column in zip(TITLES, cells, strict=True)
    }


def _width(columns: dict[str, list[str]]) -> int:
    return sum(max(cell_len(cell) for cell in [title, *cells]) + _GAP for title, cells in columns.items()) - _GAP
