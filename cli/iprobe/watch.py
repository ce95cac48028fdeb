"""`iprobe watch`: how a running job stands, live in the terminal."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from iprobe.console import note, show, stdout_console, write, write_json
from iprobe.options import DbOption, RunArgument

if TYPE_CHECKING:
    from rich.console import Console

    from iprobe.watching import Look, Watched


class Snapshot(StrEnum):
    """What ``--format`` takes."""

    table = "table"
    json = "json"


def watch(
    run: RunArgument = None,
    db: DbOption = None,
    task: Annotated[
        str | None,
        typer.Option(metavar="TASK", help="Task to show, where the run has several. The first one by default."),
    ] = None,
    format_: Annotated[
        Snapshot,
        typer.Option("--format", help="How to print: json is one object a line, whenever something happened."),
    ] = Snapshot.table,
    every: Annotated[
        float, typer.Option(min=0.1, max=3600, metavar="SECONDS", help="How often to look at the history.")
    ] = 2.0,
) -> None:
    """Watch a running job: status, last round, alarms, curves.

    It reads the history alone, so it can run anywhere that sees it, and costs the job nothing. It waits while there is
    no run yet, and ends when the run ends, or with Ctrl-C. Without a terminal it prints a snapshot whenever something
    happened.
    """
    try:
        from iprobe.watching import Watched

        watched = Watched(db, run, task)
        if format_ is Snapshot.json:
            _json_lines(watched, every)
            return
        console = stdout_console()
        if console.is_terminal and not console.is_dumb_terminal:
            _live(watched, console, every)
        else:
            _snapshots(watched, console, every)
    except KeyboardInterrupt:
        pass  # how a person ends it, and no failure


def _live(watched: Watched, console: Console, every: float) -> None:
    """Draw over the last view, on the normal screen: what scrolled by stays, and the last view does, too."""
    from rich.live import Live
    from rich.text import Text

    from iprobe.watch_view import clock_text, render

    ended = False
    while not ended:
        width = console.width
        # The cursor stays visible, so that however this process ends the terminal is as it was.
        with Live(
            console=console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False, vertical_overflow="crop"
        ) as live:
            console.show_cursor(True)
            # In another width the terminal has broken the lines anew, and nobody knows where the view began.
            while console.width == width:
                look = watched.look()
                footer = f"{clock_text(_now())}, every {every:g} s, Ctrl-C ends"
                ended = look.ended
                live.update(render(look, console, footer=None if ended else footer), refresh=True)
                if ended:
                    break
                time.sleep(every)
            else:
                live.update(Text())  # or it would draw the old view once more


def _snapshots(watched: Watched, console: Console, every: float) -> None:
    """Print a view whenever something happened, for a file or a log."""
    from iprobe.watch_view import clock_text, render, waiting_words

    console.size = console.size._replace(height=1000)  # nothing to fit into
    for look in _news(watched, every):
        if look.summary is None:
            note(f"iprobe: {waiting_words(look)}")
        else:
            write(f"--- {clock_text(_now())}")
            show(console, render(look, console))


def _json_lines(watched: Watched, every: float) -> None:
    """Print an object a line whenever something happened, for a program."""
    from iprobe.watch_json import to_json

    for look in _news(watched, every):
        write_json(to_json(look, _now()), indent=None)


def _news(watched: Watched, every: float) -> Iterator[Look]:
    """The looks at which something is new, until the run has ended."""
    last: tuple[object, ...] = ()
    while True:
        look = watched.look()
        if look.news != last:
            last = look.news
            yield look
        if look.ended:
            return
        time.sleep(every)


def _now() -> datetime:
    return datetime.now(UTC)
