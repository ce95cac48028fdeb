"""Labels of another model than M0: the explanations of its behaviour on a probe set's questions. Needs torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from introspection_probe.building.asking import Question, window
from introspection_probe.errors import IntrospectionError
from introspection_probe.probe_set import ProbeSet
from introspection_probe.records import Explanation
from introspection_probe.rollout import encode_probes, measure_behaviors, render


def labels_of_model(
    probe_set: ProbeSet, model: nn.Module, tokenizer: Any, *, progress: Callable[[int], None] | None = None
) -> dict[str, Explanation]:
    """The explanation of the model's own behaviour on every example, by example id.

    The messages are rendered anew with the model's own chat template, in the set's prompt style.

    Args:
        progress: called with the number of examples finished since the last call.

    Raises:
        IntrospectionError: a question that does not fit into the model's window, a style that its tokenizer cannot
            express, or answers without a verdict: a label set has to label every example.
    """
    examples = [probe.example for probe in probe_set.probes]
    style = probe_set.style
    rendered = [render(tokenizer, example, style) for example in examples]
    encoded = encode_probes(
        tokenizer, examples, rendered, answer_prefix=style.answer_prefix, judging=probe_set.manifest.judging
    )
    for number, item in enumerate(zip(examples, rendered, encoded, strict=True)):
        tokens = Question(number, *item).tokens
        if tokens > window(model):
            raise IntrospectionError(
                f"example {item[0].id!r} has {tokens} tokens, and the model's window is {window(model):.0f}: "
                "build a probe set with a smaller --max-prompt-tokens"
            )
    observed = measure_behaviors(model, tokenizer, encoded, progress=progress)
    labels = {
        example.id: item.behavior.explanation
        for example, item in zip(examples, observed, strict=True)
        if item.behavior is not None
    }
    if len(labels) < len(examples):
        raise IntrospectionError(
            f"{len(examples) - len(labels)} of {len(examples)} examples have no verdict by the judge, and every "
            "example needs a label: see that the judge can be reached, and try again"
        )
    return labels
