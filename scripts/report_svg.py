"""Draws the report of a run as an SVG picture: `python scripts/report_svg.py --db runs.db docs/report.svg`."""

from __future__ import annotations

import argparse
import io
import re
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import MONOKAI

from introspection_probe.history import History
from iprobe.report_table import render
from iprobe.summary import read_course, summarize, with_rollouts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("svg", type=Path, help="file to write")
    parser.add_argument("--db", help="history; by default IPROBE_DB or introspection.db")
    parser.add_argument("--run", help="run; the latest by default")
    parser.add_argument("--task", help="task; the first by default")
    parser.add_argument("--examples", type=int, default=2)
    parser.add_argument("--width", type=int, default=104, help="columns of the terminal that is drawn")
    args = parser.parse_args()
    # Foreign text was made safe by `render`; rich escapes it for XML.
    console = Console(
        record=True,
        width=args.width,
        file=io.StringIO(),
        force_terminal=True,
        markup=False,
        emoji=False,
        highlight=False,
    )
    with History.open(args.db, must_exist=True) as history:
        summary = with_rollouts(history, summarize(read_course(history, args.run), args.task), args.examples)
    console.print("$ iprobe report\n", style="dim")
    console.print(render(summary, console))
    # A fixed id: the same report gives the same file.
    svg = console.export_svg(title="iprobe report", theme=MONOKAI, unique_id="iprobe-report")
    # Rich names a web font; a picture in a README must not call anybody. The reader's own monospace font serves.
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)
    args.svg.write_text(svg, encoding="utf-8")


if __name__ == "__main__":
    main()
