"""The `iprobe` program: which commands there are, and what its errors look like.

A command is a module of this package with a function (or a group of them) of the same name, imported only when it is
called for: so `iprobe report` starts without what `iprobe build` needs.
"""

from __future__ import annotations

import gc
import os
import sys
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from introspection_probe import __version__
from introspection_probe.errors import IntrospectionError
from iprobe.console import note
from iprobe.text import safe_text

COMMANDS = (
    "demo",
    "build",
    "probes",
    "doctor",
    "probe",
    "follow",
    "report",
    "compare",
    "watch",
    "runs",
    "serve",
    "integrations",
)
"""In the order of the help."""

# Over before there is garbage worth looking for.
_BRIEF = {"report", "compare", "runs"}

# Modules of the `train` extra. A command that needs one of them imports it when it runs.
_TRAINING_MODULES = {"torch", "transformers", "accelerate", "datasets", "peft", "trl"}


class _Commands(TyperGroup):
    """The commands, each imported when it is asked for."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name in COMMANDS:
            if cmd_name not in _BRIEF:
                gc.enable()
            return _command(cmd_name)
        if cmd_name.startswith("-") or ctx.resilient_parsing:
            return None  # an unknown option, or the shell asking for completions
        from difflib import get_close_matches

        close = get_close_matches(cmd_name, COMMANDS, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"choose one of {', '.join(COMMANDS)}"
        raise IntrospectionError(f"there is no command {safe_text(cmd_name, 40)!r}: {hint}")


def _command(name: str) -> Any:
    function = getattr(import_module(f"iprobe.{name}"), name)
    if isinstance(function, typer.Typer):  # a command of several, such as `iprobe probes show`
        return typer.main.get_command(function)
    single = typer.Typer(add_completion=False, rich_markup_mode=None)
    single.command(name)(function)
    return typer.main.get_command(single)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"iprobe {__version__}")
        raise typer.Exit


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@app.callback()
def iprobe(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Do a model's explanations of itself still follow the model?

    Every command answers --help. Results go to stdout, everything else to stderr. Exit codes: 0 fine, 1 a checked
    condition does not hold, 2 wrong use.
    """


def main() -> None:
    """Run the program. Never returns normally: it exits with the code (Ctrl-C: typer's 130)."""
    # Importing makes many objects and no garbage: looking for some costs a tenth of a reading command's time.
    gc.set_threshold(20_000)
    gc.disable()
    try:
        app(prog_name="iprobe")
    except IntrospectionError as error:
        _fail(str(error))
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in _TRAINING_MODULES:
            raise
        _fail(
            f"this command needs the training extras ({missing} is missing): pip install 'introspection-probe[train]'"
        )
    except OSError as error:  # a full disk, a name that is too long, a folder that is not ours: no fault of the program
        where = "" if error.filename is None else f"{error.filename}: "
        _fail(f"{where}{error.strerror or error}")
    finally:
        gc.enable()


def program() -> None:
    """The console script: :func:`main`, without tearing the interpreter down after a command that only read.

    Freeing every object that SQLAlchemy and typer made takes a fifth of such a command's time. What it wrote is closed
    by then, and it has no threads. Commands that train, follow or serve end in the usual way.
    """
    brief = sys.argv[1:2] != [] and sys.argv[1] in _BRIEF
    try:
        main()
    except SystemExit as end:
        if not brief or not isinstance(end.code, int | None):
            raise
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        except OSError:  # a reader that went away
            raise end from None
        os._exit(end.code or 0)


def _fail(sentence: str) -> None:
    """Say what was wrong and exit with 2."""
    note(f"iprobe: {safe_text(sentence, 2000)}")
    sys.exit(2)


if __name__ == "__main__":
    program()
