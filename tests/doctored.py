"""Probe sets with a known behaviour, for the tests of the doctor."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from runs import embedded_tokenizer

from introspection_probe.probe_set import ProbeSet
from introspection_probe.records import Behavior, Explanation, Probe, ProbeExample, Rendered
from introspection_probe.tasks.base import PromptStyle

STYLE = PromptStyle("plain", "Hint: {option}", "")


def good(number: int) -> Behavior:
    """Half of the answers change, and all are equally usual."""
    ablated = "ABCD"[number % 4]
    return Behavior("ABCD"[(number + 1) % 4] if number // 4 % 2 else ablated, ablated)


def probe_set(
    behavior: Callable[[int], Behavior] = good,
    *,
    n: int = 1000,
    probe_share: float = 0.5,
    question: Callable[[int], str] | None = None,
    options: Sequence[str] = ("A", "B", "C", "D"),
    prompt: str = "{}",
    labels: Mapping[str, Callable[[int], Explanation]] | None = None,
    style: PromptStyle = STYLE,
    tokenizer: Any = None,
) -> ProbeSet:
    """A set of ``n`` examples, of which the first are the ``probe`` side."""
    rng = random.Random(0)
    words = ["".join(rng.choices("bdfglmnprst", k=6)) for _ in range(400)]
    probes = []
    for number in range(n):
        text = question(number) if question else " ".join(rng.choices(words, k=12))
        did = behavior(number)
        messages = ({"role": "user", "content": text},)
        probes.append(
            Probe(
                example=ProbeExample(
                    f"q{number}", f"g{number}", "made", messages, messages, messages, tuple(options), "hint", "A"
                ),
                rendered=Rendered(*[prompt.format(text)] * 3),
                split="probe" if number < probe_share * n else "train",
                behavior=did,
                labels={"orig": did.explanation, **{name: of(number) for name, of in (labels or {}).items()}},
            )
        )
    return ProbeSet.from_probes(probes, task="made", style=style, tokenizer=tokenizer or embedded_tokenizer())
