"""What a model does with a probe set, against what the labels say. Needs torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from introspection_probe.doctor.behavior import agreement_finding
from introspection_probe.findings import Finding
from introspection_probe.probe_set import ProbeSet
from introspection_probe.records import Probe
from introspection_probe.rollout import encode_set, measure_behaviors

SAMPLE = 200
"""Examples that are asked: an agreement of 0.7 is then known to 6 points."""


def asked_of(probe_set: ProbeSet) -> tuple[Probe, ...]:
    """The examples that a model is asked: evenly spaced, at most :data:`SAMPLE`."""
    return probe_set.probes[:: -(-len(probe_set.probes) // SAMPLE)]


def model_findings(
    probe_set: ProbeSet,
    model: nn.Module,
    tokenizer: Any,
    *,
    supervision: str,
    progress: Callable[[int], None] | None = None,
) -> list[Finding]:
    """How much of each label set is true of this model, on the examples of :func:`asked_of`.

    Args:
        supervision: name of the label set that is trained on.
        progress: called with the number of examples finished since the last call.
    """
    asked = asked_of(probe_set)
    encoded = encode_set(tokenizer, probe_set, asked)
    observed = measure_behaviors(model, tokenizer, encoded, progress=progress)
    known = [(probe, did.behavior) for probe, did in zip(asked, observed, strict=True) if did.behavior is not None]
    if not known:
        reason = "no judge gave a verdict on this model's answers, so whether labels fit it is not known"
        return [Finding("warning", "label_agreement_orig", "not measured", "", reason, "look at the judge")]
    return [
        agreement_finding(
            name,
            sum(probe.labels[name] == behavior.explanation for probe, behavior in known),
            len(known),
            "this model",
            used=name == supervision,
        )
        for name in probe_set.label_sets
    ]
