"""What several reading commands take."""

from __future__ import annotations

from typing import Annotated

import typer

from iprobe.console import Format

RunArgument = Annotated[
    str | None,
    typer.Argument(metavar="RUN", help="Run: its number, its name, or how its uid begins. The latest run by default."),
]

DbOption = Annotated[
    str | None,
    typer.Option(
        "--db",
        metavar="URL",
        help="History: a SQLite file or any SQLAlchemy URL. By default IPROBE_DB, else introspection.db here.",
    ),
]

FormatOption = Annotated[
    Format, typer.Option("--format", help="How to print the result. JSON and Markdown go to stdout alone.")
]
