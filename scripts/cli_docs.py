"""Writes every command's --help into docs/cli.md, between its markers. `--check` only says whether it is up to date."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import typer

from iprobe.main import COMMANDS, app

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "cli.md"


def help_text(*command: str) -> str:
    code = f"import sys; sys.argv = ['iprobe', *{[*command, '--help']!r}]; from iprobe.main import main; main()"
    environment = os.environ | {"COLUMNS": "80", "NO_COLOR": "1"}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    ).stdout.rstrip()


def commands() -> list[str]:
    """Every command, with those that a command has of its own: ``probes``, ``probes show``."""
    found = [""]
    for name in COMMANDS:
        command = typer.main.get_command(app).get_command(None, name)
        found += [name, *(f"{name} {own}" for own in getattr(command, "commands", ()))]
    return found


def updated(document: str) -> str:
    for command in commands():
        marker = f"<!-- help {command} -->" if command else "<!-- help -->"
        block = f"{marker}\n```text\n{help_text(*command.split())}\n```\n<!-- /help -->"
        if marker not in document:
            sys.exit(f"docs/cli.md has no section on `iprobe {command}`: add one with the line {marker} in it")
        # Every block ends in <!-- /help -->; a new marker has none yet.
        pattern = re.escape(marker) + r"(\n```text\n.*?\n```\n<!-- /help -->)?"
        document = re.sub(pattern, lambda _, block=block: block, document, count=1, flags=re.DOTALL)
    return document


def main() -> None:
    document = DOCUMENT.read_text(encoding="utf-8")
    new = updated(document)
    if "--check" in sys.argv[1:]:
        if new != document:
            sys.exit("docs/cli.md does not show the present --help: run `python scripts/cli_docs.py`")
    else:
        DOCUMENT.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    main()
