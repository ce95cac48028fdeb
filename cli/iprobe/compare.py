"""`iprobe compare`: does one run explain itself better than another?"""

from __future__ import annotations

from typing import Annotated

import typer

from iprobe.console import Format, show, stdout_console, write, write_json
from iprobe.options import DbOption, FormatOption

_RUN = "its number, its name, or how its uid begins."


def compare(
    a: Annotated[str, typer.Argument(metavar="RUN_A", help=f"Run A: {_RUN}", show_default=False)],
    b: Annotated[str, typer.Argument(metavar="RUN_B", help=f"Run B: {_RUN}", show_default=False)],
    round_: Annotated[
        int | None,
        typer.Option(
            "--round", min=0, metavar="STEP", help="Compare the rounds at this step. By default each run's last round."
        ),
    ] = None,
    db: DbOption = None,
    task: Annotated[
        str | None,
        typer.Option(metavar="TASK", help="Task to compare. By default every task that both runs measured."),
    ] = None,
    format_: FormatOption = Format.table,
) -> None:
    """Compare two runs on the examples that both measured.

    Self EM, Orig EM, coupling gap and parse failures of A and of B, with the difference, its 95% interval and an
    exact paired test; how often the two behave alike; and what may be said of it, in words.
    """
    from introspection_probe.history import History
    from iprobe.comparing import compare_runs

    with History.open(db, must_exist=True) as history:
        found = compare_runs(history, a, b, round_, task)
    if format_ is Format.json:
        from iprobe.compare_report import to_json

        write_json(to_json(found))
    elif format_ is Format.markdown:
        from iprobe.compare_report import to_markdown

        write(to_markdown(found))
    else:
        from iprobe.compare_table import render

        console = stdout_console()
        show(console, render(found, console.width))
