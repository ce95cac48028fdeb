"""`iprobe runs`: the runs of a history, the latest first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from iprobe.console import Format, show, stdout_console, write, write_json
from iprobe.options import DbOption, FormatOption

if TYPE_CHECKING:
    from rich.console import RenderableType

    from introspection_probe.history import RunRow


@dataclass(frozen=True, slots=True)
class Listed:
    """A run, and whether it says "running" but is not heard of."""

    run: RunRow
    stale: bool


def runs(
    db: DbOption = None,
    limit: Annotated[int, typer.Option(min=1, metavar="N", help="How many runs to list, the latest first.")] = 20,
    format_: FormatOption = Format.table,
) -> None:
    """List the runs of a history, the latest first."""
    from introspection_probe.history import History
    from iprobe.summary import is_stale

    now = datetime.now(UTC)
    with History.open(db, must_exist=True) as history:
        found = history.runs(limit)
        longest = history.longest_rounds([run.id for run in found])
    rows = [Listed(run, is_stale(run, longest.get(run.id, 0.0), now)) for run in found]
    if format_ is Format.json:
        write_json([_json(row) for row in rows])
    elif format_ is Format.markdown:
        write(_markdown(rows, now))
    else:
        console = stdout_console()
        show(console, _table(rows, now, console.width))


_TITLES = ("id", "run", "task", "model", "status", "step", "started")


def _cells(row: Listed, now: datetime) -> list[str]:
    from iprobe.formatting import ago_text

    run = row.run
    return [
        str(run.id),
        run.name,
        ", ".join(run.tasks),
        run.model,
        "silent" if row.stale else run.status,
        f"{run.step:,}",
        ago_text(run.started_at, now),
    ]


# Columns that a narrow terminal does without, the first to go first; and those that may be shortened, to no less.
_EXPENDABLE = ("model", "started", "task")
_SHORTENED = {"run": 8, "task": 8, "model": 12}


def _table(rows: Sequence[Listed], now: datetime, width: int) -> RenderableType:
    from rich.cells import cell_len
    from rich.table import Table
    from rich.text import Text

    from iprobe.text import safe_end, safe_text

    if not rows:
        return Text("No run was recorded in this history yet.")
    columns = dict(zip(_TITLES, zip(*(_cells(row, now) for row in rows), strict=True), strict=True))
    widths = {
        title: max(cell_len(title), *(cell_len(safe_text(cell, 60)) for cell in cells))
        for title, cells in columns.items()
    }
    _fit(widths, width)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim", collapse_padding=True)
    for title, room in widths.items():
        table.add_column(title, justify="right" if title in ("id", "step") else "left", width=room, no_wrap=True)
    for index in range(len(rows)):
        cells = [
            # A model's name says most at its end: checkpoint-500, SmolLM2-135M.
            Text(safe_end(columns[title][index], room) if title == "model" else safe_text(columns[title][index], 60))
            for title, room in widths.items()
        ]
        cells[1].stylize("bold")
        if columns["status"][index] in ("silent", "failed"):
            cells[list(widths).index("status")].stylize("yellow")
        table.add_row(*cells)
    return table


def _fit(widths: dict[str, int], width: int) -> None:
    """Shorten, then drop columns until the table is at most ``width`` wide."""

    def excess() -> int:
        return sum(widths.values()) + 2 * (len(widths) - 1) - width

    expendable = list(_EXPENDABLE)
    while excess() > 0:
        if sum(max(widths[title] - least, 0) for title, least in _SHORTENED.items() if title in widths) < excess():
            if not expendable:
                return
            widths.pop(expendable.pop(0))
        else:
            able = [title for title, least in _SHORTENED.items() if title in widths and widths[title] > least]
            widest = max(able, key=lambda title: widths[title])
            widths[widest] -= 1


def _markdown(rows: Sequence[Listed], now: datetime) -> str:
    from iprobe.report_markdown import markdown_table
    from iprobe.text import markdown_text

    cells = [[markdown_text(cell, 200) for cell in _cells(run, now)] for run in rows]
    return "\n".join(markdown_table(_TITLES, cells))


def _json(row: Listed) -> dict[str, Any]:
    from iprobe.report_json import time_json

    run = row.run
    return {
        "run_id": run.id,
        "run": run.name,
        "uid": run.uid,
        "kind": run.kind,
        "model": run.model,
        "tasks": list(run.tasks),
        "status": run.status,
        "stale": row.stale,
        "step": run.step,
        "started_at": time_json(run.started_at),
        "resumed_at": time_json(run.resumed_at),
        "updated_at": time_json(run.updated_at),
        "overhead": run.overhead,
    }
