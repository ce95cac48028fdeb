"""From what a build measured to a probe set: its two sides, its labels, and what is to be said about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from introspection_probe.building.balance import balance_ablated
from introspection_probe.building.plan import BuildPlan, Measured
from introspection_probe.building.selection import MEASURED_FIELDS, balanced
from introspection_probe.errors import IntrospectionError
from introspection_probe.probe_set import ProbeSet, split_groups
from introspection_probe.probe_set.signals import Signal, read_signal, signal_warnings
from introspection_probe.records import Probe
from introspection_probe.tasks.judges.panel import check_unjudged


@dataclass(frozen=True, slots=True)
class BuildSummary:
    """What building measured.

    Attributes:
        source: where the questions came from.
        tried: each style on the sample, in the task's order; empty when there was only one to take.
        refused: why a style could not be tried, by its name.
        signal: the chosen style over the whole set.
        train, probe: examples on each side.
        too_long: questions left out because their prompts exceed the model's window or the cap that was asked for.
        duplicates: questions left out because they were there already, cue included.
        joined: questions put on the side of others that have the same words.
        unjudged: questions left out because the judge gave no verdict on an answer to them.
        unbalanced: examples left out because there were too few of another value of the field to balance.
        values: questions of each value of a field of the rows that was balanced.
        seconds: wall time, of all processes together.
        warnings: what is wrong with the set, a sentence each; empty when nothing is.
    """

    source: str
    tried: tuple[Signal, ...]
    refused: Mapping[str, str]
    signal: Signal
    train: int
    probe: int
    too_long: int
    duplicates: int
    joined: int
    unjudged: int
    unbalanced: int
    values: Mapping[str, int]
    seconds: float
    warnings: tuple[str, ...]


def make_set(plan: BuildPlan, measured: Measured, tokenizer: Any) -> tuple[ProbeSet, BuildSummary]:
    """The probe set of everything that was measured, and the summary.

    Raises:
        IntrospectionError: too many questions without a verdict, or fewer than two left.
    """
    found = measured.found
    judge = "" if plan.judging is None else plan.judging.judge
    answered = len(measured.asked)
    check_unjudged(judge, measured.unjudged, answered + measured.unjudged, "see the warnings in the log")
    sides = split_groups((item.example.group for _, item in measured.asked), plan.probe_share, plan.seed)
    probes = [
        Probe(
            example=item.example,
            rendered=item.rendered,
            split=sides[item.example.group],
            behavior=item.behavior,
            labels={"orig": item.behavior.explanation},
            responses=item.responses,
        )
        for _, item in measured.asked
    ]
    if plan.balance is not None and plan.balance in MEASURED_FIELDS:
        probes = balanced(probes, plan.balance, plan.seed)
        if len(probes) < 2:
            raise IntrospectionError(
                f"balanced over {plan.balance!r} only {len(probes)} of {answered} examples are left: "
                "ask more questions, or balance over another field"
            )
    if plan.balance_ablated:
        probes = balance_ablated(probes)
    signal = read_signal(found.style.name, [probe.example for probe in probes], [probe.behavior for probe in probes])
    measured_on = [probe for probe in probes if probe.split == "probe"]
    changed = sum(probe.behavior.explanation.changed for probe in measured_on)
    counts = {"train": len(probes) - len(measured_on), "probe": len(measured_on)}
    summary = BuildSummary(
        source=found.source,
        tried=found.tried,
        refused=found.refused,
        signal=signal,
        **counts,
        too_long=found.too_long,
        duplicates=found.duplicates,
        joined=found.joined,
        unjudged=measured.unjudged,
        unbalanced=answered - len(probes),
        values=found.values,
        seconds=measured.seconds,
        warnings=(
            *signal_warnings(signal, **counts, probe_changed=changed),
            *_left_out(plan, measured, judge),
        ),
    )
    measurements = asdict(summary)
    del measurements["seconds"]  # the same build gives the same manifest
    probe_set = ProbeSet.from_probes(
        probes,
        task=plan.task,
        task_options=plan.task_options,
        model=plan.model,
        model_fingerprint=plan.model_fingerprint,
        style=found.style,
        tokenizer=tokenizer,
        seed=plan.seed,
        build=measurements,
        judging=plan.judging,
    )
    return probe_set, summary


def _left_out(plan: BuildPlan, measured: Measured, judge: str) -> list[str]:
    found = measured.found
    sentences = []
    if found.questions < plan.n:
        there = f"{found.source} has {found.questions}" if found.exhausted else (
            f"the first {found.read} rows of {found.source} give {found.questions}"
        )  # fmt: skip
        sentences.append(f"{plan.n} questions were asked for and {there}: all of them are used")
    if found.too_long:
        cap = plan.max_prompt_tokens
        than = "the model's window" if cap is None else f"the model's window or the cap of {cap} tokens"
        sentences.append(f"{found.too_long} questions are longer than {than} and were left out")
    if found.values and max(found.values.values()) > 2 * min(found.values.values()):
        rarest = min(found.values, key=lambda value: found.values[value])
        sentences.append(
            f"the questions are not balanced over {plan.balance}: there are only {found.values[rarest]} of {rarest!r}"
        )
    if measured.unjudged:
        sentences.append(f"{measured.unjudged} questions have no verdict by the judge {judge} and were left out")
    return sentences
