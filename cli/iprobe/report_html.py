"""The report as one web page that needs nothing else: no network, no script, no second file.

Everything a template prints goes through `_shown`, which spells out what a browser would obey or hide (control
characters, direction marks), and then through jinja2's escaping. The page's policy forbids scripts and every kind of
loading, and allows the one style sheet in it by its hash, so that even a mistake here would have nothing to run.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from introspection_probe import __version__
from introspection_probe.errors import IntrospectionError
from introspection_probe.history import History, RunRow
from iprobe import formatting, values, words
from iprobe.report_html_view import TaskView, answer, task_view, truth
from iprobe.summary import Summary
from iprobe.text import safe_end, safe_text

_TEMPLATES = Path(__file__).parent / "templates"


def write_page(history: History, summaries: Sequence[Summary], path: Path, *, left_out: int = 0) -> None:
    """Write the report of a run to ``path``.

    Args:
        summaries: one for each of the run's tasks to show, at least one.
        left_out: how many tasks of the run are not shown, which the page says.

    Raises:
        IntrospectionError: the file cannot be written.
    """
    first, *others = summaries
    # The mixed losses are the run's, not a task's: once is enough.
    shown = [first, *(replace(other, losses=()) for other in others)]
    views = [_view(history, f"t{number}", one) for number, one in enumerate(shown, start=1)]
    page = to_html(first.run, views, first.now, left_out=left_out)
    try:
        path.write_text(page, encoding="utf-8", newline="\n")
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise IntrospectionError(
            f"cannot write the page {str(path)!r} ({reason}): name a file in a folder that exists and may be written to"
        ) from error


def to_html(run: RunRow, tasks: Sequence[TaskView], now: datetime, *, left_out: int = 0) -> str:
    """The whole page, HTML5: the same bytes for the same input."""
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(
        {name: getattr(formatting, name) for name in ("NOT_MEASURED", "ratio_text", "time_text", "count_text")}
        | {name: getattr(values, name) for name in ("value_text", "value_interval_text", "change_text")}
        | {"change_interval_text": values.change_interval_text, "answer": answer, "truth": truth}
        | {
            name: getattr(words, name)
            for name in ("status_words", "started_words", "cost_words", "next_steps", "shift_words")
        }
        | {"short": safe_text, "short_end": safe_end}
    )
    style = (_TEMPLATES / "report.css").read_text(encoding="utf-8")
    return environment.get_template("report.html.jinja").render(
        run=run,
        tasks=tasks,
        left_out=left_out,
        now=now,
        version=__version__,
        style=Markup(style),  # our own file
        style_hash=b64encode(sha256(style.encode()).digest()).decode(),
    )


def _shown(value: Any) -> Any:
    """What is printed of a template's value: markup of our own as it is, numbers too, any text made safe."""
    if value is None:
        raise TypeError("a template printed None: what was not measured is written as a dash")
    return value if isinstance(value, Markup | int | float) else safe_text(str(value))


def _view(history: History, key: str, summary: Summary) -> TaskView:
    said: dict[str, str] = {}
    if summary.examples and len(summary.rounds) > 1:
        first = history.rollouts(summary.run.id, summary.rounds[0].step, task=summary.task)
        wanted = {example.example_id for example in summary.examples}
        said = {r.example_id: r.predicted_text for r in first if r.example_id in wanted}
    return task_view(key, summary, said)
