"""A probe set as people look at it: what it is, and examples with the cue marked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from introspection_probe.tasks.cue_marks import cue_place
from introspection_probe.tasks.explanations import to_text

if TYPE_CHECKING:
    from rich.console import RenderableType

    from introspection_probe.probe_set import ProbeSet
    from introspection_probe.records import Probe, ProbeExample

_SHOWN_CHARS = 1200


def set_json(probe_set: ProbeSet, chosen: Sequence[Probe]) -> dict[str, Any]:
    """The manifest, and the examples with the place of the cue."""
    from dataclasses import asdict

    from introspection_probe.probe_set.rows import to_row

    examples = []
    for probe in chosen:
        place = cue_place(probe.example)
        keys = ("message", "start", "end")
        examples.append({**to_row(probe), "cue_place": place and dict(zip(keys, place, strict=True))})
    return {"manifest": asdict(probe_set.manifest), "examples": examples}


def set_table(probe_set: ProbeSet, chosen: Sequence[Probe]) -> RenderableType:
    """For a terminal."""
    from rich.console import Group
    from rich.text import Text

    from iprobe.text import safe_text

    parts: list[RenderableType] = [
        Text(f"{safe_text(name, 20)}: {safe_text(value, 600)}") for name, value in _facts(probe_set)
    ]
    for probe in chosen:
        title = f"{safe_text(probe.example.id, 100)}, {probe.split} side"
        parts += [Text(), Text(title, style="bold")]
        for role, before, cue, after in _spoken(probe.example):
            said = Text(f"{role}: ", style="dim")
            said.append(safe_text(before, _SHOWN_CHARS), style="default")
            if cue:
                said.append(f"[[{safe_text(cue, _SHOWN_CHARS)}]]", style="not dim bold reverse")
            said.append(safe_text(after, _SHOWN_CHARS), style="default")
            parts.append(said)
        parts += [Text(f"{name}: {safe_text(value, _SHOWN_CHARS)}") for name, value in _told(probe)]
    return Group(*parts)


def set_markdown(probe_set: ProbeSet, chosen: Sequence[Probe]) -> str:
    """For a pull request or a page."""
    from iprobe.report_markdown import markdown_table
    from iprobe.text import markdown_text

    rows = [[markdown_text(name), markdown_text(value, 600)] for name, value in _facts(probe_set)]
    lines = list(markdown_table(("probe set", ""), rows))
    for probe in chosen:
        lines += ["", f"### {markdown_text(probe.example.id, 100)} ({probe.split} side)", ""]
        for role, before, cue, after in _spoken(probe.example):
            marked = f"**\\[\\[{markdown_text(cue, _SHOWN_CHARS).strip()}\\]\\]**" if cue else ""
            said = f"{markdown_text(before, _SHOWN_CHARS)}{marked}{markdown_text(after, _SHOWN_CHARS)}"
            lines.append(f"- {role}: {said}")
        lines += [f"- {name}: {markdown_text(value, _SHOWN_CHARS)}" for name, value in _told(probe)]
    return "\n".join(lines)


def _facts(probe_set: ProbeSet) -> Iterator[tuple[str, str]]:
    """What the set is, a line each."""
    manifest = probe_set.manifest
    options = ", ".join(f"{name}={value}" for name, value in manifest.task_options.items())
    yield "task", manifest.task + (f" ({options})" if options else "")
    yield "M0", manifest.model or "not named"
    yield "tokenizer", manifest.tokenizer
    yield "prompt style", manifest.style.name
    yield "examples", f"{manifest.counts['train']} to train on, {manifest.counts['probe']} to measure"
    for side in ("train", "probe"):
        probes = [probe for probe in probe_set.probes if probe.split == side]
        if probes:
            changed = sum(probe.behavior.explanation.changed for probe in probes)
            yield f"changed ({side})", f"{changed / len(probes):.0%} of the answers are others without the cue"
    yield "label sets", ", ".join(_label_set(probe_set, name) for name in manifest.label_sets)
    if manifest.judging is not None:
        yield "judge", f"{manifest.judging.judge}, version {manifest.judging.version}"
    source = manifest.build.get("source")
    if source:
        yield "rows from", str(source)
    yield "seed", str(manifest.seed)
    yield "content hash", manifest.content_hash[:12]
    yield "made", manifest.created_at
    for warning in manifest.build.get("warnings", ()):
        yield "warning", str(warning)


def _label_set(probe_set: ProbeSet, name: str) -> str:
    if name == "orig":
        return name
    alike = sum(probe.labels[name] == probe.labels["orig"] for probe in probe_set.probes)
    return f"{name} ({alike / len(probe_set.probes):.0%} as orig)"


def _spoken(example: ProbeExample) -> Iterator[tuple[str, str, str, str]]:
    """Each message of ``x``: its role, and its text before the cue, in it and after it."""
    place = cue_place(example)
    for index, message in enumerate(example.included):
        text = message["content"]
        start, end = place[1:] if place is not None and place[0] == index else (len(text), len(text))
        yield message["role"], text[:start], text[start:end], text[end:]


def _told(probe: Probe) -> Iterator[tuple[str, str]]:
    """What the model did and should say, a line each."""
    if cue_place(probe.example) is None:
        yield "cue", probe.example.cue
    behavior, responses = probe.behavior, probe.responses
    pointed = probe.example.cue_option
    yield "answers", ", ".join(probe.example.options) + (f"; the cue points to {pointed}" if pointed else "")
    yield "M0 with the cue", behavior.included + (f" ({responses.included})" if responses else "")
    yield "M0 without it", behavior.ablated + (f" ({responses.ablated})" if responses else "")
    for name, label in sorted(probe.labels.items(), key=lambda item: (item[0] != "orig", item[0])):
        yield f"label {name}", to_text(label)
