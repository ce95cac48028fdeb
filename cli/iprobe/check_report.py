"""The result of `iprobe report --check` in each form of the report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from introspection_probe.history import RunRow
from iprobe.checks import Checked, failed, label, result_words
from iprobe.text import markdown_code, markdown_text

if TYPE_CHECKING:
    from rich.text import Text


def check_text(checked: Sequence[Checked], run: RunRow) -> Text:
    """For the terminal: what does not hold with its reason, then the names of what does."""
    from rich.text import Text

    wrong = failed(checked)
    text = Text("\n")
    text.append("Check", style="bold")
    text.append(f"  {result_words(checked)}", style="bold red" if wrong else "green")
    for one in wrong:
        text.append(f"\nfails  {label(one, run)}", style="bold red")
        text.append(f"  {one.says}")
    for one in checked:
        if one.holds and one.kind != "alert":
            text.append(f"\nholds  {label(one, run)}")
            text.append(f"  {one.says}", style="dim")
    quiet = sum(one.holds for one in checked if one.kind == "alert")
    if quiet:
        text.append("\nholds  ")
        text.append(f"{quiet} alerts do not stand", style="dim")
    return text


def check_markdown(checked: Sequence[Checked], run: RunRow) -> str:
    """For GitHub: a section of its own."""
    return "\n".join(_lines(checked, run)) + "\n"


def _lines(checked: Sequence[Checked], run: RunRow) -> Iterator[str]:
    yield ""
    yield f"### Check: {markdown_text(result_words(checked))}"
    yield ""
    for one in sorted(checked, key=lambda one: one.holds):
        word = "holds" if one.holds else "**fails**"
        yield f"- {word} {markdown_code(label(one, run))}: {markdown_text(one.says)}"


def check_json(checked: Sequence[Checked]) -> dict[str, Any]:
    """The value of the report's key ``check``."""
    return {
        "holds": not failed(checked),
        "conditions": [
            {"name": one.name, "task": one.task, "kind": one.kind, "holds": one.holds, "says": one.says}
            for one in checked
        ],
    }
