"""`iprobe report`: do the explanations of a run still follow the model?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from iprobe.console import Format, note, show, stdout_console, write, write_json
from iprobe.options import DbOption, FormatOption, RunArgument
from iprobe.text import safe_text

if TYPE_CHECKING:
    from iprobe.checks import Checked
    from iprobe.summary import Summary

_EXAMPLES, _EXAMPLES_ON_A_PAGE = 3, 10
# A task is about 35 kB; a browser turns sluggish with many more.
_TASKS_ON_A_PAGE = 50


def report(
    run: RunArgument = None,
    db: DbOption = None,
    task: Annotated[
        str | None,
        typer.Option(metavar="TASK", help="Task to report on, where the run has several. The first one by default."),
    ] = None,
    format_: FormatOption = Format.table,
    examples: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=1000,
            metavar="N",
            help="How many examples to show where explanation and behaviour part: 3 by default, 10 on a page.",
        ),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write the report of all tasks, or of --task, as one self-contained web page as well.",
        ),
    ] = None,
    check: Annotated[
        bool,
        typer.Option(
            "--check",
            help="Exit with 1 when an alert stands at the last round, the run failed or died, or no round was taken."
            " Checks all tasks unless --task names one.",
        ),
    ] = False,
    min_self_em: Annotated[
        float | None,
        typer.Option(min=0, max=1, metavar="X", help="With --check: the least Self EM of the last round."),
    ] = None,
    min_gap: Annotated[
        float | None,
        typer.Option(min=-1, max=1, metavar="X", help="With --check: the least coupling gap of the last round."),
    ] = None,
    min_label_agreement: Annotated[
        float | None,
        typer.Option(min=0, max=1, metavar="X", help="With --check: the least label agreement of the last round."),
    ] = None,
    junit: Annotated[
        Path | None, typer.Option(metavar="FILE", help="With --check: write the conditions as JUnit test cases.")
    ] = None,
) -> None:
    """Show whether the explanations of a run still follow the model.

    A table of the first and the last round with 95% intervals, what the coupling gap means, the alerts that hold,
    and examples where what the model says is not what it does.
    """
    from introspection_probe.history import History
    from iprobe.summary import read_course, summarize, with_rollouts

    asked = {
        "--min-self-em": min_self_em,
        "--min-gap": min_gap,
        "--min-label-agreement": min_label_agreement,
        "--junit": junit,
    }
    if not check:
        _refuse_without_check([option for option, value in asked.items() if value is not None])
    checked: list[Checked] | None = None
    with History.open(db, must_exist=True) as history:
        shown = _EXAMPLES if examples is None else examples
        fetched = _EXAMPLES_ON_A_PAGE if examples is None and html is not None else shown
        course = read_course(history, run, db)
        summary = with_rollouts(history, summarize(course, task), fetched)
        # Of all tasks, where the answer is about the run.
        whole = task is None and (check or html is not None)
        others = [summarize(course, name) for name in summary.other_tasks] if whole else []
        if html is not None:
            from iprobe.report_html import write_page

            # Of more tasks than a page can hold those with an alarm come first.
            told = sorted(others, key=lambda other: not other.active_alerts)[: _TASKS_ON_A_PAGE - 1]
            details = [summary, *(with_rollouts(history, other, fetched) for other in told)]
            write_page(history, details, html, left_out=len(others) - len(told))
            summary = replace(summary, examples=summary.examples[:shown])
        if check:
            from iprobe.checks import Thresholds, run_checks

            checked = run_checks([summary, *others], Thresholds(min_self_em, min_gap, min_label_agreement))
    if checked is not None and junit is not None:
        from iprobe.junit import write_junit

        write_junit(junit, summary.run, checked)
    _print(summary, checked, format_)
    if html is not None:
        note(f"The page is {safe_text(str(html), 500)}.")
    if summary.task is not None and summary.other_tasks and task is None and format_ is Format.json:
        note(f"The run has {len(summary.tasks)} tasks, this is the first: choose another with --task.")
    if checked is not None:
        _exit_with(checked, summary)


def _refuse_without_check(given: Sequence[str]) -> None:
    from introspection_probe.errors import IntrospectionError

    if given:
        raise IntrospectionError(f"{given[0]} is given without --check, which it belongs to: add --check")


def _print(summary: Summary, checked: Sequence[Checked] | None, format_: Format) -> None:
    """The report on stdout, with the check's result at its end."""
    if format_ is Format.json:
        from iprobe.report_json import to_json

        document = to_json(summary)
        if checked is not None:
            from iprobe.check_report import check_json

            document["check"] = check_json(checked)
        write_json(document)
    elif format_ is Format.markdown:
        from iprobe.report_markdown import to_markdown

        text = to_markdown(summary)
        if checked is not None:
            from iprobe.check_report import check_markdown

            text += check_markdown(checked, summary.run)
        write(text)
    else:
        from iprobe.report_table import prose, render

        console = stdout_console()
        show(console, render(summary, console))
        if checked is not None:
            from iprobe.check_report import check_text

            show(console, prose(check_text(checked, summary.run), console.width))


def _exit_with(checked: Sequence[Checked], summary: Summary) -> None:
    """The exit code of the check, and on stderr why it is not 0: stdout may have gone into a file."""
    from iprobe.checks import failed, label, result_words

    wrong = failed(checked)
    if wrong:
        names = ", ".join(label(one, summary.run) for one in wrong)
        note(f"iprobe: {result_words(checked)}: {names}")
        raise typer.Exit(1)
