"""What a tokenizer makes of a probe set's prompts: its chat template, its tokens, its window. Needs transformers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from introspection_probe.building.asking import Question
from introspection_probe.errors import IntrospectionError
from introspection_probe.findings import Finding
from introspection_probe.probe_set import ProbeSet
from introspection_probe.probe_set.tokens import template_hash
from introspection_probe.records import Probe, ProbeExample, Rendered
from introspection_probe.rollout import EncodedProbe, encode_set, render
from introspection_probe.scoring.quoting import quoted
from introspection_probe.tasks.base import PromptStyle

_YEARS = ("2001", "2032")

_OPENED = re.compile(r"<\|?(think|thinking|thought|reasoning)\|?>|\[THINK\]", re.IGNORECASE)
_CLOSED = re.compile(r"</\|?(think|thinking|thought|reasoning)\|?>|<\|/(think|thinking)\|>|\[/THINK\]", re.IGNORECASE)
_SWITCHES = ("enable_thinking", "thinking")
"""Arguments with which templates turn thinking on and off (Qwen3, SmolLM3, GLM; DeepSeek, Granite)."""

_DIFFERENT_SETS = 64
"""Answer sets that are looked at."""


def template_findings(probe_set: ProbeSet, tokenizer: Any, *, check_tokens: bool = True) -> list[Finding]:
    """Whether the chat template writes what changes by itself, or lets the model think where it should answer.

    Args:
        check_tokens: whether to tokenize the whole set again, to see whether the tokenizer is the set's.
    """
    found = [_tokenizer(probe_set, tokenizer)] if check_tokens else []
    found.append(_end_token(tokenizer))
    probe = probe_set.probes[0]
    try:
        found += [
            _date(tokenizer, probe.example, probe_set.style),
            _same_template(probe_set, tokenizer),
            _thinking(probe_set, tokenizer),
        ]
    except IntrospectionError as error:
        remedy = "use the instruct model's tokenizer, or build a set with this one"
        found.append(Finding("error", "chat_template", "refused", "", str(error), remedy))
    return found


def _tokenizer(probe_set: ProbeSet, tokenizer: Any) -> Finding:
    try:
        probe_set.check_tokenizer(tokenizer)
    except IntrospectionError as error:
        reason, _, remedy = str(error).rpartition("; ")
        return Finding("error", "tokenizer", len(tokenizer), "tokens", reason, remedy)
    return Finding("ok", "tokenizer", len(tokenizer), "tokens", "the tokenizer reads the set as it was built")


def _end_token(tokenizer: Any) -> Finding:
    if tokenizer.eos_token_id is None:
        reason = "the tokenizer names no end token, which explanations end with"
        return Finding("error", "end_token", "none", "", reason, "set eos_token")
    return Finding("ok", "end_token", int(tokenizer.eos_token_id), "token id", "explanations end with the end token")


def _date(tokenizer: Any, example: ProbeExample, style: PromptStyle) -> Finding:
    """Render in two years: a macro before the template shadows its clock, so none has to be turned back."""
    template = tokenizer.get_chat_template()

    def in_year(year: str) -> Rendered:
        clock = "{%- macro strftime_now(format) -%}" + year + "{%- endmacro -%}"
        arguments = {**style.template_kwargs, "chat_template": clock + template}
        return render(tokenizer, example, replace(style, template_kwargs=arguments))

    one, other = (in_year(year) for year in _YEARS)
    pairs = zip(_texts(one), _texts(other), strict=True)
    moved = sum(first != second for first, second in pairs)
    if not moved:
        return Finding("ok", "template_date", 0, "prompts", "the chat template writes no date")
    reason = (
        f"the chat template writes today's date into {moved} of an example's 3 prompts, so a set that is built tomorrow"
        " is another set, and the probes carry another date than the host's data"
    )
    remedy = "fix the date with an argument of the template, such as --template-arg date_string='\"01 Jan 2025\"'"
    return Finding("warning", "template_date", moved, "prompts", reason, remedy)


def _texts(rendered: Rendered) -> tuple[str, str, str]:
    return rendered.included, rendered.ablated, rendered.question


def _same_template(probe_set: ProbeSet, tokenizer: Any) -> Finding:
    if template_hash(tokenizer) == probe_set.manifest.template_hash:
        return Finding("ok", "template_changed", 0, "templates", "the chat template is the set's")
    reason = "the chat template is another than the one that the set's prompts were made with"
    remedy = "build the set with this tokenizer, so that probes look as the host's data do"
    return Finding("warning", "template_changed", 1, "templates", reason, remedy)


def _thinking(probe_set: ProbeSet, tokenizer: Any) -> Finding:
    """Whether a prompt ends within a thought, or where the model would begin one."""
    opening = probe_set.style.opening
    probes = probe_set.probes
    inside = sum(any(_in_thought(text) for text in _texts(probe.rendered)) for probe in probes)
    if inside:
        reason = (
            f"{inside} of {len(probes)} examples have prompts that end within a thinking block, so what is read as the"
            " answer is the beginning of a thought"
        )
        remedy = "turn thinking off for the set, with --template-arg enable_thinking=false"
        return Finding("error", "thinking_block", inside, "examples", reason, remedy)
    template = str(tokenizer.chat_template)
    switches = [name for name in _SWITCHES if re.search(rf"\b{name}\b", template)]
    on = [name for name in switches if probe_set.style.template_kwargs.get(name) is not False]
    example = probes[0].example
    for name in on:
        off = replace(probe_set.style, template_kwargs={**probe_set.style.template_kwargs, name: False})
        if _texts(render(tokenizer, example, off)) != _texts(render(tokenizer, example, probe_set.style)):
            reason = (
                f"the chat template can think and the set leaves {name} on, so a model that is asked freely thinks"
                f" where the set reads its answer{' after ' + quoted(opening) if opening else ''}"
            )
            remedy = f"build the set with --template-arg {name}=false"
            return Finding("warning", "thinking_block", len(probes), "examples", reason, remedy)
    return Finding("ok", "thinking_block", 0, "examples", "no prompt ends within a thinking block")


def _in_thought(prompt: str) -> bool:
    opened, closed = [*_OPENED.finditer(prompt)], [*_CLOSED.finditer(prompt)]
    return bool(opened) and (not closed or closed[-1].start() < opened[-1].start())


def token_findings(probe_set: ProbeSet, tokenizer: Any, window: float) -> list[Finding]:
    """Whether answers are single tokens and prompts fit the model's window.

    Args:
        window: positions that the model can read.
    """
    different = {probe.example.options: probe for probe in probe_set.probes}
    looked_at = list(different.values())[:_DIFFERENT_SETS]
    # A token is a byte at least: what has fewer bytes than the window has places needs no counting.
    long = [probe for probe in probe_set.probes if _bytes(probe) > window]
    try:
        findings = [] if probe_set.manifest.judging else [_options(encode_set(tokenizer, probe_set, looked_at))]
        return [*findings, _window(probe_set, long, tokenizer, window)]
    except IntrospectionError as error:
        return [Finding("error", "answer_tokens", "refused", "", str(error), "choose another prompt style")]


def _bytes(probe: Probe) -> int:
    longest = max(len(text.encode("utf-8", "replace")) for text in _texts(probe.rendered))
    return longest + 64 + max(len(option.encode("utf-8", "replace")) for option in probe.example.options)


def _options(encoded: Sequence[EncodedProbe]) -> Finding:
    longest, text = max(
        (len(ids), option)
        for probe in encoded
        for answers in (probe.included_options, probe.ablated_options)
        for ids, option in zip(answers, probe.options, strict=True)
    )
    if longest == 1:
        return Finding("ok", "answer_tokens", 1, "tokens", "every answer is a single token")
    reason = (
        f"answers have up to {longest} tokens ({quoted(text)}), and the first is chosen before the rest is seen: of"
        " answers that begin alike the likeliest beginning wins"
    )
    remedy = "word the answers as letters or other single tokens, if their behaviour looks odd"
    return Finding("note", "answer_tokens", longest, "tokens", reason, remedy)


def _window(probe_set: ProbeSet, long: Sequence[Probe], tokenizer: Any, window: float) -> Finding:
    encoded = encode_set(tokenizer, probe_set, long)
    lengths = [
        Question(number, probe.example, probe.rendered, item).tokens
        for number, (probe, item) in enumerate(zip(long, encoded, strict=True))
    ]
    too_long = [length for length in lengths if length > window]
    if not too_long:
        return Finding("ok", "window", 0, "examples", "every prompt fits the model's window")
    reason = (
        f"{len(too_long)} of {len(probe_set.probes)} examples are longer than the model's window of {window:,.0f}"
        f" tokens (the longest has {max(too_long):,})"
    )
    remedy = "build the set with this model, which leaves them out, or with shorter questions"
    return Finding("error", "window", len(too_long), "examples", reason, remedy)
