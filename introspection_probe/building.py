"""Build a probe set: ask M0, keep its behaviour, and say whether there is a signal in it.

Whether a model follows a cue depends on the wording of the prompt far more than on the question: one model
answers "C" to 99% of them in one style and is swayed by half of the cues in another. So each style of the task is
tried on the same questions with the same cues, and the liveliest (``signals.Signal.liveliness``) is used.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

from torch import nn

from introspection_probe.asking import Asked, Meter, Progress, ask, questions, window
from introspection_probe.endpoint import Interview
from introspection_probe.errors import IntrospectionError
from introspection_probe.models import model_fingerprint
from introspection_probe.probe_set import ProbeSet, check_share, split_groups
from introspection_probe.records import Probe
from introspection_probe.signals import Signal, read_signal, signal_warnings
from introspection_probe.tasks.base import PromptStyle, Task

STYLE_SAMPLE = 48
"""Questions that each style is tried on: a share is then known to 14 points, enough to tell styles apart."""


@dataclass(frozen=True, slots=True)
class BuildSummary:
    """What building measured.

    Attributes:
        source: where the questions came from.
        tried: each style on the sample, in the task's order; empty when there was only one to take.
        refused: why a style could not be tried, by its name.
        signal: the chosen style over the whole set.
        train, probe: examples on each side.
        too_long: questions left out because their prompts exceed the model's window.
        seconds: wall time.
        warnings: what is wrong with the set, a sentence each; empty when nothing is.
    """

    source: str
    tried: tuple[Signal, ...]
    refused: Mapping[str, str]
    signal: Signal
    train: int
    probe: int
    too_long: int
    seconds: float
    warnings: tuple[str, ...]


def build_probe_set(
    task: Task,
    model: nn.Module | Interview,
    tokenizer: Any,
    *,
    n: int = 1000,
    probe_share: float = 0.3,
    seed: int = 0,
    style: str | None = None,
    style_sample: int = STYLE_SAMPLE,
    model_name: str | None = None,
    task_options: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> tuple[ProbeSet, BuildSummary]:
    """A probe set of M0's behaviour on the task's first ``n`` questions, and what was measured on the way.

    The same arguments give the same set: which option a cue names is drawn from the seed and the question's
    place, so that every style is tried with the same cues.

    Args:
        model: M0: a loaded model, or one behind an endpoint; ``tokenizer`` has to be its own either way.
        n: questions to take; all of them where the task has fewer.
        probe_share: share of the questions that are measured on and never trained on, split by group.
        style: a style's name; default: the one with the largest liveliness on the sample.
        style_sample: questions that each style is tried on.
        model_name: for the manifest; default: where the model says it was loaded from.
        task_options: the options that the task was made with, for the manifest.

    Raises:
        IntrospectionError: unknown style, no style that the tokenizer can express, too few questions.
    """
    started = time.monotonic()
    rows = list(islice(task.rows(seed), max(n, 0)))
    if len(rows) < 2:
        raise IntrospectionError(f"{len(rows)} questions cannot be split: ask for 2 or more")
    check_share(probe_share)
    styles = _candidates(task, style)
    numbered = list(enumerate(rows))
    sample = numbered[:style_sample] if len(styles) > 1 else []
    meter = Meter(progress, len(styles) * len(sample) + len(rows) - len(sample))

    def interview(candidate: PromptStyle, some: Sequence[tuple[int, Mapping[str, Any]]]) -> list[Asked]:
        if not some:
            return []
        made = questions(task, tokenizer, seed, candidate, some)
        fitting = [question for question in made if question.tokens <= window(model)]
        if not fitting:
            raise IntrospectionError(
                f"none of {len(some)} questions fits the model's window of {window(model)} tokens: "
                "use shorter questions"
            )
        advance = meter.label(candidate.name)
        meter.skip(len(some) - len(fitting))
        return ask(task, model, tokenizer, candidate, fitting, progress=advance)

    trials: list[tuple[PromptStyle, list[Asked]]] = []
    refused: dict[str, str] = {}
    for candidate in styles if sample else ():
        try:
            trials.append((candidate, interview(candidate, sample)))
        except IntrospectionError as error:
            meter.skip(len(sample))
            refused[candidate.name] = str(error)
    if sample and not trials:
        raise IntrospectionError(f"no prompt style fits this model: {next(iter(refused.values()))}")
    tried = [_signal(candidate, asked) for candidate, asked in trials]
    # index(max()) takes the first of equals, and a task names its most usual style first.
    best = tried.index(max(tried, key=lambda signal: signal.liveliness)) if tried else 0
    chosen, asked = trials[best] if trials else (styles[0], [])
    asked += interview(chosen, numbered[len(sample) :])

    sides = split_groups((item.example.group for item in asked), probe_share, seed)
    probes = [
        Probe(
            example=item.example,
            rendered=item.rendered,
            split=sides[item.example.group],
            behavior=item.behavior,
            labels={"orig": item.behavior.explanation},
        )
        for item in asked
    ]
    signal = _signal(chosen, asked)
    measured = [probe for probe in probes if probe.split == "probe"]
    changed = sum(probe.behavior.explanation.changed for probe in measured)
    counts = {"train": len(probes) - len(measured), "probe": len(measured)}
    warnings = signal_warnings(signal, **counts, probe_changed=changed)
    if len(rows) < n:
        warnings.append(f"{n} questions were asked for and {task.source} has {len(rows)}: all of them are used")
    too_long = len(rows) - len(asked)
    if too_long:
        warnings.append(f"{too_long} questions are longer than the model's window and were left out")
    summary = BuildSummary(
        source=task.source,
        tried=tuple(tried),
        refused=refused,
        signal=signal,
        **counts,
        too_long=too_long,
        seconds=time.monotonic() - started,
        warnings=tuple(warnings),
    )
    measurements = asdict(summary)
    del measurements["seconds"]  # the same build gives the same manifest
    probe_set = ProbeSet.from_probes(
        probes,
        task=task.name,
        task_options=task_options,
        model=model_name or str(model.model if isinstance(model, Interview) else model.name_or_path),
        model_fingerprint="" if isinstance(model, Interview) else model_fingerprint(model),
        style=chosen,
        tokenizer=tokenizer,
        seed=seed,
        build=measurements,
    )
    return probe_set, summary


def _candidates(task: Task, style: str | None) -> list[PromptStyle]:
    styles = list(task.styles())
    if style is None:
        return styles
    named = [candidate for candidate in styles if candidate.name == style]
    if not named:
        names = ", ".join(candidate.name for candidate in styles)
        raise IntrospectionError(f"task {task.name!r} has no prompt style {style!r}: choose one of {names}")
    return named


def _signal(style: PromptStyle, asked: Sequence[Asked]) -> Signal:
    return read_signal(style.name, [item.example for item in asked], [item.behavior for item in asked])
