"""What the doctor finds with a tokenizer and a model: dates, thoughts, tokens, windows, labels; and at train begin."""

from __future__ import annotations

import copy
import json
import logging
import time
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from cli_program import Program
from doctored import STYLE, good, probe_set
from refusing import refusal_probe_set, refusing_folder
from runs import embedded_model, embedded_tokenizer, sft, small_probe_set

from introspection_probe import IntrospectionCallback
from introspection_probe.doctor import Settings, examine, train_begin_findings
from introspection_probe.doctor.template import template_findings, token_findings
from introspection_probe.findings import Finding
from introspection_probe.probe_set import ProbeSet
from introspection_probe.records import Behavior, Explanation
from introspection_probe.rollout import render
from introspection_probe.tasks.jabberwocky import MODEL_PATH

MESSAGES = "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}{% endfor %}"
PLAIN = MESSAGES + "{% if add_generation_prompt %}<|assistant|>{% endif %}"
# As Llama 3.1 does it: the date of today unless one is given.
DATED = (
    "{% if not date_string is defined %}{% if strftime_now is defined %}"
    '{% set date_string = strftime_now("%d %b %Y") %}{% else %}{% set date_string = "26 Jul 2024" %}{% endif %}'
    "{% endif %}Today Date: {{ date_string }}\n" + PLAIN
)
# As Qwen3 does it: an empty thought where thinking is off, none where it is on or not said.
THINKING = (
    PLAIN + "{% if add_generation_prompt and enable_thinking is defined and enable_thinking is false %}"
    "<think>\n\n</think>\n\n{% endif %}"
)
# As DeepSeek-R1's distillates do it: the thought is always open.
OPEN = PLAIN + "{% if add_generation_prompt %}<think>\n{% endif %}"


def set_with(template: str, **template_kwargs: Any) -> tuple[ProbeSet, Any]:
    """A set whose prompts this template made, and its tokenizer."""
    tokenizer = copy.deepcopy(embedded_tokenizer())
    tokenizer.chat_template = template
    style = replace(STYLE, template_kwargs=template_kwargs)
    built = probe_set(n=40, tokenizer=tokenizer, style=style)
    probes = [replace(probe, rendered=render(tokenizer, probe.example, style)) for probe in built.probes]
    return ProbeSet.from_probes(probes, task="made", style=style, tokenizer=tokenizer), tokenizer


def found_with(template: str, **template_kwargs: Any) -> dict[str, Finding]:
    built, tokenizer = set_with(template, **template_kwargs)
    return {finding.code: finding for finding in template_findings(built, tokenizer)}


def test_a_template_that_writes_todays_date_is_found_and_a_fixed_date_is_not() -> None:
    dated = found_with(DATED)["template_date"]
    assert (dated.level, dated.value, dated.unit) == ("warning", 3, "prompts")
    assert "date_string" in dated.remedy
    assert found_with(DATED, date_string="01 Jan 2025")["template_date"].level == "ok"
    assert found_with(PLAIN)["template_date"].level == "ok"


@pytest.mark.parametrize(
    ("template", "arguments", "level"),
    [
        (PLAIN, {}, "ok"),
        (THINKING, {"enable_thinking": False}, "ok"),
        (THINKING, {"enable_thinking": True}, "warning"),
        (THINKING, {}, "warning"),
        (OPEN, {}, "error"),
        (OPEN.replace("<think>", "[THINK]"), {}, "error"),
    ],
)
def test_a_prompt_in_or_before_a_thought_is_found(template: str, arguments: dict[str, Any], level: str) -> None:
    assert found_with(template, **arguments)["thinking_block"].level == level


def test_another_template_or_tokenizer_than_the_sets_is_found() -> None:
    built, tokenizer = set_with(PLAIN)
    found = {finding.code: finding.level for finding in template_findings(built, tokenizer)}
    assert set(found.values()) == {"ok"}
    tokenizer.chat_template = PLAIN + " "
    changed = {finding.code: finding.level for finding in template_findings(built, tokenizer)}
    assert (changed["template_changed"], changed["tokenizer"]) == ("warning", "ok")
    tokenizer.add_tokens([built.probes[0].example.ablated[0]["content"].split()[0]])
    tokenizer.eos_token = None
    changed = {finding.code: finding.level for finding in template_findings(built, tokenizer)}
    assert (changed["tokenizer"], changed["end_token"]) == ("error", "error")
    tokenizer.chat_template = "{{ raise_exception('no system role') }}"
    refused = {finding.code: finding for finding in template_findings(built, tokenizer)}["chat_template"]
    assert (refused.level, "no system role" in refused.reason) == ("error", True)


def test_answers_of_several_tokens_are_noted() -> None:
    options = ("yes it does", "no")
    built = probe_set(lambda i: Behavior(options[i % 2], options[i // 2 % 2]), n=40, options=options)
    (noted,) = [f for f in token_findings(built, embedded_tokenizer(), 4096) if f.code == "answer_tokens"]
    longest = len(embedded_tokenizer()("yes it does", add_special_tokens=False)["input_ids"])
    assert (noted.level, noted.value) == ("note", longest)
    (fine,) = [f for f in token_findings(small_probe_set(), embedded_tokenizer(), 4096) if f.code == "answer_tokens"]
    assert (fine.level, fine.value) == ("ok", 1)


def test_answers_that_cannot_be_told_apart_are_an_error() -> None:
    options = ("B", "B C")
    built = probe_set(lambda i: Behavior(options[i % 2], options[i // 2 % 2]), n=40, options=options)
    assert [f.level for f in token_findings(built, embedded_tokenizer(), 4096)] == ["error"]


def test_prompts_longer_than_the_window_are_counted() -> None:
    built = probe_set(n=40, question=lambda i: "word " * (200 if i < 3 else 2))
    (found,) = [f for f in token_findings(built, embedded_tokenizer(), 150) if f.code == "window"]
    assert (found.level, found.value) == ("error", 3)
    (fits,) = [f for f in token_findings(built, embedded_tokenizer(), 10_000) if f.code == "window"]
    assert (fits.level, fits.value) == ("ok", 0)


def test_labels_are_held_against_what_this_model_does() -> None:
    built, model, tokenizer = small_probe_set(), embedded_model(), embedded_tokenizer()
    lies = {
        probe.example.id: Explanation(not probe.behavior.explanation.changed, probe.behavior.ablated)
        for probe in built.probes
    }
    built = built.with_labels("lies", lies)
    honest = examine(built, Settings(parameters=1_100_000), model=model, tokenizer=tokenizer)
    found = {finding.code: (finding.level, finding.value) for finding in honest.findings}
    assert found["label_agreement_orig"] == ("ok", 1.0)
    assert found["label_agreement_lies"] == ("note", 0.0)
    lied = examine(built, Settings(supervision="lies"), model=model, tokenizer=tokenizer)
    assert {f.code: f.level for f in lied.findings}["label_agreement_lies"] == "error"
    assert not lied.can_work


def test_doctor_with_a_model_looks_at_everything(program: Program, tmp_path: Path) -> None:
    folder = small_probe_set(1000, 0.3).save(tmp_path / "probes")
    settings = ("--learning-rate", "1e-3", "--effect", "0.1")
    result = program("doctor", folder, "--model", MODEL_PATH, *settings)
    assert result.code == 0, result.out
    assert "Nothing was found that prevents it." in result.out
    assert "label_agreement_orig 100%" in " ".join(result.out.split())
    assert "--model" not in result.out


def test_a_judged_set_is_asked_freely_and_judged_anew(program: Program, tmp_path: Path) -> None:
    folder = refusal_probe_set().save(tmp_path / "probes")
    result = program("doctor", folder, "--model", refusing_folder(), "--json")
    found = {finding["code"]: finding for finding in json.loads(result.out)["findings"]}
    assert found["label_agreement_orig"]["value"] == 1
    assert found["window"]["level"] == "ok"
    assert "answer_tokens" not in found, "a free answer has as many tokens as it likes"
    assert "stays" in found["thin_direction"]["reason"] or "changes to" in found["thin_direction"]["reason"]
    assert result.code == 0, result.out


@cache
def faulty_set() -> ProbeSet:
    built = small_probe_set()
    probes = [replace(p, behavior=Behavior(p.behavior.ablated, p.behavior.ablated)) for p in built.probes]
    probes = [replace(p, labels={"orig": p.behavior.explanation}) for p in probes]
    return ProbeSet.from_probes(probes, task=built.task, style=built.style, tokenizer=embedded_tokenizer())


def warnings_of(folder: Path, caplog: pytest.LogCaptureFixture, probes: Any, **overrides: Any) -> list[str]:
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="introspection_probe"):
        callback = IntrospectionCallback(
            probes, db=str(folder / "h.db"), probe_at_start=False, probe_at_end=False, probe_every=100, **overrides
        )
        sft(folder, callbacks=[callback], max_steps=1).train()
    return [record.getMessage() for record in caplog.records if record.name == "introspection_probe"]


def test_train_begin_warns_once_of_each_fault_and_is_quiet_otherwise(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert warnings_of(tmp_path / "good", caplog, small_probe_set(1000, 0.3)) == []
    bad = warnings_of(tmp_path / "bad", caplog, faulty_set(), kl_weight=1e-4)
    assert sum("the paper finds no coupling under 0.005" in sentence for sentence in bad) == 1
    assert sum("the cue changes 0% of the answers" in sentence for sentence in bad) == 1
    assert len(bad) == len(set(bad))


def test_findings_at_train_begin_take_under_a_second_and_never_raise() -> None:
    built, model, tokenizer = small_probe_set(1000, 0.3), embedded_model(), embedded_tokenizer()
    began = time.process_time()
    found = train_begin_findings({"one": built}, Settings(kl_weight=0), model=model, tokenizer=tokenizer)
    assert time.process_time() - began < 1
    assert [finding.code for finding in found] == ["kl_weight"]
    broken = train_begin_findings({"one": built}, Settings(kl_weight=0), model=None, tokenizer=None)
    assert [finding.code for finding in broken] == ["kl_weight"]


def test_of_several_sets_a_warning_names_the_one_that_it_is_about() -> None:
    sets = {"good": small_probe_set(1000, 0.3), "bad": faulty_set(), "built": probe_set(good, n=40)}
    found = train_begin_findings(
        sets, Settings(), model=embedded_model(), tokenizer=embedded_tokenizer(), just_built=["built"]
    )
    assert {finding.reason.partition(":")[0] for finding in found if finding.code == "changed_share"} == {"bad"}
    assert not any(finding.reason.startswith("built: only") for finding in found)
