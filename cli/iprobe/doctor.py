"""`iprobe doctor`: can this work? Asked before a run is paid for."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from iprobe.console import Format, note, show, stdout_console, write, write_json
from iprobe.options import FormatOption
from iprobe.torch_models import DeviceOption, DtypeOption, counting, open_model, progress_bar

if TYPE_CHECKING:
    from introspection_probe.doctor import Examination
    from introspection_probe.probe_set import ProbeSet


def doctor(
    probes: Annotated[Path, typer.Argument(metavar="PROBES", help="Probe set, from `iprobe build`.")],
    model: Annotated[
        str | None,
        typer.Option(metavar="PATH", help="The model that the run will start from: a folder or a hub name."),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Training configuration, YAML or JSON: of axolotl, LLaMA-Factory, TRL."),
    ] = None,
    lora_rank: Annotated[int | None, typer.Option(min=1, metavar="N", help="LoRA rank of the run.")] = None,
    learning_rate: Annotated[float | None, typer.Option(metavar="X", help="Learning rate of the run.")] = None,
    effect: Annotated[
        float, typer.Option(metavar="SHARE", help="The change of Self EM that you want to see, 0.05 for 5 points.")
    ] = 0.05,
    json_: Annotated[bool, typer.Option("--json", help="Short for --format json.")] = False,
    format_: FormatOption = Format.table,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
) -> None:
    """Say whether a probe set, a training configuration and a model can work together.

    Every finding has a number, a reason and a remedy. Without --model only the set and the settings are looked at,
    and the report says what was not. Exit code 1 where a finding is an error: it cannot work so. Warnings alone
    are 0.
    """
    from introspection_probe.doctor import examine, settings_of
    from introspection_probe.errors import IntrospectionError
    from introspection_probe.probe_set import ProbeSet

    if not 0 < effect < 0.5:
        raise IntrospectionError(f"--effect is {effect:g}; it must be a share between 0 and 0.5, such as 0.05")
    if learning_rate is not None and not (math.isfinite(learning_rate) and learning_rate > 0):
        raise IntrospectionError(f"--learning-rate is {learning_rate:g}; it must be above 0")
    settings, read = settings_of(config, lora_rank=lora_rank, learning_rate=learning_rate)
    probe_set = ProbeSet.load(probes)
    if model is None:
        found = examine(probe_set, settings, effect=effect)
    else:
        found = _with_model(probe_set, settings, effect, model, device, dtype)
    format_ = Format.json if json_ else format_
    if format_ is Format.json:
        write_json(_json(probe_set, found, read))
    elif format_ is Format.markdown:
        write(_markdown(probes, probe_set, found, read))
    else:
        _print(probes, probe_set, found, read)
    if not found.can_work:
        raise typer.Exit(1)


def _with_model(
    probe_set: ProbeSet, settings: Any, effect: float, model: str, device: str | None, dtype: str | None
) -> Examination:
    from dataclasses import replace

    from introspection_probe.doctor import examine

    loaded, tokenizer = open_model(model, device, dtype)
    settings = replace(settings, parameters=sum(parameter.numel() for parameter in loaded.parameters()))
    from introspection_probe.doctor.model import asked_of

    with progress_bar() as progress:
        advance = counting(progress, "asking", len(asked_of(probe_set)))
        return examine(probe_set, settings, effect=effect, model=loaded, tokenizer=tokenizer, progress=advance)


def _verdict(found: Examination) -> str:
    levels = [finding.level for finding in found.findings]
    errors, warnings = levels.count("error"), levels.count("warning")
    counted = " and ".join(
        f"{count} {word}{'' if count == 1 else 's'}"
        for count, word in ((errors, "error"), (warnings, "warning"))
        if count
    )
    if errors:
        return f"It cannot work so: {counted}."
    return f"Nothing prevents it: {counted}." if warnings else "Nothing was found that prevents it."


def _title(probes: Path, probe_set: ProbeSet) -> str:
    counts = probe_set.manifest.counts
    return (
        f"{probes}: {probe_set.task}, {counts['train']:,} examples to train on, {counts['probe']:,} to measure,"
        f" from {probe_set.manifest.model or 'an unnamed model'}"
    )


def _value(value: float | str, unit: str) -> str:
    if isinstance(value, str):
        return value
    if unit == "share":
        return f"{value:.0%}"
    number = f"{value:,}" if isinstance(value, int) else f"{value:g}" if unit != "F1" else f"{value:.2f}"
    return f"{number} {unit}" if unit not in ("", "F1") else number


def _read_words(read: dict[str, Any]) -> str:
    return ", ".join(f"{key} = {value}" for key, value in read.items())


def _sentence(reason: str, remedy: str) -> str:
    return f"{reason}. {remedy[:1].upper()}{remedy[1:]}." if remedy else f"{reason}."


def _print(probes: Path, probe_set: ProbeSet, found: Examination, read: dict[str, Any]) -> None:
    from rich.console import Group, RenderableType
    from rich.table import Table
    from rich.text import Text

    from iprobe.text import safe_text

    parts: list[RenderableType] = [Text(safe_text(_title(probes, probe_set), 400), style="bold")]
    if read:
        parts.append(Text(f"Read from the configuration: {safe_text(_read_words(read), 600)}.", style="dim"))
    parts += [Text(), Text(_verdict(found), style="bold"), Text()]
    styles = {"error": "bold red", "warning": "yellow", "note": "cyan"}
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False, collapse_padding=True)
    table.add_column(no_wrap=True)
    table.add_column()
    for finding in found.findings:
        if finding.level != "ok":
            words = Text()
            words.append(f"{safe_text(finding.code, 60)} {safe_text(_value(finding.value, finding.unit), 60)}", "bold")
            words.append(f"  {safe_text(_sentence(finding.reason, finding.remedy), 900)}")
            table.add_row(Text(finding.level, style=styles[finding.level]), words)
    if table.row_count:
        parts += [table, Text()]
    fine = [f"{f.code} {_value(f.value, f.unit)}" for f in found.findings if f.level == "ok"]
    if fine:
        parts.append(Text(f"Fine: {safe_text(', '.join(fine), 2000)}."))
    if found.not_checked:
        parts.append(Text(f"Not checked: {safe_text('; '.join(found.not_checked), 1000)}.", style="dim"))
    show(stdout_console(), Group(*parts))
    if not found.can_work:
        note("Exit code 1: at least one finding is an error.")


def _markdown(probes: Path, probe_set: ProbeSet, found: Examination, read: dict[str, Any]) -> str:
    from iprobe.report_markdown import markdown_table
    from iprobe.text import markdown_text

    lines = [f"## {markdown_text(_title(probes, probe_set), 400)}", "", f"**{_verdict(found)}**", ""]
    if read:
        lines += [f"Read from the configuration: {markdown_text(_read_words(read), 600)}.", ""]
    rows = [
        [
            markdown_text(finding.level),
            markdown_text(finding.code, 60),
            markdown_text(_value(finding.value, finding.unit), 60),
            markdown_text(_sentence(finding.reason, finding.remedy), 900),
        ]
        for finding in found.findings
    ]
    lines += markdown_table(["level", "check", "value", "reason and remedy"], rows)
    if found.not_checked:
        lines += ["", f"Not checked: {markdown_text('; '.join(found.not_checked), 1000)}."]
    return "\n".join(lines)


def _json(probe_set: ProbeSet, found: Examination, read: dict[str, Any]) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "can_work": found.can_work,
        "task": probe_set.task,
        "model": probe_set.manifest.model,
        "content_hash": probe_set.content_hash,
        "counts": dict(probe_set.manifest.counts),
        "read": {key: value if isinstance(value, bool | int | str) else str(value) for key, value in read.items()},
        "findings": [asdict(finding) for finding in found.findings],
        "not_checked": list(found.not_checked),
    }
