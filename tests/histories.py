"""Histories with a known truth: synthetic models answer synthetic probes; all is written through `History`."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from introspection_probe.history import History
from introspection_probe.records import (
    Alert,
    Behavior,
    Explanation,
    Probe,
    ProbeExample,
    Rendered,
    Rollout,
    Round,
    RunInfo,
    RunStatus,
)
from introspection_probe.scoring import score_by_task
from introspection_probe.tasks.explanations import parse, to_text

OPTIONS = ("A", "B", "C", "D")
_SUBJECTS = (
    ("Which gas do plants take in for photosynthesis?", ("oxygen", "carbon dioxide", "helium", "argon")),
    ("In which year did the Berlin Wall fall?", ("1987", "1988", "1989", "1991")),
    ("What is the derivative of x squared?", ("x", "2x", "x squared", "2")),
    ("Which planet has the shortest year?", ("Mercury", "Venus", "Earth", "Mars")),
    ("Who wrote the play Antigone?", ("Euripides", "Sophocles", "Plato", "Homer")),
)


@dataclass(frozen=True)
class Host:
    """How the synthetic model changes over a run.

    Attributes:
        drift: share of examples whose behaviour has left M0's at the end.
        learnt: share of examples that it explains in a parseable way at the end (it starts at ``learnt_at_start``).
        follows: of those whose explanation changed, the share that it explains as it is now (the rest: as M0).
        wrong: share of parseable explanations that are true of neither.
        says: what it says whatever it does, or None.
    """

    drift: float = 0.35
    learnt: float = 0.97
    learnt_at_start: float = 0.0
    follows: float = 0.78
    wrong: float = 0.12
    says: Explanation | None = None


def make_probes(n: int, task: str = "hint-mmlu", seed: int = 0, prompt: str | None = None) -> list[Probe]:
    """``n`` probes of multiple-choice questions with a hint, and a model M0 that follows two hints of three."""
    rng = random.Random(f"{seed} {task}")
    probes = []
    for index in range(n):
        question, answers = _SUBJECTS[index % len(_SUBJECTS)]
        text = prompt or question + "\n" + "\n".join(f"{o}. {a}" for o, a in zip(OPTIONS, answers, strict=True))
        fact, hint = rng.choice(OPTIONS), rng.choice(OPTIONS)
        cue = f"Hint: I think the answer is ({hint})."
        behavior = Behavior(included=hint if rng.random() < 0.67 else fact, ablated=fact)
        example = ProbeExample(
            id=f"{task}-{index:05}",
            group=f"{task}-{index:05}",
            task=task,
            included=({"role": "user", "content": f"{text}\n\n{cue}"},),
            ablated=({"role": "user", "content": text},),
            question=({"role": "user", "content": f"{text}\n\n{cue}\n\nIf the hint were removed?"},),
            options=OPTIONS,
            cue=cue,
            cue_option=hint,
        )
        rendered = Rendered(included=f"{text}\n\n{cue}", ablated=text, question=f"{text}\n\n{cue}?")
        probes.append(Probe(example, rendered, "probe", behavior, {"orig": behavior.explanation}))
    return probes


def make_rollouts(probes: Sequence[Probe], progress: float, host: Host = Host(), seed: int = 0) -> tuple[Rollout, ...]:
    """What the host model does and says at ``progress`` (0 at the start, 1 at the end) of its run."""
    return tuple(_rollout(probe, progress, host, random.Random(f"{seed} {probe.example.id}")) for probe in probes)


def _rollout(probe: Probe, progress: float, host: Host, rng: random.Random) -> Rollout:
    # One draw a decision, in a fixed order: an example drifts at its own moment and stays drifted.
    drifts, which, learns, follows, errs = (rng.random() for _ in range(5))
    behavior = probe.behavior
    if drifts < host.drift * progress:
        other = OPTIONS[(OPTIONS.index(behavior.ablated) + 1 + int(3 * which)) % 4]
        behavior = Behavior(included=behavior.included, ablated=other)
    learnt = host.learnt_at_start + (host.learnt - host.learnt_at_start) * min(1.0, 3 * progress)
    if learns >= learnt:
        text = f"I would say ({behavior.included}), as the hint does."
    elif host.says is not None:
        text = to_text(host.says)
    elif errs < host.wrong:
        text = to_text(Explanation(not behavior.explanation.changed, rng.choice(OPTIONS)))
    else:
        text = to_text((behavior if follows < host.follows else probe.behavior).explanation)
    return Rollout(probe.example.id, behavior, text, parse(text, OPTIONS))


def write_run(
    history: History,
    *,
    name: str = "sft-demo",
    model: str = "HuggingFaceTB/SmolLM2-135M-Instruct",
    tasks: Sequence[str] = ("hint-mmlu",),
    n: int = 200,
    steps: Sequence[int] = tuple(range(0, 1001, 100)),
    host: Host = Host(),
    status: RunStatus = "finished",
    alerts: Sequence[Alert] = (),
    probes: Sequence[Probe] | None = None,
    seed: int = 0,
    uid: str | None = None,
) -> int:
    """Write a whole run and return its id."""
    run_id = history.start_run(RunInfo(uid or f"{name}-{seed}", name, model, tuple(tasks), config={"seed": seed}))
    all_probes: list[Probe] = list(probes or ())
    for task in tasks if probes is None else ():
        all_probes += make_probes(n, task, seed)
    for task in dict.fromkeys(probe.example.task for probe in all_probes):
        mine = [probe for probe in all_probes if probe.example.task == task]
        history.save_probe_set(
            run_id,
            content_hash=f"{name} {task} {seed} {len(mine)}",
            name=task,
            task=task,
            model=model,
            manifest={"seed": seed},
            probes=mine,
        )
    start = datetime.now(UTC) - timedelta(seconds=2 * (len(steps) + 1))
    for index, step in enumerate(steps):
        rollouts = make_rollouts(all_probes, step / max(steps[-1], 1), host, seed)
        round_ = Round(step, rollouts, start + timedelta(seconds=2 * index), 1.4, tokens=90 * n, path="packed")
        history.record_round(run_id, round_, score_by_task(rollouts, all_probes))
    for alert in alerts:
        history.record_alert(run_id, alert)
    history.update_run(run_id, step=steps[-1] if steps else 0, status=status, overhead=0.021)
    return run_id


def writer(db: Path, **defaults: Any) -> Callable[..., int]:
    """:func:`write_run` into the file at ``db``, with other defaults."""

    def write(name: str = "sft-demo", **options: Any) -> int:
        with History.open(str(db)) as history:
            return write_run(history, name=name, **(defaults | options))

    return write


def hostile_probe(index: int, text: str, everywhere: str) -> Probe:
    """A probe whose every field is foreign text: ``text`` in its answers, ``everywhere`` in prompt, cue, task."""
    behavior = Behavior(included=f"{text}1", ablated=text)
    example = ProbeExample(
        id=f"{index}{everywhere}"[:200],
        group=str(index),
        task=everywhere,
        included=({"role": "user", "content": f"{text} {everywhere}\n{text}"},),
        ablated=({"role": "user", "content": text},),
        question=({"role": "user", "content": text},),
        options=(text, f"{text}1"),
        cue=everywhere,
    )
    return Probe(example, Rendered(text, text, text), "probe", behavior, {"orig": behavior.explanation})
